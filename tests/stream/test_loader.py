"""A loader in place of a loader: the stream's batches, its weights, its place, and what it refuses."""

import io

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import puresift as ps
from puresift.stream.weights import Handout
from tests import laws
from tests.strategies import cross_entropy, data, loader, net

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata, on torch 2.13

MODEL = net()
SCORE = ps.batched(MODEL, cross_entropy)
IMPORTANCE = ps.importance(keep=0.5)


def build(pools=None, rule=None, **settings):
    settings = {"params": ps.live(MODEL), "batch_size": 8, **settings}
    return ps.SiftingDataLoader(
        loader() if pools is None else pools, SCORE, rule or ps.relative(keep=0.5, history=64), **settings
    )


class Numbers(IterableDataset):
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rows = data(96)
        yield from (rows[row] for row in range(96) if worker is None or row % worker.num_workers == worker.id)


def shuffled(kind=DataLoader, **settings):
    return lambda: kind(data(96), 16, shuffle=True, **settings)


def hugging(shards):
    datasets = pytest.importorskip("datasets")
    x, y = data(96).tensors
    return (
        datasets.Dataset.from_dict({"x": x.tolist(), "y": y.tolist()}).with_format("torch").to_iterable_dataset(shards)
    )


def pairs(rows):
    return torch.stack([row["x"] for row in rows]), torch.stack([row["y"] for row in rows])


SOURCES = {
    "sampler": loader,
    "workers": lambda: DataLoader(data(96), 16, sampler=DistributedSampler(data(96), 1, 0), num_workers=2),
    "shuffled": shuffled(),
    "shuffled by its own generator": lambda: shuffled(generator=torch.Generator().manual_seed(3))(),
    "list": lambda: list(loader()),
    "iterable": lambda: DataLoader(Numbers(), 16),
    "iterable, workers": lambda: DataLoader(Numbers(), 16, num_workers=2),
    "stateful": lambda: StatefulDataLoader(data(96), 16, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "stateful, workers": lambda: StatefulDataLoader(
        data(96), 16, shuffle=True, generator=torch.Generator().manual_seed(3), num_workers=2
    ),
    "hugging face": lambda: DataLoader(hugging(2).shuffle(seed=1, buffer_size=20), 16, collate_fn=pairs),
    "hugging face, stateful": lambda: StatefulDataLoader(hugging(2), 16, collate_fn=pairs),
}


def passes(sifting, n=2):
    """The batches until `n` passes are over, each with a checkpoint in bytes taken right behind it."""
    while sifting.epoch < n:
        for batch in sifting:
            file = io.BytesIO()
            torch.save({"loader": sifting.state_dict(), "rng": torch.get_rng_state()}, file)
            yield batch, file.getvalue()


def restored(sifting, saved):
    saved = torch.load(io.BytesIO(saved), weights_only=True)
    sifting.load_state_dict(saved["loader"])
    torch.set_rng_state(saved["rng"])
    return sifting


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_resumes_at_every_batch(source):
    torch.manual_seed(7)
    whole = build(SOURCES[source]())
    run = list(passes(whole))
    assert len(run) > 8
    slow = "workers" in source or "hugging" in source
    steps = (0, len(run) // 2, len(run) - 1) if slow else range(len(run))
    for place in steps:
        torch.manual_seed(8)
        again = restored(build(SOURCES[source]()), run[place][1])
        assert laws.equal([batch for batch, _ in passes(again)], [batch for batch, _ in run[place + 1 :]])
        assert laws.equal(again.state, whole.state)


def test_a_state_from_between_two_passes_begins_the_next():
    whole = build()
    first = list(whole)
    saved = whole.state_dict()
    rest = list(whole)
    again = build()
    again.load_state_dict(saved)
    assert again.epoch == 1
    assert laws.equal(again.state_dict(), saved), "what was loaded and not used yet is saved again"
    assert laws.equal(list(again), rest)
    assert not laws.equal(first, rest)


def test_a_rank_that_is_behind_by_passes_is_so_after_its_state_was_loaded():
    sifting = build()
    next(iter(sifting))
    saved = sifting.state_dict()
    assert "loader/behind" not in saved
    other = build()
    other.load_state_dict({**saved, "loader/behind": torch.tensor(2)})
    assert int(other.state_dict()["loader/behind"]) == 2
    assert other.epoch == sifting.epoch + 2


def test_passes_are_the_stream_over_epochs():
    sifter = ps.sifter(SCORE, ps.relative(keep=0.5, history=64), batch_size=8)
    stream = ps.sift(sifter, sifter.init(ps.key(0), ps.peek(loader())), ps.live(MODEL), ps.epochs(loader(), 3))
    whole = [batch for batch, *_ in stream]
    ours = build()
    assert laws.equal([batch for batch, _ in passes(ours, 3)], whole)
    assert laws.equal(ours.state, stream.state)
    assert laws.equal(ours.info, stream.info)


@pytest.mark.parametrize("look", [False, True])
def test_keeping_all_is_the_plain_loop_over_a_shuffled_loader(look):
    answers = []
    for sifted in (False, True):
        torch.manual_seed(0)
        pools = DataLoader(data(96), 16, shuffle=True)
        source = ps.SiftingDataLoader(pools, None, ps.uniform(keep=1), params=ps.live(MODEL)) if sifted else pools
        if sifted and look:
            assert int(source.state.step) == 0
        answers.append([batch for _ in range(2) for batch in source])
    assert laws.equal(*answers)


def test_rows_wait_for_the_next_pass_and_flush_gives_the_rest():
    ours = build(rule=ps.relative(keep=0.35, history=64))
    kept = trained = 0
    for _ in range(3):
        for batch in ours:
            kept += int(ours.info.mask.sum())
            trained += len(batch[1])
        kept += int(ours.info.mask.sum())
    held = int(ours.state.buffer.fill[0])
    assert kept == trained + held
    assert held > 0
    assert sum(len(batch[1]) for batch in ours.flush()) == held
    assert ours.flush() == []


def test_a_pass_broken_off_is_over():
    ours = build()
    running = iter(ours)
    next(running)
    batches = list(ours)
    assert ours.epoch == 2
    with pytest.raises(RuntimeError, match="one SiftingDataLoader serves one loop"):
        next(running)
    ours.set_epoch(7)
    assert ours.loader.sampler.epoch == 7
    assert batches
    saved = build()
    next(iter(saved))
    flat = saved.state_dict()
    saved.load_state_dict(flat)
    saved.set_epoch(0)
    assert laws.equal(saved.state_dict(), flat), "the same epoch keeps the place in it"
    saved.set_epoch(3)
    assert int(saved.state_dict()["loader/pools"]) == 0


def test_observe_feeds_a_score_that_remembers():
    score = ps.Score(
        init=lambda: torch.zeros(()),
        apply=lambda state, params, batch: (state, batch[0].sum(1)),
        observe=lambda state, batch, losses: state + losses.sum(),
    )
    ours = ps.SiftingDataLoader(loader(), score, ps.top(keep=0.5), params={}, batch_size=8)
    with pytest.raises(ValueError, match="none was yielded yet"):
        ours.observe(torch.ones(8))
    for _ in ours:
        ours.observe(torch.ones(8))
    assert float(ours.state.score) == 48.0


def dicts():
    return [{"x": x, "y": y} for x, y in loader()]


def test_weights_come_along_under_a_name_or_beside_the_batch_or_by_looking():
    apart = list(build(rule=IMPORTANCE, weights=True))
    named = list(build(dicts(), ps.hold(ps.uniform(keep=0.5), keep=0.5), weights="weight"))
    assert all(batch["weight"].shape == (8,) for batch in named)
    ours, looked = build(rule=IMPORTANCE), []
    for batch in ours:
        looked.append((batch, ours.weights))
    assert laws.equal(apart, looked)
    assert any(bool((weights != 1).any()) for _, weights in apart)


def test_weights_nobody_reads_are_an_error_with_three_cures():
    ours = build(rule=IMPORTANCE)
    steps = iter(ours)
    next(steps)
    with pytest.raises(ValueError, match=r'weights="name".*weights=True.*loader\.weights'):
        next(steps)
    with pytest.raises(ValueError, match="the rows left carry weights"):
        ours.flush()
    assert int(ours.state.buffer.fill[0]), "a refused flush loses nothing"


def test_a_device_is_not_waited_for():
    """Off the CPU, what was noted of one batch is read with the pool behind it."""

    class Far(torch.Tensor):
        device = torch.device("cuda")

    handout = Handout(None)
    handout.give(None, torch.full((2,), 0.5).as_subclass(Far))
    handout.trained()
    with pytest.raises(ValueError, match=r"^this rule gives weights, and nothing has read them: .*; pass"):
        handout.settle()
    handout.look()
    handout.trained()
    handout.settle()


CASES = {
    "sifted already": (lambda: build(build()), "is sifted already"),
    "a one-shot iterator": (lambda: build(iter(loader())), "is a one-shot iterator"),
    "no iterable": (lambda: build(7), "the loader is a int; pass an iterable"),
    "a model": (lambda: build(params=MODEL), r"params is a model; pass params=ps.live\(model\)"),
    "no params": (lambda: build(params=3), "params is a int"),
    "empty": (lambda: next(iter(build([]))), "the loader is empty"),
    "weights": (lambda: build(weights=3), "weights must be None, True or a name"),
    "batch size": (lambda: build(batch_size=0), "batch_size must be a whole number >= 1"),
    "setting": (lambda: build(nonfinite="drop it"), "nonfinite must be"),
    "no dicts": (lambda: next(iter(build(weights="w"))), "puts them into dict batches, and this one is a"),
    "taken": (
        lambda: next(iter(ps.SiftingDataLoader(dicts(), None, ps.uniform(keep=1), params={}, weights="x"))),
        "has an entry 'x' already",
    ),
    "no weights yet": (lambda: build().weights, "no batch was yielded yet"),
    "a bare state": (
        lambda: build().load_state_dict(ps.state_dict(build().state)),
        "not what a SiftingDataLoader's state_dict",
    ),
    "another rule": (lambda: build().load_state_dict(build(rule=IMPORTANCE).state_dict()), "state is of another kind"),
    "a used-up source": (lambda: list(passes(build(Once()))), "gave no batch in this pass"),
}


class Once:
    """Starts only once, though it does not say so."""

    def __init__(self):
        self.left = iter(loader())

    def __iter__(self):
        return self.left


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_said_in_words(case):
    action, words = CASES[case]
    with pytest.raises(ValueError, match=words):
        action()


def test_an_unknown_setting_is_named_with_those_there_are():
    with pytest.raises(TypeError, match="there is no setting histroy; those of the sifter are draw, columns"):
        build(histroy=3)


def test_a_position_needs_a_loader_that_takes_it():
    ours = build(SOURCES["stateful"]())
    next(iter(ours))
    with pytest.raises(ValueError, match="a loader that tells its own position, which this one does not"):
        build().load_state_dict(ours.state_dict())


def test_looking_at_a_stateful_loader_keeps_its_place():
    source = SOURCES["stateful"]()
    head = iter(source)
    next(head)
    place = source.state_dict()
    rest = list(head)
    fresh = SOURCES["stateful"]()
    fresh.load_state_dict(place)
    ours = ps.SiftingDataLoader(fresh, None, ps.uniform(keep=1), params={})
    assert int(ours.state.step) == 0
    assert laws.equal(list(ours), rest)


def test_there_is_no_length():
    assert not hasattr(build(), "__len__")
