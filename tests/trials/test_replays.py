"""Replay: many settings at once equal as many live runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import puresift as ps
from puresift.trials.replays import Replayed, overlap
from tests import laws
from tests.laws import DRAWS, MEMBERS
from tests.strategies import losses

FACTORIES = {
    "relative": (lambda keep: ps.relative(keep, history=100), lambda keep: ps.relative(keep, history=100)),
    "beta": (lambda x: ps.relative(beta=x * 3, history=64), lambda x: ps.relative(beta=x * 3, history=64)),
    "top": (lambda keep: ps.top(keep), lambda keep: ps.top(keep)),
    "uniform": (lambda keep: ps.uniform(keep), lambda keep: ps.uniform(keep)),
    "delay": (lambda keep: ps.delay(ps.relative(keep), 2), lambda keep: ps.delay(ps.relative(keep), 2)),
}


def live(rule, values, seed, pool=64, draw=ps.bernoulli):
    """The masks and odds of `sifter.step` on the same losses."""
    sifter = ps.sifter(lambda params, batch: batch, rule, batch_size=pool, draw=draw)
    state, infos = sifter.init(ps.key(seed), values[:pool]), []
    for part in values.split(pool):
        state, info = sifter.step(state, {}, part)
        state, _ = sifter.flush(state)
        infos.append(info)
    return torch.cat([info.mask for info in infos]), torch.cat([info.odds.probs for info in infos])


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("name", FACTORIES)
def test_every_setting_equals_its_live_run(name, draw):
    values, keeps = ps.keys.uniform(ps.key(5), 1000).log().neg(), [0.07, 0.3, 0.51, 0.93]
    together, alone = FACTORIES[name]
    answer = ps.replay(together, keeps, values, key=ps.key(3), draw=DRAWS[draw])
    for row, keep in enumerate(keeps):
        mask, probs = live(alone(keep), values, 3, draw=DRAWS[draw])
        assert torch.equal(answer.mask[row], mask)
        torch.testing.assert_close(answer.odds.probs[row], probs, rtol=1e-5, atol=1e-6)
        assert float(answer.keep[row]) == pytest.approx(float(mask.float().mean()))


def counting(keep):
    """A controller: its state depends on the setting, by way of another leaf that does."""

    def select(state, losses, **columns):
        total, ratio = state
        ratio = (ratio + 0.1 * (keep - ratio)).float()
        odds = ps.Odds(torch.full_like(losses, 0.5) * ratio, torch.ones_like(losses))
        return (total + ratio, ratio), odds

    return ps.Rule(lambda: (torch.zeros(()), torch.ones(())), select, lambda state: torch.ones(()).bool())


def test_states_that_depend_on_the_setting_are_kept_apart():
    values = ps.keys.uniform(ps.key(5), 200)
    answer = ps.replay(counting, [0.2, 0.8], values, pool=10)
    for row, keep in enumerate([0.2, 0.8]):
        one = ps.compare({"": counting(torch.tensor(keep, dtype=torch.float64))}, values, pool=10)
        torch.testing.assert_close(answer.odds.probs[row], one.odds.probs[0])
    assert not torch.equal(answer.odds.probs[0], answer.odds.probs[1])


@settings(max_examples=8)
@given(values=losses(st.integers(1, 200)), pool=st.integers(1, 40))
def test_replay_is_compare_over_a_grid(values, pool):
    keeps = {"low": 0.2, "high": 0.7}
    with laws.untouched(values):
        many = ps.replay(lambda keep: ps.relative(keep, history=64), [*keeps.values()], values, pool=pool)
    rules = {name: ps.relative(keep, history=64) for name, keep in keeps.items()}
    assert isinstance(many, Replayed)
    torch.testing.assert_close(many.odds, ps.compare(rules, values, pool=pool).odds, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_can_be_replayed(name):
    values = ps.keys.uniform(ps.key(1), 160)
    columns = {"group": torch.arange(160) % 3, "id": torch.arange(160) % 96}
    rules = {"one": MEMBERS[name]().rule, "again": MEMBERS[name]().rule}
    answer = ps.compare(rules, values, pool=16, columns=columns)
    assert torch.equal(answer.mask[0], answer.mask[1])
    assert answer.mask.shape == (2, 160)
    assert overlap(answer.mask).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_settings_by_name_and_columns_reach_the_rule():
    def factory(keep, boost):
        rule = ps.top(keep)
        return rule._replace(select=lambda state, losses, group: rule.select(state, losses + boost * group))

    group = (torch.arange(8) % 2).float()
    setting = {"keep": [0.5, 0.5], "boost": [0.0, 100.0]}
    answer = ps.replay(factory, setting, torch.arange(8.0), pool=8, columns={"group": group})
    assert answer.mask[0].tolist() == [False] * 4 + [True] * 4
    assert torch.equal(answer.mask[1], group.bool())


def test_the_numbers_are_what_they_say():
    weighted = ps.top(keep=0.5)
    weights = torch.tensor([1.0, 1.0, 1.0, 3.0])
    rule = weighted._replace(select=lambda s, x: (s, weighted.select(s, x)[1]._replace(weights=weights)))
    answer = ps.compare({"weighted": rule, "none": ps.top(keep=1e-9)}, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert answer.keep.tolist() == [0.5, 0.0]
    assert answer.ess.tolist() == pytest.approx([16 / 10 / 4, 0.0])
    masks = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert overlap(masks)[0].tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.0])
    assert float(overlap(masks)[2, 3]) == 1.0


def test_64_settings_over_100000_losses_are_those_of_live_runs():
    values = ps.keys.uniform(ps.key(5), 100_000)
    keeps = torch.linspace(0.02, 0.98, 64)
    answer = ps.replay(lambda keep: ps.relative(keep, history=1000), keeps, values)
    mask, _ = live(ps.relative(keep=float(keeps[20]), history=1000), values[:20_000], 0)
    assert torch.equal(answer.mask[20, :20_000], mask)
    assert bool(((answer.keep - keeps).abs() < 0.01).all())


@pytest.mark.parametrize(
    ("setting", "values", "options", "words"),
    [
        ([], torch.ones(4), {}, r"S >= 1 numbers each, of one length, got setting \[0\]"),
        ({"keep": [0.1], "b": [1.0, 2.0]}, torch.ones(4), {}, r"got keep \[1\], b \[2\]"),
        ({}, torch.ones(4), {}, "of one length, got none"),
        ([0.5], torch.ones(0), {}, r"N >= 1, got shape \[0\]"),
        ([0.5], torch.ones(2, 2), {}, r"N >= 1, got shape \[2, 2\]"),
        ([0.5], torch.tensor([1.0, torch.nan]), {}, "1 of 2 losses are NaN or infinite; leave out"),
        ([0.5], torch.ones(4), {"pool": 0}, "pool must be a whole number >= 1"),
        ([0.5], torch.ones(4), {"columns": {"id": torch.ones(3)}}, "column 'id' has 3 rows for 4 losses"),
    ],
)
def test_bad_input_is_refused(setting, values, options, words):
    with pytest.raises(ValueError, match=words):
        ps.replay(lambda keep: ps.top(keep), setting, values, **options)
    if not isinstance(setting, dict) and setting:
        with pytest.raises(ValueError, match=words):
            ps.compare({"top": ps.top(0.5)}, values, **options)


def test_no_rules_are_refused():
    with pytest.raises(ValueError, match="pass at least one rule"):
        ps.compare({}, torch.ones(4))
