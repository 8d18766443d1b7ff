"""Hypothesis strategies: losses that are hard on ranks and means, odds, pools of a batch's rows, states of a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from puresift import keys, trees
from puresift.types import Batch, Rule

seeds = st.integers(0, 2**64 - 1)
sizes = st.integers(1, 40)


@st.composite
def losses(draw: st.DrawFn, size: st.SearchStrategy[int] = sizes) -> Tensor:
    """Ties, constants, heavy tails, tiny and negative ones: Float[B].

    Args:
        size: of the pool.

    Example:
        >>> from hypothesis import given
        >>> import puresift as ps
        >>> @given(pool=losses())
        ... def test_more_is_never_less(pool):
        ...     rule = ps.top(keep=0.5)
        ...     odds = rule.select(rule.init(), pool)[1]
        ...     assert bool((odds.probs[pool.argsort()].diff() >= 0).all())
        >>> test_more_is_never_less()
    """
    n = draw(size)
    key = keys.key(draw(seeds))
    noise = keys.uniform(key, n)
    kind = draw(st.sampled_from(["uniform", "ties", "constant", "heavy", "tiny", "negative"]))
    return {
        "uniform": noise,
        "ties": (noise * 3).floor(),
        "constant": torch.full((n,), 0.7),
        "heavy": (1 / (noise + 1e-3)) ** 3,
        "tiny": noise * 1e-30,
        "negative": noise - 0.5,
    }[kind]


@st.composite
def probs(draw: st.DrawFn, size: st.SearchStrategy[int] = sizes) -> Tensor:
    """Probabilities with exact zeros and ones among them: Float[B].

    Args:
        size: of the pool.

    Example:
        >>> from hypothesis import given
        >>> import puresift as ps
        >>> @given(chances=probs())
        ... def test_what_is_certain_is_kept(chances):
        ...     assert bool(ps.bernoulli(ps.key(0), chances)[chances == 1].all())
        >>> test_what_is_certain_is_kept()
    """
    values = draw(losses(size)).clamp(0, 1)
    corner = keys.uniform(keys.key(draw(seeds)), len(values))
    return torch.where(corner < 0.1, 0.0, torch.where(corner > 0.9, 1.0, values))


@st.composite
def pools(draw: st.DrawFn, batch: Batch, size: st.SearchStrategy[int] | None = None) -> Batch:
    """Pools made of a batch's rows, in any order, some of them more than once.

    Args:
        batch: one that the score can take.
        size: rows in a pool; by default from one to as many as the batch has.

    Example:
        >>> from hypothesis import given
        >>> import puresift as ps
        >>> model = torch.nn.Linear(3, 1)
        >>> score = ps.batched(model, lambda model, x: model(x).square().sum(1))
        >>> @given(pool=pools(torch.eye(3)))
        ... def test_a_score_is_pure(pool):
        ...     ps.testing.assert_pure(score, ps.live(model), pool)
        >>> test_a_score_is_pure()
    """
    batch = trees.plain(batch)
    most = trees.batch_size(batch)
    rows = draw(st.integers(1, most) if size is None else size)
    chosen = draw(st.lists(st.integers(0, most - 1), min_size=rows, max_size=rows))
    return trees.index(batch, torch.tensor(chosen))


@st.composite
def states(
    draw: st.DrawFn,
    rule: Rule,
    size: st.SearchStrategy[int] = sizes,
    columns: Callable[[int], Mapping[str, Tensor]] | None = None,
) -> Any:
    """A rule's states: fresh, or after up to five pools of `losses`.

    Args:
        rule: any.
        size: of those pools.
        columns: `columns(rows)`, what the rule needs beside the losses, by name.

    Example:
        >>> from hypothesis import given
        >>> import puresift as ps
        >>> rule = ps.relative(keep=0.5)
        >>> @given(state=states(rule), pool=losses())
        ... def test_odds_are_probabilities(state, pool):
        ...     probs = rule.select(state, pool)[1].probs
        ...     assert bool(((probs >= 0) & (probs <= 1)).all())
        >>> test_odds_are_probabilities()
    """
    state = rule.init()
    for pool in draw(st.lists(losses(size), max_size=5)):
        state, _ = rule.select(state, pool, **(columns(len(pool)) if columns else {}))
    return state
