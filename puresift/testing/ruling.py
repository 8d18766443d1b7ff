"""The laws of rules, for any rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from puresift import keys, paths, trees
from puresift.checkpoint import load_state_dict, state_dict
from puresift.errors import SiftError
from puresift.sifters import sifter
from puresift.testing.comparing import difference, layout, through_bytes, untouched
from puresift.types import Losses, Odds, Rule

Columns = Callable[[int], Mapping[str, Tensor]]  # rows -> per-row tensors by name
_POOLS = 200  # over which the plan is measured


def assert_rule(
    rule: Rule, *, keep: float | None = None, size: int = 16, columns: Columns | None = None, rounding: float = 1e-5
) -> None:
    """Assert that a rule keeps the laws that the rules of puresift keep, over pools that are hard on ranks and means.

    - odds: probabilities in [0, 1], weights finite and > 0, Float[B] each; `wants(state)` is a Bool[]
    - purity: no input and no generator changes, and the same input gives the same bits
    - order: permuting the rows permutes their odds
    - state: a tree of tensors whose shapes and dtypes never change, and that survives a file with the same bits
    - vmap: over states, it is a loop over them
    - plan: the mean probability is `keep` while losses are exchangeable

    Args:
        rule: `ps.Rule(init, select, wants)`.
        keep: the planned fraction; without it no plan is checked.
        size: rows in the largest pool.
        columns: `columns(rows)`, what the rule needs beside the losses, by name.
        rounding: how far odds may move by the order of the rows and under vmap, relative to them; those of puresift
            keep 0.

    Raises:
        AssertionError: naming the law, the pool and the first place.

    Example:
        >>> import puresift as ps
        >>> def select(state, losses, **columns):
        ...     ones = torch.ones_like(losses)
        ...     return state, ps.Odds(ones / 2, ones)
        >>> assert_rule(ps.Rule(lambda: (), select, lambda state: torch.tensor(False)), keep=0.5)
    """
    assert isinstance(rule, tuple) and len(rule) == 3, "a rule is ps.Rule(init, select, wants)"
    _the_start(rule)
    given = columns or (lambda rows: {})
    for visits in (0, 3):
        state = warmed(rule, visits, size, given)
        for name, pool in pools(size).items():
            kept = given(len(pool))
            at = f"the pool {name!r} of {len(pool)} after {visits} others"
            after, odds = _pure(rule, state, pool, kept, at)
            assert_odds(odds, len(pool), at)
            _wants(rule, after, at)
            found = layout(state, after)
            assert not found, f"state: {at} changes its layout: {found}"
            _order(rule, state, pool, kept, odds, rounding, at)
    _file(rule, state, size, given)
    _vmap(rule, size, given, rounding)
    if keep is not None:
        _plan(rule, keep, size, given)


def pools(size: int) -> dict[str, Losses]:
    """Losses that are hard on ranks and means, by name: Float[B] each, B at most `size`."""
    noise = keys.uniform(keys.key(11), size)
    return {
        "uniform": noise,
        "ties": (noise * 3).floor(),
        "equal": torch.full((size,), 0.7),
        "zeros": torch.zeros(size),
        "heavy": (1 / (noise + 1e-3)) ** 3,
        "tiny": noise * 1e-30,
        "negative": noise - 0.5,
        "ascending": torch.arange(float(size)),
        "short": noise[: max(size // 3, 1)],
        "one": noise[:1],
    }


def warmed(rule: Rule, visits: int, size: int, columns: Columns) -> Any:
    """The rule's state after some pools."""
    state = rule.init()
    for visit in range(visits):
        state, _ = rule.select(state, keys.uniform(keys.key(visit), size), **columns(size))
    return state


def assert_odds(odds: Odds, size: int, at: str = "a pool") -> None:
    """Assert that odds are odds: probabilities in [0, 1], weights finite and > 0, one each a row."""
    assert isinstance(odds, tuple) and len(odds) == 2, f"odds: select gives (state, ps.Odds), got {type(odds).__name__}"
    for name, values in zip(Odds._fields, odds, strict=True):
        right = isinstance(values, Tensor) and values.shape == (size,) and values.is_floating_point()
        kind = f"{values.dtype}{list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        assert right, f"odds: {name} must be Float[{size}], got {kind} for {at}"
    probs, weights = odds
    bad = probs[~((probs >= 0) & (probs <= 1))]
    assert not len(bad), f"odds: probabilities lie in [0, 1], got {float(bad[0])} for {at}"
    bad = weights[~(weights.isfinite() & (weights > 0))]
    assert not len(bad), f"odds: weights are finite and > 0, got {float(bad[0])} for {at}"


def _the_start(rule: Rule) -> None:
    state = rule.init()
    try:
        paths.flat(state)
    except SiftError as error:
        raise AssertionError(
            f"state: {error}; keep settings in the closure, values in a NamedTuple of tensors"
        ) from error
    found = difference(state, rule.init())
    assert not found, f"state: init() gives another state at the second call: {found}"
    _wants(rule, state, "the first state")


def _wants(rule: Rule, state: Any, at: str) -> None:
    with untouched(state=state):
        wish = rule.wants(state)
    right = isinstance(wish, Tensor) and wish.dtype == torch.bool and wish.ndim == 0
    assert right, f"wants: it must give a Bool[], a 0-d torch.bool tensor, got {wish!r} for {at}"


def _pure(rule: Rule, state: Any, pool: Losses, columns: Mapping[str, Tensor], at: str) -> tuple[Any, Odds]:
    try:
        with untouched(state=state, losses=pool, columns=columns):
            answer = rule.select(state, pool, **columns)
            again = rule.select(state, pool, **columns)
    except AssertionError as error:
        raise AssertionError(f"purity: {error} ({at})") from error
    assert isinstance(answer, tuple) and len(answer) == 2, f"odds: select gives (state, ps.Odds), got {answer!r}"
    found = difference(answer, again)
    assert not found, f"purity: the same input gives another answer at the second call: {found} ({at})"
    return answer


def _order(
    rule: Rule, state: Any, pool: Losses, columns: Mapping[str, Tensor], odds: Odds, rounding: float, at: str
) -> None:
    order = keys.uniform(keys.key(5), len(pool)).argsort()
    _, other = rule.select(state, pool[order], **{name: column[order] for name, column in columns.items()})
    for name, one, two in zip(Odds._fields, odds, other, strict=True):
        far = _apart(one[order], two, rounding)
        assert not far, f"order: permuting the rows moves the {name} of a row by {far:.3g} ({at})"


def _vmap(rule: Rule, size: int, columns: Columns, rounding: float) -> None:
    states = [warmed(rule, visits, size, columns) for visits in (0, 1, 3)]
    mine, rows = columns(size), torch.stack([keys.uniform(keys.key(30 + number), size) for number in range(3)])
    together = trees.map_leaves(lambda *leaves: torch.stack(leaves), *states)
    try:
        mapped = torch.func.vmap(lambda state, losses: rule.select(state, losses, **mine))(together, rows)
    except RuntimeError as error:
        raise AssertionError(f"vmap: {error}; choose by torch.where, and read no value on the host") from error
    for number, (state, pool) in enumerate(zip(states, rows, strict=True)):
        for one, many in zip(trees.leaves(rule.select(state, pool, **mine)), trees.leaves(mapped), strict=True):
            row = many.expand(len(rows), *one.shape)[number]
            assert row.dtype == one.dtype and not _apart(one, row, rounding), f"vmap: state {number} gives other values"


def _file(rule: Rule, state: Any, size: int, columns: Columns) -> None:
    pool, mine = keys.uniform(keys.key(3), size), columns(size)
    composed = sifter(lambda params, batch: batch, rule, batch_size=1).init(keys.key(0), pool)
    flat = through_bytes(state_dict(composed._replace(rule=state)))
    loaded = load_state_dict(composed, flat).rule
    found = difference(state, loaded)
    assert not found, f"state: it is another after a file: {found}"
    found = difference(rule.select(state, pool, **mine), rule.select(loaded, pool, **mine))
    assert not found, f"state: after a file it gives other odds: {found}; keep nothing beside the state"


def _plan(rule: Rule, keep: float, size: int, columns: Columns) -> None:
    state, shares, mine = rule.init(), [], columns(size)
    for pool in keys.uniform(keys.key(1000), _POOLS * size).split(size):
        state, odds = rule.select(state, pool, **mine)
        shares.append(odds.probs.double().mean())
    share = torch.stack(shares)
    got, allowed = float(share.mean()), 0.01 + 4.5 * float(share.std()) / _POOLS**0.5
    assert abs(got - keep) <= allowed, f"plan: a mean of {got:.4f} is kept and {keep} is planned, +- {allowed:.4f}"


def _apart(one: Tensor, other: Tensor, rounding: float) -> float:
    """The largest difference of two tensors of one shape, 0 where none is larger than rounding allows."""
    if torch.allclose(one, other, rtol=rounding, atol=0, equal_nan=True):
        return 0.0
    return float((one.double() - other.double()).abs().max().nan_to_num(torch.inf)) or torch.inf
