"""What is particular to a rule; the rest is law."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift.rules import histories
from puresift.rules.histories import exchange
from tests.strategies import losses


def select(rule, pool, state=None):
    return rule.select(rule.init() if state is None else state, pool)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("kind", ["distinct", "tied", "equal"])
def test_relative_keeps_the_plan_from_the_first_pool_on(beta, kind):
    pool = ps.keys.uniform(ps.key(1), 16)
    pool = {"distinct": pool, "tied": (pool * 4).floor(), "equal": torch.ones(16)}[kind]
    _, odds = select(ps.relative(beta=beta), pool)
    assert float(odds.probs.mean()) == pytest.approx(1 / (1 + beta), abs=0.002)


@given(pool=losses(st.integers(1, 30)), beta=st.sampled_from([0.25, 1.0, 3.0]))
def test_relative_is_the_formula_in_plain_python(pool, beta):
    history = ps.keys.uniform(ps.key(1), 30).tolist() + pool.tolist()
    rule = ps.relative(beta=beta, history=50)
    state, _ = select(rule, torch.tensor(history[:30]))
    _, odds = select(rule, pool, state)
    recent = torch.tensor(history[-50:]).tolist()
    for loss, p in zip(pool.tolist(), odds.probs.tolist(), strict=True):
        below, equal, n = sum(h < loss for h in recent), recent.count(loss), len(recent)
        if equal == 1:
            expected = ((below + 0.5) / n) ** beta
        else:
            grid = [(below + equal * (i + 0.5) / 2000) / n for i in range(2000)]
            expected = sum(u**beta for u in grid) / 2000
        assert p == pytest.approx(expected, rel=2e-4, abs=1e-7)


def test_relative_forgets_what_is_older_than_its_history():
    rule = ps.relative(keep=0.5, history=4)
    state, _ = select(rule, torch.tensor([100.0, 200.0, 300.0, 400.0]))
    state, odds = select(rule, torch.arange(4.0), state)
    assert odds.probs.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert sorted(state.history.tolist()) == [0.0, 1.0, 2.0, 3.0]


@given(st.data())
def test_exchanging_values_in_an_ordered_tensor_is_sorting_again(data):
    values = data.draw(losses(st.integers(1, 40)))
    size = data.draw(st.integers(1, len(values)))
    coming = data.draw(losses(st.just(size)))
    merged = exchange(values.sort().values, values[:size], coming)
    assert torch.equal(merged, torch.cat([values[size:], coming]).sort().values)


def test_a_long_history_kept_in_order_gives_what_sorting_gives(monkeypatch):
    pools = [(ps.keys.uniform(ps.key(seed), 700) * 50).floor() / 50 for seed in range(12)]
    answers = []
    for limit in (0, 10_000):
        monkeypatch.setattr(histories, "SORTED_UP_TO", limit)
        rule = ps.relative(keep=0.3, history=5000)
        state, odds = rule.init(), []
        for pool in pools:
            state, answer = rule.select(state, pool)
            odds.append(answer.probs)
        answers.append(torch.stack(odds))
    assert torch.equal(*answers)


@pytest.mark.parametrize("kind", ["normal", "heavy", "atoms", "drifting", "mixed"])
def test_a_sketch_is_right_to_a_thousandth(kind):
    """Against the age-weighted CDF of all losses, in double precision."""
    history, size, pools = 20_000, 512, 120
    rule = ps.relative(beta=1.0, history=history, sketch=4096)
    state, values, worst = rule.init(), [], 0.0
    for pool in range(pools):
        noise = ps.keys.uniform(ps.key(pool), size).clamp(1e-6, 1 - 1e-6)
        normal = torch.special.ndtri(noise.double()).float()
        fresh = {
            "normal": normal,
            "heavy": (3 * normal).exp(),
            "atoms": (noise * 7).floor(),
            "drifting": normal.exp() * 100 ** (-pool / pools),
            "mixed": torch.where(noise < 0.4, 0.0, normal),
        }[kind]
        values.append(fresh)
        state, odds = rule.select(state, fresh)
        if pool % 20 == 19:
            past = torch.cat(values)
            age = torch.arange(len(values) - 1, -1, -1).repeat_interleave(size) * size
            weight = torch.exp(-age.double() / history)
            below = torch.stack([weight[past < loss].sum() for loss in fresh[:64]])
            upto = torch.stack([weight[past <= loss].sum() for loss in fresh[:64]])
            cdf = (below + upto) / 2 / weight.sum()
            worst = max(worst, float((odds.probs[:64] - cdf).abs().max()))
    assert worst <= 1e-3, worst


def test_a_setting_can_be_vmapped():
    pool = ps.keys.uniform(ps.key(1), 32)
    keeps = torch.tensor([0.2, 0.5, 1.0])
    means = torch.func.vmap(lambda keep: select(ps.relative(keep), pool)[1].probs.mean())(keeps)
    torch.testing.assert_close(means, keeps, atol=0.002, rtol=0)


@given(pool=losses(), keep=st.floats(0.01, 1))
def test_top_plans_its_count_exactly_and_only_the_boundary_is_a_fraction(pool, keep):
    _, odds = select(ps.top(keep), pool)
    assert float(odds.probs.double().sum()) == pytest.approx(keep * len(pool), rel=1e-5)
    assert len(odds.probs[(odds.probs > 0) & (odds.probs < 1)].unique()) <= 1


@pytest.mark.parametrize("keep", [0, 1.5, -0.1, float("nan"), True, "half"])
@pytest.mark.parametrize("factory", [ps.uniform, ps.relative, ps.top])
def test_keep_out_of_range_is_refused(factory, keep):
    with pytest.raises(ValueError, match=r"keep must be in \(0, 1\], got "):
        factory(keep=keep)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": -1.0}, r"beta must be in \[0, inf\), got -1.0; keep = 1 / \(1 \+ beta\)"),
        ({"beta": float("inf")}, r"beta must be in \[0, inf\)"),
        ({}, "exactly one of keep"),
        ({"keep": 0.5, "beta": 1.0}, "exactly one of keep"),
        ({"keep": 0.5, "history": 0}, "history must be a whole number >= 1, got 0"),
        ({"keep": 0.5, "history": 8.0}, "history must be a whole number"),
        ({"keep": torch.ones(2)}, "0-d float tensor"),
    ],
)
def test_bad_settings_of_relative_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ps.relative(**settings)


def test_a_pool_longer_than_the_history_is_refused():
    with pytest.raises(ValueError, match="a pool of 9 losses does not fit a history of 8; pass history=9 or more"):
        select(ps.relative(keep=0.5, history=8), torch.zeros(9))
