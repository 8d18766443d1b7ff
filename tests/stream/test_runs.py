"""A stream that failed says so again, and its state is the way on."""

import pytest
import torch

import puresift as ps
from tests import laws

POOLS = list(torch.arange(48.0).split(8))


class Broken(list):
    """Pools, of which one cannot be read for as long as `broken`."""

    broken = True

    def __iter__(self):
        for number, pool in enumerate(list.__iter__(self)):
            if self.broken and number == 3:
                raise OSError("no such file")
            yield pool


def fails_to_score(params, batch):
    if bool(params["broken"]) and float(batch[0]) == 24:
        raise ZeroDivisionError("no such loss")
    return batch


def not_finite(params, batch):
    return batch / (batch != 24) if bool(params["broken"]) else batch


CASES = {  # a score, pools, and the error
    "loader": (lambda params, batch: batch, Broken(POOLS), OSError),
    "score": (fails_to_score, POOLS, ZeroDivisionError),
    "loss": (not_finite, POOLS, ps.SiftError),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stream_that_failed_raises_again_and_its_state_goes_on_where_it_stood(case):
    score, pools, error = CASES[case]
    sifter = ps.sifter(score, ps.relative(keep=0.6, history=64), batch_size=4)
    start, params = sifter.init(ps.key(0), POOLS[0]), {"broken": torch.tensor(True)}
    healthy = {"broken": torch.tensor(False)}
    stream, got = ps.sift(sifter, start, params, pools), []
    with pytest.raises(error):
        for sifted in stream:
            got.append(sifted)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"ended by {error.__name__} \(.*not complete; .* from stream\.state"):
            next(stream)
    assert int(stream.state.step) == 3, "nothing of the pool that failed"
    Broken.broken = False
    try:
        whole = list(ps.sift(sifter, start, healthy, pools))
        rest = list(ps.sift(sifter, ps.load_state_dict(start, ps.state_dict(stream.state)), healthy, pools))
    finally:
        Broken.broken = True
    assert 0 < len(got) < len(whole)
    for one, other in zip([*got, *rest], whole, strict=True):
        assert laws.equal(one[:3], other[:3])


def test_a_loaders_pass_that_failed_raises_again_and_names_the_way_on():
    pools = Broken(POOLS)
    loader = ps.SiftingDataLoader(pools, lambda params, batch: batch, ps.relative(keep=0.6), params={}, batch_size=4)
    run, got = iter(loader), []
    with pytest.raises(OSError, match="no such file"):
        for batch in run:
            got.append(batch)
    with pytest.raises(RuntimeError, match=r"loader\.load_state_dict\(loader\.state_dict\(\)\) goes on where it stood"):
        next(run)
    Broken.broken = False
    try:
        loader.load_state_dict(loader.state_dict())
        rest = list(loader)
        fresh = ps.SiftingDataLoader(POOLS, lambda params, batch: batch, ps.relative(keep=0.6), params={}, batch_size=4)
        assert laws.equal([*got, *rest], list(fresh))
    finally:
        Broken.broken = True


def test_a_refused_pool_leaves_the_state_as_it_was():
    sifter = ps.sifter(lambda params, batch: batch, ps.relative(keep=0.6), batch_size=4)
    start = sifter.init(ps.key(0), POOLS[0])
    stream = ps.sift(sifter, start, {}, [torch.full((8,), torch.nan)])
    with pytest.raises(ps.SiftError, match="8 of 8 losses in pool 0 are NaN"):
        next(stream)
    assert laws.equal(stream.state, start)
    assert sifter.flush(stream.state)[1] == []


def test_a_second_loop_over_a_stream_that_has_ended_is_refused():
    pools = torch.arange(16.0).split(4)
    sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2)
    stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools)
    for _ in stream:
        break
    assert len(list(stream)) == 3, "the rest of a pass that was left early"
    with pytest.raises(RuntimeError, match=r"a second loop over it would see nothing.*ps\.epochs"):
        list(stream)
    assert next(stream, None) is None
    drawn = ps.prioritize(
        drawer := ps.prioritizer(ps.uniform(1.0), size=8, batch_size=4, steps=3),
        drawer.init(ps.key(0)),
        torch.arange(8.0),
    )
    assert len(list(drawn)) == 3
    with pytest.raises(RuntimeError, match=r"a second loop over it would see nothing.*steps="):
        list(drawn)
    assert list(ps.prioritize(drawer, drawn.state, torch.arange(8.0))) == [], "a run that is complete has nothing left"
