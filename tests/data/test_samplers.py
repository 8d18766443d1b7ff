"""Samplers: what is skipped is not loaded, epochs are functions of the seed, and a saved run goes on."""

import pytest
import torch
from torch.utils.data import DataLoader

import puresift as ps
from puresift import tables
from tests import laws
from tests.laws import DRAWS
from tests.strategies import cross_entropy, net

SIZE = 40


class Counted:
    """A dataset that notes what is read from it."""

    def __init__(self, size=SIZE):
        self.size, self.read = size, []

    def __len__(self):
        return self.size

    def __getitem__(self, id):
        self.read.append(id)
        return {"x": torch.tensor(float(id))}


def spread(size=SIZE):
    """One loss a sample, the larger the higher its id."""
    return torch.arange(size) / size


def test_infobatch_leaves_out_below_the_mean_and_rescales():
    sampler = ps.infobatch(4000, epochs=8, ratio=0.25)
    assert sorted(sampler) == list(range(4000))
    sampler.observe(torch.arange(4000), spread(4000))
    sampler.set_epoch(1)
    chosen = torch.tensor(list(sampler))
    below = chosen[spread(4000)[chosen] < spread(4000).mean()]
    assert len(chosen) - len(below) == 2000, "above the mean, everything stays"
    assert abs(len(below) / 2000 - 0.75) < 0.05
    assert torch.equal(sampler.weights(below), torch.full((len(below),), 1 / 0.75))
    assert float(sampler.weights(chosen).sum()) == pytest.approx(4000, rel=0.02), (
        "the expected gradient is the full one"
    )
    assert len(sampler) == len(chosen)


def test_infobatch_takes_everything_at_the_end_and_everything_unknown():
    sampler = ps.infobatch(SIZE, epochs=8, anneal=0.875)
    sampler.observe(torch.arange(10), torch.arange(10.0))
    sampler.set_epoch(6)
    assert set(range(10, SIZE)) <= set(sampler)
    assert len(sampler) < SIZE
    sampler.set_epoch(7)
    assert len(sampler) == SIZE
    assert bool((sampler.weights(torch.arange(SIZE)) == 1).all())


def test_infobatch_is_the_formula_in_expectation():
    """Each sample's mean weight over many seeds is 1: dropped with probability r, else 1 / (1 - r)."""
    mean = torch.zeros(SIZE)
    for seed in range(400):
        sampler = ps.infobatch(SIZE, epochs=4, seed=seed)
        sampler.observe(torch.arange(SIZE), spread())
        list(sampler)
        mean += sampler.weights(torch.arange(SIZE)) / 400
    assert bool(((mean - 1).abs() < 4.5 / 20).all())


def test_what_is_observed_meanwhile_counts_in_the_next_epoch():
    sampler = ps.infobatch(SIZE, epochs=4)
    assert len(sampler) == SIZE
    sampler.observe(torch.arange(SIZE), spread())
    assert len(sampler) == SIZE
    assert len(list(sampler)) == SIZE


@pytest.mark.parametrize("draw", DRAWS)
def test_the_skipping_sampler_loads_nothing_that_it_skips(draw):
    losses = spread()
    losses[::10] = torch.nan
    dataset = Counted()
    numbered = ps.with_ids(dataset)
    sampler = ps.skipping(
        ps.relative(keep=0.5, history=SIZE), lambda: losses, size=SIZE, epochs=9, every=3, draw=DRAWS[draw]
    )
    loader = DataLoader(numbered, 8, sampler=sampler, collate_fn=numbered.collate)
    for epoch in range(9):
        dataset.read.clear()
        sampler.set_epoch(epoch)
        ids = torch.cat([batch["id"] for batch in loader]).tolist()
        assert sorted(dataset.read) == sorted(ids)
        assert len(set(ids)) == len(ids) == len(sampler) < SIZE
        assert set(range(0, SIZE, 10)) <= set(ids), "what is unknown is loaded"


def test_the_skipping_sampler_skips_nothing_for_longer_than_every():
    losses, skipped = spread(), torch.zeros(SIZE)
    sampler = ps.skipping(ps.top(keep=0.25), lambda: losses, size=SIZE, epochs=12, every=3)
    lengths = []
    for epoch in range(12):
        sampler.set_epoch(epoch)
        chosen = torch.tensor(list(sampler))
        skipped = (skipped + 1).index_fill(0, chosen, 0)
        assert int(skipped.max()) <= 3
        lengths.append(len(chosen))
    assert min(lengths) == SIZE // 4


def test_the_skipping_sampler_reads_the_last_writes_of_a_large_table(monkeypatch):
    monkeypatch.setattr(tables, "LARGE", 4)
    losses = tables.write(tables.table(torch.zeros(8)), torch.tensor([3, 5]), torch.tensor([9.0, 8.0]))
    assert sorted(ps.skipping(ps.top(keep=0.25), lambda: losses, size=8, epochs=2, every=8)) == [3, 5]


def test_the_skipping_sampler_reads_the_table_of_a_stream():
    model = torch.nn.Linear(1, 1)
    dataset = Counted()
    numbered = ps.with_ids(dataset)

    def loss(model, batch):
        return (model(batch["x"][:, None])[:, 0] - batch["x"]).square()

    score = ps.remembered(ps.batched(model, loss), SIZE, every=2)
    sifter = ps.sifter(score, ps.uniform(keep=1.0), batch_size=8)
    sampler = ps.skipping(ps.top(keep=0.5), lambda: stream.state.score.losses, size=SIZE, epochs=4, every=2)
    loader = DataLoader(numbered, 8, sampler=sampler, collate_fn=numbered.collate)
    first = ps.peek(DataLoader(numbered, 8, collate_fn=numbered.collate))
    stream = ps.sift(sifter, sifter.init(ps.key(0), first), ps.live(model), ps.epochs(loader, 4))
    dataset.read.clear()
    for batch, _, _, _ in stream:
        stream.observe(loss(model, batch))
    assert len(dataset.read) == int(sampler.state_dict()["lengths"].sum()) < 4 * SIZE


def test_rs2_repeats_nothing_before_all_were_seen():
    sampler = ps.rs2(SIZE, keep=0.3, epochs=20)
    seen, orders = torch.zeros(SIZE), set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        ids = list(sampler)
        assert len(set(ids)) == len(ids) == len(sampler) == 12
        seen += torch.zeros(SIZE).index_fill(0, torch.tensor(ids), 1)
        assert float(seen.max() - seen.min()) <= 1
        orders.add(tuple(ids))
    assert len(orders) == 20


def test_rs2_needs_no_state_to_find_its_epoch():
    one, other = ps.rs2(SIZE, keep=0.3, epochs=9, seed=4), ps.rs2(SIZE, keep=0.3, epochs=9, seed=4)
    for epoch in range(7):
        one.set_epoch(epoch)
        last = list(one)
    other.set_epoch(6)
    assert list(other) == last
    assert list(ps.rs2(SIZE, keep=0.3, epochs=9, seed=5)) != list(ps.rs2(SIZE, keep=0.3, epochs=9, seed=4))


MAKERS = {
    "infobatch": lambda: ps.infobatch(SIZE, epochs=4, seed=2),
    "rs2": lambda: ps.rs2(SIZE, keep=0.5, epochs=4, seed=2),
    "skipping": lambda: ps.skipping(ps.top(keep=0.6), spread, size=SIZE, epochs=4, every=2, seed=2),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_sampler_is_a_function_of_seed_epoch_and_losses(name):
    runs, rng = [], torch.get_rng_state()
    for _ in range(2):
        sampler, run = MAKERS[name](), []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            run.append(list(sampler))
            if hasattr(sampler, "observe"):
                sampler.observe(torch.tensor(run[-1]), torch.tensor(run[-1]) / SIZE)
        runs.append(run)
    assert runs[0] == runs[1]
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("name", MAKERS)
def test_a_stream_over_a_sampler_resumes_at_every_step(name):
    """The sampler's state is saved beside the stream's."""
    model, x = net(), ps.keys.uniform(ps.key(8), SIZE * 4).reshape(SIZE, 4)
    numbered = ps.with_ids(torch.utils.data.TensorDataset(x, torch.arange(SIZE) % 3))
    score = ps.remembered(ps.batched(model, cross_entropy), SIZE, every=2, id=laws.last)
    sifter = ps.sifter(score, ps.relative(keep=0.6), batch_size=4)
    template = sifter.init(ps.key(0), ps.peek(DataLoader(numbered, 8, collate_fn=numbered.collate)))

    def run(state, saved):
        sampler = MAKERS[name]()
        if saved is not None:
            sampler.load_state_dict(saved)
        loader = DataLoader(numbered, 8, sampler=sampler, collate_fn=numbered.collate)
        stream = ps.sift(sifter, state, ps.live(model), ps.epochs(loader, 4))
        for sifted in stream:
            losses = sifted.batch[0].square().mean(1)  # stands for a training loss
            stream.observe(losses)
            if hasattr(sampler, "observe"):
                sampler.observe(sifted.batch[-1], losses)
            yield sifted, stream.state, sampler.state_dict()

    whole = list(run(template, None))
    assert len(whole) > 8
    for place, (_, state, saved) in enumerate(whole):
        assert laws.equal(list(run(state, saved)), whole[place + 1 :])


def test_a_past_epoch_is_refused():
    sampler = ps.rs2(SIZE, keep=0.5, epochs=4)
    sampler.set_epoch(2)
    list(sampler)
    sampler.set_epoch(1)
    assert len(sampler) == SIZE // 2
    with pytest.raises(ValueError, match="epoch 1 is over, and its plan is gone; go on with 2"):
        list(sampler)


def skip(**changes):
    return ps.skipping(ps.top(keep=0.5), lambda: torch.zeros(3), **{"size": 4, "epochs": 2, "every": 1, **changes})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ps.infobatch(0, epochs=1), "size must be a whole number >= 1"),
        (lambda: ps.infobatch(4, epochs=0), "epochs must be a whole number >= 1"),
        (lambda: ps.infobatch(4, epochs=1, ratio=1.0), r"ratio must be in \(0, 1\), got 1.0"),
        (lambda: ps.infobatch(4, epochs=1, anneal=0.0), r"anneal must be in \(0, 1\]"),
        (lambda: ps.infobatch(4, epochs=1, seed=-1), "seed must be a whole number"),
        (lambda: ps.infobatch(4, epochs=1).set_epoch(1), r"epoch must lie in \[0, 1\), got 1; pass .* more epochs="),
        (lambda: ps.infobatch(4, epochs=1).observe(torch.tensor([4]), torch.zeros(1)), r"ids must lie in \[0, 4\)"),
        (lambda: ps.infobatch(4, epochs=1).observe(torch.tensor([1]), torch.zeros(2)), "one loss an id"),
        (lambda: ps.rs2(4, keep=1.5, epochs=1), r"keep must be in \(0, 1\]"),
        (lambda: skip(every=0), "every must be a whole number >= 1"),
        (lambda: list(skip()), r"the table must have shape \[4\], one loss a sample, got \[3\]"),
        (
            lambda: ps.rs2(4, keep=0.5, epochs=1).load_state_dict(ps.rs2(5, keep=0.5, epochs=1).state_dict()),
            "build it with the same size and epochs",
        ),
        (lambda: ps.with_ids(iter([1, 2])), "ids number the items of a map-style dataset, and a list_iterator has no"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("workers", [0, 1])
def test_ids_are_added_to_any_batch(workers):
    x = torch.arange(6.0)
    for items, check in [
        ([{"x": v} for v in x], lambda batch: (batch["x"], batch["id"])),
        ([(v, -v) for v in x], lambda batch: (-batch[1], batch[2])),
        (list(x), lambda batch: batch),
        (torch.utils.data.TensorDataset(x), lambda batch: batch),
    ]:
        dataset = ps.with_ids(items)
        loader = DataLoader(dataset, 4, sampler=[5, 0, 3, 1, 2, 4], collate_fn=dataset.collate, num_workers=workers)
        for batch in loader:
            values, ids = check(batch)
            assert torch.equal(values, ids.float())


def test_the_users_collate_sees_its_own_items():
    seen = []

    def collate(items):
        seen.extend(items)
        return {"joined": "".join(items), "length": torch.tensor([len(item) for item in items])}

    dataset = ps.with_ids(["a", "bb", "ccc"], collate)
    batch = next(iter(DataLoader(dataset, 2, collate_fn=dataset.collate)))
    assert seen == ["a", "bb"]
    assert batch.keys() == {"joined", "length", "id"}
    assert dataset[-1].id == 2


def test_a_dataset_is_told_its_epoch_and_asked_for_many_items_at_once():
    class Batched(Counted):
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __getitems__(self, ids):
            self.read.append(list(ids))
            return [float(id) for id in ids]

    inner = Batched()
    dataset = ps.with_ids(inner)
    loader = DataLoader(dataset, SIZE, collate_fn=dataset.collate)
    list(ps.epochs(loader, 2))
    assert inner.epoch == 1
    assert inner.read == [list(range(SIZE))] * 2


def test_a_batch_with_ids_of_its_own_is_refused():
    dataset = ps.with_ids([{"id": 3}])
    with pytest.raises(ValueError, match='the batch has an "id" already; use that one'):
        dataset.collate([dataset[0]])
