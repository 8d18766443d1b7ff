"""What is particular to a draw; the rest is law."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift import draws
from tests.laws import DRAWS
from tests.strategies import probs, seeds


@given(p=probs(), seed=seeds)
def test_systematic_keeps_floor_or_ceiling(p, seed):
    exact = sum(map(Fraction, p.tolist()))
    assert int(ps.systematic(ps.key(seed), p).sum()) in (math.floor(exact), math.ceil(exact))


def test_systematic_keeps_a_whole_plan_exactly():
    p = torch.full((64,), 0.5)
    assert {int(ps.systematic(key, p).sum()) for key in ps.keys.split(ps.key(0), 50)} == {32}


def test_bernoulli_rows_are_independent():
    masks = torch.func.vmap(ps.bernoulli, in_dims=(0, None))(ps.keys.split(ps.key(0), 20_000), torch.full((4,), 0.5))
    correlation = torch.corrcoef(masks.double().T) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 0.04


@pytest.mark.parametrize("start", [0, 1, 2**40 - 1, 2**39])
@pytest.mark.parametrize("error", [-3e-7, 0.0, 3e-7])
def test_a_known_count_is_kept_where_rounding_would_miss_it(monkeypatch, start, error):
    """At the ends of the coin's range a running sum that is a little off keeps a row more or less."""
    monkeypatch.setattr(ps.keys, "words", lambda key, num: torch.tensor([start >> 8, (start & 255) << 24]))
    probs = (torch.full((40,), 0.3, dtype=torch.float64) + error).float()
    assert int(ps.systematic(ps.key(0), probs, count=12).sum()) == 12
    if start == 2**39:
        assert torch.equal(ps.systematic(ps.key(0), probs, count=12), ps.systematic(ps.key(0), probs))


def test_without_its_count_rounding_does_miss_it(monkeypatch):
    monkeypatch.setattr(ps.keys, "words", lambda key, num: torch.tensor([2**32 - 1, 255 << 24]))
    assert int(ps.systematic(ps.key(0), torch.full((40,), 0.3)).sum()) == 13


@given(seeds, st.integers(1, 40))
def test_a_known_count_changes_no_mask_that_has_it(seed, size):
    probs = torch.full((4 * size,), 0.25)
    assert torch.equal(ps.systematic(ps.key(seed), probs, count=size), ps.systematic(ps.key(seed), probs))


@given(seed=seeds, first=st.integers(0, 2**40), rows=st.integers(1, 9), p=probs())
def test_numbers_made_ahead_are_those_of_each_step(seed, first, rows, p):
    """A smaller pool takes the first of them, and a draw of another kind none."""
    key, steps = ps.key(seed), torch.arange(first, first + 3)
    for draw in DRAWS.values():
        numbers = draws.ahead(draw, key, steps, len(p) + rows)
        for step, one in zip(steps, numbers, strict=True):
            mask = draw(key, p, uniforms=one[: len(p)] if one.ndim else one)
            assert torch.equal(mask, draw(ps.keys.fold_in(key, step), p))
    assert draws.ahead(lambda key, probs: probs > 0.5, key, steps, rows) is None


@given(seed=seeds, step=st.integers(-(2**63), 2**63 - 1))
def test_a_key_is_folded_the_same_in_python_and_in_tensors(seed, step):
    mapped = torch.func.vmap(ps.keys.fold_in, in_dims=(None, 0))(ps.key(seed), torch.tensor([step, 7]))
    assert torch.equal(mapped, torch.stack([ps.keys.fold_in(ps.key(seed), one) for one in (step, torch.tensor(7))]))
