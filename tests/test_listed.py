"""Rows that are dicts and lists of tensors of any shape: read, scored, kept, saved and handed out whole."""

import pytest
import torch

import puresift as ps
from puresift import listed, trees
from tests import laws


def sample(row):
    g = torch.Generator().manual_seed(row)
    boxes = int(torch.randint(0, 4, (), generator=g))
    target = {"boxes": torch.rand(boxes, 4, generator=g), "labels": torch.full((boxes,), row), "image_id": row}
    return torch.full((1, 4, 4), float(row)), {**target, "file": f"{row}.jpg", "crowd": [None, row > 3]}


COLLATES = {
    "tuples": lambda rows: tuple(zip(*rows, strict=True)),
    "stacked": lambda rows: (torch.stack([image for image, _ in rows]), [target for _, target in rows]),
    "in a dict": lambda rows: {"image": torch.stack([r[0] for r in rows]), "targets": [r[1] for r in rows]},
    "rows": list,
    "dicts": lambda rows: [{"image": image, **target} for image, target in rows],
    "boxes alone": lambda rows: {
        "id": torch.tensor([t["image_id"] for _, t in rows]),
        "b": [t["boxes"] for _, t in rows],
    },
}


def ids(batch):
    if isinstance(batch, dict):
        return batch["id"].tolist() if "id" in batch else [target["image_id"] for target in batch["targets"]]
    if isinstance(batch, tuple):
        return [target["image_id"] for target in batch[1]]
    return [row["image_id"] if isinstance(row, dict) else row[1]["image_id"] for row in batch]


def intact(batch, collate):
    """Whether the batch is what the collate function would have made of its rows."""
    expected = collate([sample(row) for row in ids(batch)])
    return laws.equal(*(torch.utils._pytree.tree_flatten(_listed(part))[0] for part in (batch, expected)))


def _listed(part):
    return list(part) if isinstance(part, list) else part


@pytest.mark.parametrize("kind", COLLATES)
def test_ragged_rows_pass_through_whole_and_resume_at_every_batch(kind, tmp_path):
    collate = COLLATES[kind]
    loader = torch.utils.data.DataLoader([sample(row) for row in range(40)], 8, collate_fn=collate)
    scored = []

    def score(params, batch):
        assert trees.batch_size(batch) == 8
        scored.append(ids(batch))
        return torch.tensor([float(row * 37 % 40) for row in ids(batch)])

    sifter = ps.sifter(score, ps.top(keep=0.5), batch_size=6)
    begin = sifter.init(ps.key(0), ps.peek(loader))
    kept = []
    for number, (batch, _, state, _) in enumerate(ps.sift(sifter, begin, {}, loader)):
        assert intact(batch, collate)
        kept.append(ids(batch))
        torch.save(ps.state_dict(state), tmp_path / f"{number}.pt")
    pools = [sorted(sorted(pool, key=lambda row: row * 37 % 40)[4:]) for pool in scored]
    assert sum(kept, []) == sum(pools, [])[: len(sum(kept, []))]
    for number in range(len(kept) - 1):
        state = ps.load_state_dict(begin, torch.load(tmp_path / f"{number}.pt", weights_only=True))
        again = list(ps.sift(sifter, state, {}, loader))
        assert [ids(rest.batch) for rest in again] == kept[number + 1 :]
        assert all(intact(rest.batch, collate) for rest in again)


def test_a_state_of_ragged_rows_owns_its_rows_alone():
    """Loading does not touch the saved state, and two states loaded from it do not share rows."""
    loader = [COLLATES["stacked"]([sample(row) for row in range(8)])]
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=16)
    state = sifter.init(ps.key(0), loader[0])
    flat = ps.state_dict(sifter.step(state, None, loader[0])[0])
    one, other = (ps.load_state_dict(state, flat) for _ in range(2))
    (rows,) = (batch for batch, _ in sifter.flush(one)[1])
    rows[1][3]["labels"].zero_()
    (rows,) = (batch for batch, _ in sifter.flush(other)[1])
    assert intact(rows, COLLATES["stacked"])


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ([torch.zeros(3, 2), torch.zeros(3, 2)], 3),  # a list of columns, as default_collate gives
        ([torch.zeros(2, 2), torch.zeros(2, 2)], 2),
        ((torch.zeros(3, 2), [torch.zeros(3), torch.ones(3)]), 3),
        ([{"a": torch.zeros(4)}, {"a": torch.zeros(4)}], 4),
        ((torch.zeros(2, 2), [torch.zeros(3), torch.zeros(1)]), 2),  # and lists of rows
        ([torch.zeros(3), torch.zeros(1)], 2),
        ({"a": [torch.tensor(1), torch.tensor(2), torch.tensor(3)]}, 3),
        ((torch.zeros(2, 2), [{"a": torch.zeros(3)}, {"a": torch.tensor([])}]), 2),
    ],
)
def test_a_list_is_one_of_rows_only_where_it_cannot_be_one_of_columns(batch, rows):
    assert trees.batch_size(trees.plain(batch)) == rows
    assert trees.batch_size(trees.plain(trees.plain(batch))) == rows


def test_later_batches_are_read_as_the_first_one_was():
    """Where a batch of one image with one box could be read in two ways."""
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=3)
    first = (torch.zeros(2, 2), [{"a": torch.zeros(3, 1)}, {"a": torch.zeros(1, 1)}])
    state = sifter.init(ps.key(0), first)
    state, _ = sifter.step(state, None, first)
    state, _ = sifter.step(state, None, (torch.ones(1, 2), [{"a": torch.ones(1, 1)}]))
    _, (batch, _) = sifter.take(state)
    assert [len(row["a"]) for row in batch[1]] == [3, 1, 1]


def test_a_score_that_writes_to_a_ragged_row_is_refused():
    def score(params, batch):
        batch[1][2]["boxes"].mul_(0.5)
        return torch.zeros(8)

    batch = COLLATES["stacked"]([sample(row) for row in range(8)])
    sifter = ps.sifter(score, ps.top(keep=0.5), batch_size=4)
    with pytest.raises(ps.SiftError, match="writes to its input, leaf '1/2/boxes'"):
        sifter.step(sifter.init(ps.key(0), batch), {}, batch)


def test_rows_of_what_cannot_be_saved_are_refused_when_saved():
    batch = (torch.zeros(2, 1), [{"a": torch.zeros(3), "of": object()}, {"a": torch.zeros(1), "of": object()}])
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=4)
    state, _ = sifter.step(sifter.init(ps.key(0), batch), None, batch)
    with pytest.raises(ps.SiftError, match=r"a row holds a object: .* carry an id tensor"):
        ps.state_dict(state)


def test_rows_move_to_the_device_of_the_parameters():
    rows = trees.plain(COLLATES["stacked"]([sample(row) for row in range(3)]))
    there = trees.to(rows, torch.device("meta"))
    assert {tensor.device.type for _, tensor in listed.tensors(there[1])} == {"meta"}
    assert torch.equal(there[1].numbers, rows[1].numbers) and trees.to(rows, torch.device("cpu"))[1] is rows[1]


def ragged(kind):
    return torch.utils.data.DataLoader([sample(row) for row in range(40)], 8, collate_fn=COLLATES[kind])


def by_id(params, batch):
    return torch.tensor([float(row * 37 % 40) for row in ids(batch)])


def looped(kind):
    """The ids that the plain loop keeps, a list a batch."""
    sifter = ps.sifter(by_id, ps.top(keep=0.5), batch_size=5)
    state = sifter.init(ps.key(0), ps.peek(ragged(kind)))
    return [ids(batch) for batch, *_ in ps.sift(sifter, state, {}, ragged(kind))]


@pytest.mark.parametrize("kind", ["tuples", "stacked", "in a dict"])
def test_accelerate_takes_ragged_rows(kind):
    accelerate = pytest.importorskip("accelerate")
    from puresift.integrations.accelerate import sifting

    loader = accelerate.Accelerator(cpu=True).prepare(ragged(kind))
    sifted = sifting(accelerate.Accelerator(cpu=True), loader, by_id, ps.top(keep=0.5), params={}, batch_size=5)
    batches, saved = [], None
    for number, batch in enumerate(sifted):
        assert intact(batch, COLLATES[kind])
        batches.append(ids(batch))
        saved = sifted.state_dict() if number == 1 else saved
    assert batches == looped(kind)
    sifted.load_state_dict(saved)
    assert [ids(batch) for batch in sifted] == batches[2:]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("kind", ["tuples", "stacked", "in a dict", "dicts"])
def test_lightning_takes_ragged_rows(kind, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from puresift.integrations.lightning import SiftingCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

        def training_step(self, batch, batch_idx):
            batch = tuple(batch) if kind in ("tuples", "stacked") else batch  # lists, as from Lightning's own loaders
            assert intact(batch, COLLATES[kind])
            self.seen.append(ids(batch))
            return self.weight.square()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(path=None):
        module, callback = Module(), SiftingCallback(by_id, ps.top(keep=0.5), batch_size=5)
        saver = lightning.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
        quiet = ("logger", "enable_progress_bar", "enable_model_summary")
        settings = {"accelerator": "cpu", "max_epochs": 1, **dict.fromkeys(quiet, False)}
        trainer = lightning.Trainer(callbacks=[callback, saver], **settings)
        trainer.fit(module, callback.wrap(ragged(kind)), ckpt_path=path, weights_only=True)
        return module.seen

    whole = fit()
    assert whole == looped(kind)
    assert fit(next(tmp_path.glob("*step=2*"))) == whole[2:]


def test_ranks_that_save_together_refuse_ragged_rows():
    from puresift.integrations.lightning import refuse

    sifter = ps.sifter(by_id, ps.top(keep=0.5), batch_size=5)
    with pytest.raises(ps.SiftError, match="have other shapes on each rank"):
        refuse.listed(ps.state_dict(sifter.init(ps.key(0), ps.peek(ragged("stacked")))))
