"""The governor: cheap scores sift, dear ones do no harm, and every decision can be made again from its log."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import puresift as ps
from puresift.stream.governors import Governor, GovernorState, Reading, numbers, phi, reduction
from tests import laws
from tests.stream.test_stream import Reads

POOL, STEP = 64, 1.0  # seconds to train on a full pool


class Clock:
    """A clock that moves when told."""

    now = 0.0

    def __call__(self):
        return self.now


def run(price, rule=None, pools=500, governor=None, **options):
    """A stream whose scores cost price(pool) training steps; returns its infos, the seconds it took, the stream."""
    clock, reads = Clock(), itertools.count()

    def score(params, batch):
        clock.now += price(next(reads)) * STEP * len(batch) / POOL
        return batch

    loader = ps.keys.uniform(ps.key(1), pools * POOL).split(POOL)
    sifter = ps.sifter(score, rule or ps.relative(keep=0.5), batch_size=POOL)
    state = sifter.init(ps.key(0), ps.peek(loader))
    stream = ps.sift(sifter, state, {}, loader, governor=governor or ps.governor(**options), clock=clock)
    infos = []
    for batch, _, _, info in stream:
        clock.now += STEP * len(batch) / POOL
        infos.append(info)
    return infos, clock.now, stream


def log(infos, name):
    return torch.cat([info.extra[name] for info in infos if name in info.extra])


@pytest.mark.parametrize(("keep", "pools", "delay"), [(0.1, 500, 0), (0.5, 500, 0), (1.0, 500, 0), (0.5, 600, 7)])
def test_a_dear_score_costs_at_most_two_percent(keep, pools, delay):
    rule = ps.delay(ps.relative(keep=keep), steps=delay)
    infos, seconds, _ = run(lambda pool: 2.0, rule, pools)
    assert seconds <= 1.02 * pools * STEP
    sifted = log(infos, "sifting")
    assert 1 <= int(sifted.sum()) <= 0.01 * pools + 1
    assert float(log(infos, "phi")[-1]) == pytest.approx(2.0)


def test_handed_through_pools_arrive_whole_and_in_order():
    infos, _, stream = run(lambda pool: 2.0)
    sifted, mask = log(infos, "sifting"), torch.cat([info.mask for info in infos]).unflatten(0, (-1, POOL))
    losses = torch.cat([info.losses for info in infos]).unflatten(0, (-1, POOL))
    assert bool(mask[~sifted].all())
    assert bool(losses[~sifted].isnan().all())
    assert bool(losses[sifted].isfinite().all())
    assert int(stream.state.rule.seen) == int(sifted.sum()) * POOL  # the history holds no stand-ins


def test_a_cheap_score_sifts_from_the_first_pool_after_the_delay():
    infos, seconds, _ = run(lambda pool: 0.1, ps.delay(ps.relative(keep=0.5), steps=5))
    sifted = log(infos, "sifting")
    assert not bool(sifted[:5].any())
    assert bool(sifted[5:].all())
    assert seconds == pytest.approx((5 + 495 * 0.6) * STEP, rel=0.02)


def test_without_a_delay_it_sifts_from_the_first_pool_on():
    infos, *_ = run(lambda pool: 0.1, pools=50)
    assert bool(log(infos, "sifting").all())
    infos, *_ = run(lambda pool: 0.1, pools=50, warmup=0)  # then the first training step is still to be measured
    assert log(infos, "sifting").tolist() == [True, False] + [True] * (len(log(infos, "sifting")) - 2)


@pytest.mark.parametrize("cold", [1, 50])
def test_a_cold_start_is_charged_but_not_believed(cold):
    infos, *_ = run(lambda pool: 0.1 if pool else cold, ps.delay(ps.relative(keep=0.5), steps=3), pools=100)
    sifted = log(infos, "sifting")
    assert not bool(sifted[:3].any())
    assert bool(sifted[3:].all())
    assert float(log(infos, "phi")[-1]) == pytest.approx(0.1)
    charged = ps.governor().decide(ps.governor().init(), Reading(1, POOL, cold, POOL, 1, POOL, STEP))[0]
    assert charged.spent == cold


def test_it_comes_back_when_sifting_pays_again_and_goes_when_it_stops():
    infos, *_ = run(lambda pool: 2.0 if pool < 3 else 0.1, pools=250, budget=0.1)
    sifted = log(infos, "sifting")
    assert not bool(sifted[2:20].any())
    assert bool(sifted[-50:].all())
    infos, *_ = run(lambda pool: 0.1 if pool < 100 else 2.0, pools=250)
    sifted = log(infos, "sifting")
    assert bool(sifted[2:100].all())
    assert int(sifted[110:].sum()) < 4


@settings(max_examples=8)
@given(
    prices=st.lists(st.sampled_from([0.0, 0.05, 0.3, 0.6, 2.0, 5.0]), min_size=1, max_size=4),
    keep=st.sampled_from([0.25, 0.5, 0.9]),
)
def test_decisions_replay_from_the_log(prices, keep):
    governor = ps.governor()
    infos, *_ = run(lambda pool: prices[pool % len(prices)], ps.relative(keep=keep), 60, governor)
    readings = log(infos, "reading")
    assert ps.decisions(governor, readings) == log(infos, "sifting").tolist()
    assert ps.decisions(governor, readings.tolist()) == log(infos, "sifting").tolist()


@given(
    phi=st.floats(0.0, 20.0),
    keep=st.floats(0.05, 1.0),
    budget=st.sampled_from([0.01, 0.02, 0.1]),
    pools=st.integers(2, 800),
)
def test_the_account_stays_within_the_budget_plus_one_pool(phi, keep, budget, pools):
    """The pure part alone, at constant costs: an invariant of every decision."""
    governor = ps.governor(budget=budget, warmup=0)
    state, sift = governor.decide(governor.init(), Reading(1, 0, 0, 0, 1, POOL, STEP))
    total, plain = STEP, STEP
    for _ in range(pools):
        cost, kept = (phi * STEP, keep * POOL) if sift else (0.0, POOL)
        reading = Reading(1, POOL if sift else 0, cost, kept if sift else 0, 1, kept, STEP * kept / POOL)
        state, sift = governor.decide(state, reading)
        total, plain = total + cost + STEP * kept / POOL, plain + STEP
        assert state.spent <= budget * state.elapsed + phi * STEP + 1e-6
        assert total <= (1 + budget) * plain + phi * STEP + 1e-6
    if abs(phi + keep - 1) > 1e-6:
        assert (phi + keep < 1) == (state.spent == 0)


def feed(governor, **values):
    reading = Reading(1, POOL, 0.6 * STEP, POOL // 2, 1.0, POOL, STEP)._replace(**values)
    return governor.decide(governor.init(), reading)


@pytest.mark.parametrize(
    ("values", "sift"),
    [
        ({}, False),  # .6 + .5 > 1
        ({"score": 0.4 * STEP}, True),
        ({"reduction": 2.0}, False),  # .5 * 2 = 1
        ({"reduction": 2.4}, True),  # .5 * 2.4 > 1.1: kept rows that are worth more than they cost
        ({"score": 0.4 * STEP, "reduction": 1.0}, True),  # no gain in variance does not count against it
        ({"score": 0.4 * STEP, "wanted": 0}, False),
        ({"score": 0.4 * STEP, "train": 0.0, "trained": 0}, False),  # nothing to compare with
    ],
)
def test_the_condition(values, sift):
    assert feed(ps.governor(warmup=0), **values)[1] is sift


@pytest.mark.parametrize(
    ("values", "sift"),
    [
        ({"score": 0.05 * STEP}, False),  # cheap, but kept rows are worth no more than random ones
        ({"score": 0.1 * STEP, "reduction": 1.2**0.5 - 0.01}, False),  # .5 * B / ESS < .6
        ({"score": 0.1 * STEP, "reduction": 1.2**0.5 + 0.01}, True),
    ],
)
def test_the_condition_against_a_shortened_run(values, sift):
    assert feed(ps.governor(bar="shortened", warmup=0), **values)[1] is sift


def test_an_evaluation_between_two_batches_does_not_pass_for_a_step():
    governor = ps.governor(warmup=0)
    before, _ = feed(governor, score=2 * STEP)
    state, sift = governor.decide(before, Reading(1, 0, 0, 0, 1, POOL, 1000 * STEP))
    assert not sift
    assert phi(state) == pytest.approx(2 / 1.25)
    assert state.elapsed == pytest.approx(before.elapsed + 2 * STEP)


def test_the_variance_counts_only_where_weights_say_so():
    probs = torch.tensor([0.1, 0.2, 0.3, 1.0])
    plain = ps.Info(torch.zeros(4), ps.Odds(probs, torch.ones(4)), probs > 0.25, {})
    weighted = plain._replace(odds=ps.Odds(probs, 0.4 / probs))
    scored, kept, fixed = numbers(weighted).tolist()
    assert (scored, kept) == (4, 2)
    assert reduction(fixed) == pytest.approx(float((4 / (probs.sum() ** 2 / probs.square().sum())).sqrt()), rel=1e-5)
    assert reduction(numbers(plain).tolist()[2]) == 1.0
    unscored = weighted._replace(losses=torch.full((4,), torch.nan))
    assert numbers(unscored).tolist()[:2] == [0, 0]
    none = weighted._replace(odds=ps.Odds(torch.zeros(4), torch.full((4,), 2.0)))
    assert reduction(numbers(none).tolist()[2]) == 1.0


def test_the_governed_stream_still_reads_once_a_pool():
    loader = ps.keys.uniform(ps.key(1), 40 * POOL).split(POOL)
    sifter = ps.sifter(lambda params, batch: batch, ps.relative(keep=0.5), batch_size=POOL)
    governor = ps.governor()
    stream = ps.sift(sifter, sifter.init(ps.key(0), ps.peek(loader)), {}, loader, governor=governor)
    next(stream)
    with Reads() as reads:
        for _ in stream:
            pass
    assert reads.count <= 40


def test_streams_without_a_governor_never_look_at_a_clock(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("the clock was read"))
    loader = ps.keys.uniform(ps.key(1), 4 * POOL).split(POOL)
    sifter = ps.sifter(lambda params, batch: batch, ps.relative(keep=0.5), batch_size=POOL)
    infos = [info for *_, info in ps.sift(sifter, sifter.init(ps.key(0), ps.peek(loader)), {}, loader)]
    assert all(info.extra.keys() == {"nonfinite"} for info in infos if len(info.losses))


def test_a_governed_score_free_arm_is_left_alone():
    loader = ps.keys.uniform(ps.key(1), 20 * POOL).split(POOL)
    sifter = ps.sifter(None, ps.uniform(keep=0.5), batch_size=POOL)
    state = sifter.init(ps.key(0), ps.peek(loader))
    free = list(ps.sift(sifter, state, {}, loader))
    governed = list(ps.sift(sifter, state, {}, loader, governor=ps.governor()))
    for one, other in zip(free, governed, strict=True):
        assert laws.equal(one.batch, other.batch)
        assert "sifting" not in other.info.extra or not bool(other.info.extra["sifting"].any())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bar": "random"}, r'bar must be "full" or "shortened"'),
        ({"budget": 0.0}, r"budget must be in \(0, 1\], got 0.0"),
        ({"warmup": -1}, "warmup must be a whole number >= 0, got -1"),
        ({"rate": 1.5}, r"rate must be in \(0, 1\], got 1.5"),
        ({"budget": torch.tensor(0.1)}, r"budget must be a plain number, .* pass float\(budget\)"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ps.governor(**settings)


def test_a_clock_needs_a_governor():
    loader = [torch.zeros(2)]
    sifter = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2)
    with pytest.raises(ValueError, match=r"pass governor=ps.governor\(\) with it"):
        ps.sift(sifter, sifter.init(ps.key(0), loader[0]), {}, loader, clock=Clock())


def test_the_state_is_plain_numbers():
    governor = ps.governor()
    assert isinstance(governor, Governor)
    state, _ = feed(governor)
    assert isinstance(state, GovernorState)
    assert all(isinstance(value, int | float) for value in state)
    assert GovernorState._field_defaults == {}
