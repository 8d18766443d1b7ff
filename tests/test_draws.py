"""What is particular to a draw; the rest is law."""

import math
from fractions import Fraction

import torch
from hypothesis import given

import puresift as ps
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
