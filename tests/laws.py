"""The laws, and the tables of members they are run over. A newcomer is entered in a table, and inherits the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

import puresift as ps
from puresift import trees
from tests.strategies import cross_entropy, net


class Member(NamedTuple):
    """A rule and what it claims."""

    rule: ps.Rule
    monotone: bool = True  # a larger loss is never less likely to be kept
    scale_free: bool = True  # scaling all losses by a positive number changes nothing


RULES: dict[str, Callable[[], Member]] = {
    "uniform": lambda: Member(ps.uniform(keep=0.3)),
    "uniform-all": lambda: Member(ps.uniform(keep=1.0)),
    "relative": lambda: Member(ps.relative(keep=0.5, history=64)),
    "relative-harsh": lambda: Member(ps.relative(beta=3.0, history=64)),
    "relative-mild": lambda: Member(ps.relative(beta=0.25, history=40)),
    "relative-all": lambda: Member(ps.relative(beta=0.0, history=64)),
    "top": lambda: Member(ps.top(keep=0.4)),
}
WRAPPERS: dict[str, Callable[[], Member]] = {
    "delay": lambda: Member(ps.delay(ps.relative(keep=0.5, history=64), steps=2)),
    "delay-none": lambda: Member(ps.delay(ps.top(keep=0.5), steps=0)),
}
MEMBERS = {**RULES, **WRAPPERS}
DRAWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bernoulli": ps.bernoulli, "systematic": ps.systematic}
SCORES: dict[str, Callable[[], Any]] = {
    "batched": lambda: ps.batched(net(), cross_entropy),
    "per_sample": lambda: ps.per_sample(net(), cross_entropy),
    "autocast": lambda: ps.autocast(ps.batched(net(), cross_entropy), torch.bfloat16),
    "chunked": lambda: ps.chunked(ps.batched(net(), cross_entropy), 5),
}


def flat(tree: Any) -> dict[str, Tensor]:
    return trees.flat(tree)


def leaves(tree: Any) -> list[Tensor]:
    return trees.leaves(tree)


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, NaN equal to NaN."""
    a, b = flat(one), flat(other)
    return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


@contextmanager
def untouched(*inputs: Any) -> Iterator[None]:
    """No input tensor changes (bytes, version), nor does the global RNG."""
    before = [(t, t.clone(), t._version) for tree in inputs for t in flat(tree).values()]
    rng = torch.get_rng_state()
    yield
    for tensor, copy, version in before:
        assert _same(tensor, copy), "an input tensor changed"
        assert tensor._version == version, "an input tensor was written to"
    assert torch.equal(torch.get_rng_state(), rng), "the global RNG moved"


def same_layout(one: Any, other: Any) -> None:
    """Shapes, dtypes and kinds are constant."""
    a, b = flat(one), flat(other)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].shape, a[name].dtype) == (b[name].shape, b[name].dtype), name


def odds_are_odds(odds: ps.Odds, size: int) -> None:
    """0 <= p <= 1; weights finite and positive."""
    assert odds.probs.shape == odds.weights.shape == (size,)
    assert odds.probs.dtype == odds.weights.dtype == torch.float32
    assert bool(((odds.probs >= 0) & (odds.probs <= 1)).all()), odds.probs
    assert bool((odds.weights.isfinite() & (odds.weights > 0)).all()), odds.weights


def warmed(rule: ps.Rule, pools: int = 3, size: int = 16) -> Any:
    """A state that has seen a few pools."""
    state = rule.init()
    for pool in range(pools):
        state, _ = rule.select(state, ps.keys.uniform(ps.key(pool), size))
    return state


def stack(*states: Any) -> Any:
    """States side by side, for vmap."""
    return trees.map_leaves(lambda *leaves: torch.stack(leaves), *states)
