"""Wrappers that say when a rule is on: a rule in, a rule out. Pools where it is off are not scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.errors import SiftError
from puresift.settings import Number
from puresift.trees import unreadable
from puresift.types import Losses, Odds, Rule


class DelayState(NamedTuple):
    """The wrapped rule's state, and the pools seen."""

    inner: Any
    seen: Tensor  # Int64[]


def delay(rule: Rule, steps: int, *, every: int | None = None) -> Rule:
    """Keep everything for the first `steps` pools, then sift.

    The losses of an untrained model say little about the samples. Pools before the start are not scored, and the rule
    begins with an empty history.

    Args:
        rule: the rule that takes over.
        steps: pools to keep whole first, >= 0.
        every: start another delay every `every` pools, such as each epoch; the rule's state is unchanged meanwhile.

    Returns:
        A rule with p = 1 and weights 1 until then.

    Raises:
        SiftError: steps is out of range, or `every` leaves nothing to sift.

    Example:
        >>> from puresift import rules
        >>> rule = delay(rules.uniform(keep=0.5), steps=1)
        >>> state, first = rule.select(rule.init(), torch.zeros(1))
        >>> state, second = rule.select(state, torch.zeros(1))
        >>> first.probs, second.probs
        (tensor([1.]), tensor([0.5000]))
    """
    settings.called("rule", rule, "select")
    steps = settings.count("steps", steps, least=0)
    if every is not None and (every := settings.count("every", every)) <= steps:
        raise SiftError(f"every must be larger than steps, or nothing is sifted, got steps={steps}, every={every}")

    def on(seen: Tensor) -> Tensor:
        return (seen if every is None else seen % every) >= steps

    return _while(rule, on, DelayState)


class InterruptState(NamedTuple):
    """The wrapped rule's state, and the pools seen."""

    inner: Any
    seen: Tensor  # Int64[]


def interrupt(rule: Rule, *, pools: int, start: Number = 0.5, end: Number = 0.9, every: int = 0) -> Rule:
    """Sift in the middle of training only, with a break every `every` pools.

        pool t is sifted when start <= t / pools < end and (every == 0 or (t + 1) % every != 0)

    Pools that are not sifted are not scored, and do not change the rule's state.

    Differs from Composer's schedule in that t counts pools from the beginning of training, not of an epoch.

    Args:
        rule: the rule while it is on.
        pools: number of pools in the training, such as `epochs * len(loader)`.
        start: the share of them before sifting begins, in [0, 1].
        end: the share of them before it ends, in [0, 1], above start.
        every: one pool in `every` is kept whole; 0 for none, else >= 2.

    Returns:
        A rule with p = 1 and weights 1 while it is off.

    Raises:
        SiftError: a setting is out of range, or nothing is left to sift.

    Example:
        >>> from puresift import rules
        >>> rule = interrupt(rules.uniform(keep=0.5), pools=3, start=0.3, end=0.6)
        >>> state, shares = rule.init(), []
        >>> for _ in range(3):
        ...     state, odds = rule.select(state, torch.zeros(1))
        ...     shares.append(float(odds.probs))
        >>> shares
        [1.0, 0.5, 1.0]

    References:
        The Mosaic ML Team, "Composer", 2021.
    """
    settings.called("rule", rule, "select")
    pools = settings.count("pools", pools)
    start = settings.level("start", start)
    end = settings.level("end", end)
    settings.ordered(("start", start), ("end", end))
    every = settings.count("every", every, least=0)
    if every == 1:
        raise SiftError("every=1 would hand every pool through; give 0 for no breaks, or 2 and more")

    def on(seen: Tensor) -> Tensor:
        time = seen.double() / pools
        active = (time >= start) & (time < end)
        return active & ((seen + 1) % every != 0) if every else active

    return _while(rule, on, InterruptState)


def _while(rule: Rule, on: Callable[[Tensor], Tensor], kind: Callable[[Any, Tensor], Any]) -> Rule:
    """The rule in pools where `on(seen)`; other pools are kept whole, and the rule does not see them."""

    def init() -> Any:
        return kind(rule.init(), torch.zeros((), dtype=torch.int64))

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        inner, odds = rule.select(state.inner, losses, **columns)
        active = on(state.seen)
        return kind(where(active, inner, state.inner), state.seen + 1), passing(active, odds)

    def wants(state: Any) -> Tensor:
        return on(state.seen) & rule.wants(state.inner).to(state.seen.device)

    return Rule(init, select, wants)


class AnnealState(NamedTuple):
    """The wrapped rule's state, and the pools seen."""

    inner: Any
    seen: Tensor  # Int64[]


def anneal(factory: Callable[[Tensor], Rule], schedule: Callable[[Tensor], Tensor]) -> Rule:
    """A rule whose keep follows a schedule: pool t is sifted by factory(schedule(t)).

    Where the schedule is 1, everything is kept at weight 1, nothing is scored, and the rule's state is unchanged.

    Args:
        factory: keep, a Float[] in (0, 1], to a rule, such as `ps.relative`; all its rules need one state structure.
        schedule: t, the pools seen, Int64[], to keep, Float[] in (0, 1], in tensor operations, such as `ps.ramp(...)`.

    Returns:
        A rule.

    Raises:
        SiftError: the schedule's first value is not a Float[] in (0, 1].

    Example:
        >>> from puresift import rules
        >>> rule = anneal(rules.uniform, ramp(0.25, pools=4, full=0.5))
        >>> state, shares = rule.init(), []
        >>> for _ in range(4):
        ...     state, odds = rule.select(state, torch.zeros(1))
        ...     shares.append(float(odds.probs))
        >>> shares
        [0.25, 0.25, 1.0, 1.0]
    """
    first = schedule(torch.zeros((), dtype=torch.int64))
    if not isinstance(first, Tensor) or first.ndim or not first.is_floating_point():
        raise SiftError(f"schedule must map pools seen, Int[], to keep, Float[], but gives {first!r} for 0")
    if not unreadable(first):
        settings.fraction("schedule(0)", float(first))

    def at(seen: Tensor) -> tuple[Rule, Tensor]:
        keep = schedule(seen).float()
        return factory(keep.clamp(max=1)), keep < 1

    def init() -> AnnealState:
        seen = torch.zeros((), dtype=torch.int64)
        return AnnealState(at(seen)[0].init(), seen)

    def select(state: AnnealState, losses: Losses, **columns: Any) -> tuple[AnnealState, Odds]:
        rule, active = at(state.seen)
        inner, odds = rule.select(state.inner, losses, **columns)
        return AnnealState(where(active, inner, state.inner), state.seen + 1), passing(active, odds)

    def wants(state: AnnealState) -> Tensor:
        rule, active = at(state.seen)
        return active & rule.wants(state.inner).to(active.device)

    return Rule(init, select, wants)


def ramp(first: Number, *, last: Number | None = None, pools: int, full: Number = 0.125) -> Callable[[Tensor], Tensor]:
    """A schedule: keep goes linearly from first to last, and is 1 in the last pools.

    Args:
        first: keep at the beginning, in (0, 1].
        last: keep when the last pools begin; by default `first`.
        pools: number of pools in the training, such as `epochs * len(loader)`.
        full: the share of them, at the end, on full data, in [0, 1).

    Returns:
        A function of the pools seen, for `ps.anneal`.

    Raises:
        SiftError: a setting is out of range.

    Example:
        >>> schedule = ramp(0.2, last=0.6, pools=10, full=0.2)
        >>> [round(float(schedule(torch.tensor(t))), 2) for t in (0, 4, 8)]
        [0.2, 0.4, 1.0]

    References:
        Ziheng Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", 2024 (the last
        eighth on full data).
    """
    final = first if last is None else last
    first = settings.fraction("first", first)
    final = settings.fraction("last", final)
    pools = settings.count("pools", pools)
    full = settings.share("full", full)

    def schedule(seen: Tensor) -> Tensor:
        time = seen.double() / pools
        keep = first + (final - first) * (time / (1 - full))
        return torch.where(time < 1 - full, keep, 1.0).float()

    return schedule


def where(active: Tensor, then: Any, otherwise: Any) -> Any:
    """torch.where over two trees, by a Bool[]."""
    return trees.map_leaves(lambda yes, no: torch.where(active, yes, no), then, otherwise)


def passing(active: Tensor, odds: Odds) -> Odds:
    """The odds where active; else everything is kept, at weight 1."""
    ones = torch.ones_like(odds.probs)
    return Odds(torch.where(active, odds.probs, ones), torch.where(active, odds.weights, ones))
