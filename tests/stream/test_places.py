"""Streams that tell their own position: a run goes on in their middle, to the bit, and reads nothing again."""

import io
import multiprocessing
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader

import puresift as ps
from puresift.stream import places
from tests import laws
from tests.stream.sources import COUNTED, POOL, READ, ROWS, SLOW, TELLING, Pools, Rows, left

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata, on torch 2.13
    pytest.mark.filterwarnings("ignore:.*fork.*may lead to deadlocks"),  # workers, beside a thread of another test
]
UPSTREAM, BATCHES = "loader/upstream", 20  # more than a pass gives


def of(batch):
    return (batch["x"][:, None] if isinstance(batch, dict) else batch)[:, 0]


def score(params, batch):
    return of(batch) % 7 + 1


def build(source, **settings):
    settings = {"params": {}, "batch_size": 8, **settings}
    return ps.SiftingDataLoader(source, score, ps.relative(keep=0.5, history=64), **settings)


def taken(sifting, n):
    """n batches in all, over as many passes, each with a checkpoint in bytes; a number is drawn behind each batch."""
    while n:
        for batch in islice(sifting, n):
            file, n = io.BytesIO(), n - 1
            drawn = torch.rand(()).item()
            torch.save({"loader": sifting.state_dict(), "rng": torch.get_rng_state()}, file)
            yield [*of(batch).tolist(), drawn], file.getvalue()


def loaded(saved):
    return torch.load(io.BytesIO(saved), weights_only=True)


def resumed(source, flat):
    sifting = build(source)
    torch.manual_seed(8)
    sifting.load_state_dict(flat["loader"])
    torch.set_rng_state(flat["rng"])
    return sifting


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in [*TELLING, *COUNTED]]
)
def test_a_run_goes_on_in_the_middle_of_every_stream(name):
    source = {**TELLING, **COUNTED}[name]
    torch.manual_seed(7)
    whole = build(source())
    run = list(taken(whole, BATCHES))
    ends = [n for n in range(1, BATCHES) if "end" not in name and _pools(run[n][1]) < _pools(run[n - 1][1])]
    assert ends or "end" in name, "the last batch of a pass is one of the places"
    every = name == "own pools"
    for place in range(BATCHES - 1) if every else {0, BATCHES // 2, *(n - 1 for n in ends[:1])}:
        flat = loaded(run[place][1])
        assert (UPSTREAM in flat["loader"]) == (name in TELLING)
        again = resumed(source(), flat)
        assert [batch for batch, _ in taken(again, BATCHES - 1 - place)] == [batch for batch, _ in run[place + 1 :]]
        assert laws.equal(again.state, whole.state)
        left(again)
    left(whole)


def _pools(saved):
    return int(loaded(saved)["loader"]["loader/pools"])


@pytest.mark.parametrize("name", [name for name in TELLING if "end" in name or name in ("own pools", "own rows")])
def test_what_was_read_is_not_read_again(name):
    """Beyond the rest, only the first pool, for the shapes of the state; and what workers fetch ahead."""
    whole = build(TELLING[name]())
    *_, (_, saved) = taken(whole, 60 if "end" in name else 8)
    left(whole)
    flat = loaded(saved)
    READ.zero_()
    again = resumed(TELLING[name](), flat)
    next(iter(again))
    left(again)
    most = 20 if "workers" in name else 4
    assert _pools(saved) > most or "end" not in name
    assert POOL <= READ.sum() <= most * POOL


@pytest.mark.parametrize("name", [name for name in TELLING if "end" not in name and "workers" not in name])
def test_a_place_behind_the_last_pool_is_followed_by_the_next_pass(name):
    """Where the source stands at its end, which nodes of torchdata would take for the beginning."""

    def made():
        return ps.SiftingDataLoader(TELLING[name](), None, ps.uniform(keep=1), params={}, batch_size=POOL)

    whole = made()
    batches = iter(whole)
    for _ in range(ROWS // POOL):
        next(batches)
    flat = whole.state_dict()
    assert int(flat["loader/pools"]) == ROWS // POOL
    assert next(batches, None) is None
    again = made()
    again.load_state_dict(flat)
    torch.manual_seed(1)  # of a shuffle
    assert [len(list(again)) for _ in range(2)] == [0, ROWS // POOL]


def test_a_pool_that_failed_comes_again():
    """The source stands behind it, and the state before it: in a pass that began here, and in resumed ones."""
    source, bad, got = Pools(), [3.0], []

    def failing(params, batch):
        if batch[0, 0] // POOL in bad:
            raise OSError("no memory")
        return score(params, batch)

    def read(flat):
        ours = ps.SiftingDataLoader(source, failing, ps.top(keep=1.0), params={}, batch_size=POOL)
        if flat is not None:
            ours.load_state_dict(flat)
        batches = iter(ours)
        with pytest.raises((OSError, StopIteration)):
            while True:
                got.append(int(next(batches)[0, 0]) // POOL)
        return ours.state_dict()

    begun = read(None)
    assert got == [0, 1, 2] and UPSTREAM not in begun, "the pass began here: its pools are counted"
    bad[:] = [1.0]
    ours = ps.SiftingDataLoader(source, failing, ps.top(keep=1.0), params={}, batch_size=POOL)
    next(iter(ours))
    bad[:], got[:] = [4.0], [0]
    first = read(ours.state_dict())
    assert first["loader/past"] == 3 and first[UPSTREAM] == {"place": POOL}, "from where that pass went on"
    bad[:] = [5.0]
    second = read(first)
    assert second["loader/past"] == 4
    bad.clear()
    read(second)
    assert got == [0, 1, 2, 3, 4, 5]


def test_a_stream_of_ones_own_loop_goes_on_from_a_position():
    sifter = ps.sifter(score, ps.relative(keep=0.5, history=64), batch_size=8)
    start = sifter.init(ps.key(0), torch.zeros(POOL, 1))
    source = Pools()
    whole, saved = [], []
    for batch, _, state, _ in ps.sift(sifter, start, {}, source, skip=0, ahead=False):
        whole.append(batch)
        saved.append((ps.state_dict(state), source.state_dict()))
    for place, (flat, position) in enumerate(saved):
        again = Pools()
        again.load_state_dict(position)
        stream = ps.sift(sifter, ps.load_state_dict(start, flat), {}, again, skip=0, ahead=False)
        assert laws.equal([batch for batch, *_ in stream], whole[place + 1 :])


@pytest.mark.parametrize("name", [name for name in COUNTED if name not in SLOW])
def test_many_pools_that_are_read_again_are_counted_aloud(name, monkeypatch):
    monkeypatch.setattr(places, "_FEW", 2)
    ours = build(COUNTED[name]())
    *_, (_, saved) = taken(ours, 5)
    left(ours)
    words = "[3-6] pools of a stream without length are read again .* StatefulDataLoader"
    with pytest.warns(UserWarning, match=words):
        build(COUNTED[name]()).load_state_dict(loaded(saved)["loader"])


def test_a_loader_with_a_length_or_a_position_is_resumed_without_a_word(monkeypatch):
    monkeypatch.setattr(places, "_FEW", 2)
    for source in (Pools, lambda: DataLoader(torch.arange(96.0)[:, None], POOL)):
        *_, (_, saved) = taken(build(source()), 5)
        build(source()).load_state_dict(loaded(saved)["loader"])


def test_a_source_that_ends_before_the_saved_place_is_refused():
    *_, (_, saved) = taken(build([*Pools()]), 5)
    again = build([*Pools()][:2])
    again.load_state_dict(loaded(saved)["loader"])
    with pytest.raises(ValueError, match=r"the loader gave 2 pools, and the saved state had read \d of this pass"):
        next(iter(again))


def test_a_state_of_an_inexact_position_still_loads():
    """Of a version before, which saved Hugging Face's position without the rows in its shuffle buffer."""
    source = COUNTED["hugging face, a shuffle buffer, stateful"]
    *_, (_, saved) = taken(build(source()), 3)
    flat = loaded(saved)["loader"]
    other = source()
    pools = iter(other)
    for _ in range(int(flat["loader/pools"])):
        next(pools)
    again = build(source())
    again.load_state_dict({**flat, UPSTREAM: other.state_dict()})
    assert sum(1 for _ in again) >= 1


def test_where_a_position_is_looked_for():
    from puresift.data.positions import buffered, teller

    rows, pools = Rows(), Pools()
    alone = DataLoader(rows, POOL)
    assert teller(alone) is rows and teller(pools) is pools
    assert teller(DataLoader(rows, POOL, num_workers=2)) is None, "each worker has a copy"
    assert teller([rows]) is None and teller(DataLoader(torch.zeros(4))) is None
    assert not buffered(alone) and not buffered([1])


def test_a_pass_that_is_left_lets_go_of_its_workers():
    """At once, and not as garbage, when each of them would be waited for."""
    ways = [lambda ours: ours.flush(), lambda ours: next(iter(ours)), lambda ours: ours.load_state_dict(flat)]
    flat = build(Pools()).state_dict()
    for leave in ways:
        others, ours = multiprocessing.active_children(), build(DataLoader(Rows(), POOL, num_workers=2))
        batches = iter(ours)
        next(batches)
        workers = [child for child in multiprocessing.active_children() if child not in others]
        leave(ours)
        assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)
        left(ours)
