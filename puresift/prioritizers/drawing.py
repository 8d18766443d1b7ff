"""Drawing what to load from the losses that training has already computed: nothing is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from puresift import draws, keys, settings, trees
from puresift.errors import SiftError
from puresift.prioritizers.table import Plan, PrioritizerState, entered, known, maybe, observed, read
from puresift.types import Draw, Key, Losses, Odds, Rule

_DRAWS: dict[Draw, Callable[[Key, Tensor, Tensor, int], Tensor]] = {
    draws.systematic: draws.spaced,
    draws.bernoulli: draws.independent,
}
_HELD = 2**22  # ids, of 8 bytes, that are kept from draw to draw; more are made anew


class Prioritizer(NamedTuple):
    """A table of losses by sample id, a rule over it and a draw; every member is pure.

    Example:
        >>> import puresift as ps
        >>> drawer = ps.prioritizer(ps.importance(keep=0.5, floor=0.1), size=4, batch_size=2, every=2)
        >>> state, ids, weights = drawer.draw(drawer.init(ps.key(0)))
        >>> sorted(ids.flatten().tolist())  # nothing is known yet: each once
        [0, 1, 2, 3]
    """

    init: Callable[[Key], PrioritizerState]
    draw: Callable[[PrioritizerState], tuple[PrioritizerState, Tensor, Tensor]]  # -> (state, ids, weights)
    observe: Callable[[PrioritizerState, Tensor, Losses], PrioritizerState]  # state, ids, losses -> state
    plan: Plan


def prioritizer(
    rule: Rule,
    *,
    size: int,
    batch_size: int,
    steps: int | None = None,
    every: int = 16,
    draw: Draw = draws.systematic,
    start: float = 1.0,
    end: float = 0.15,
    columns: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Prioritizer:
    """Draw batches of ids from a table of the losses that training itself computed.

    Nothing is scored and nothing is loaded that is not trained on, so a step costs what a plain one does. The table
    holds each sample's loss from when it was last trained on. Every `every` batches the rule gives odds over the whole
    table, and that many batches of ids are drawn at once:

        expected times that id i is drawn = every * batch_size * p_i / sum(p)

    so a rule's own `keep` only shapes the odds. The first `start` passes are everything in random order, each id once a
    pass, and so are the last `end` of a known budget. An id whose loss is unknown counts as the largest known one.

    Differs from Loshchilov and Hutter's online batch selection: probabilities come from any rule, ids are drawn
    systematically, and the run ends on uniform batches.

    Args:
        rule: losses to odds, with any wrapper: `ps.by_root(ps.importance(keep=0.05, floor=0.1, bias=0.0))` is where to
            begin. A history must hold the whole table.
        size: samples in the dataset, N.
        batch_size: rows in a batch, B.
        steps: the budget in batches, by which the uniform end is known; without it there is none.
        every: batches in a draw, E; the odds are that old at most.
        draw: `ps.systematic` spreads a draw as evenly over the odds as can be; `ps.bernoulli` draws each id by a coin
            of its own, which adds noise.
        start: passes over everything at the beginning, >= 0.
        end: the share of the steps that are everything again, in [0, 1).
        columns: per-sample tensors [N] by name, for rules that use them (`ps.by_group`); "id" is there already.
        dtype: of the table; torch.float16 halves its 4 bytes a sample.

    Returns:
        `Prioritizer(init, draw, observe, plan)`:
        `init(key) -> state`, on the key's device;
        `draw(state) -> (state, ids Int64[E, B], weights Float[E, B])`, the next E batches;
        `observe(state, ids, losses) -> state`, training losses Float[B] of the ids Int[B]. They wait in the state and
        enter the table at the next draw; of an id that comes twice the later loss counts. One that is not finite makes
        its id unknown.

    Raises:
        SiftError: a setting is out of range; from draw, the rule gives p = 0 to all; from observe, shapes differ, ids
            are out of range, or a loss is not finite (what needs numbers, where reading them is free: on the CPU,
            uncompiled).

    Example:
        >>> from puresift import rules
        >>> drawer = prioritizer(rules.importance(keep=0.25, floor=0.0, bias=0.0), size=4, batch_size=2, every=2)
        >>> state, ids, weights = drawer.draw(drawer.init(keys.key(0)))
        >>> sorted(ids.flatten().tolist())
        [0, 1, 2, 3]
        >>> for batch in ids:
        ...     state = drawer.observe(state, batch, (batch == 3).float())
        >>> drawer.draw(state)[1]
        tensor([[3, 3],
                [3, 3]])

    References:
        Ilya Loshchilov, Frank Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015.
        Tom Schaul, John Quan, Ioannis Antonoglou, David Silver, "Prioritized Experience Replay", 2016.
    """
    settings.called("rule", rule, "select")
    plan = _planned(size, batch_size, every, steps, start, end)
    if draw not in _DRAWS:
        raise SiftError("draw must be ps.systematic or ps.bernoulli: a draw of ids fills batches of one size")
    if not dtype.is_floating_point:
        raise SiftError(f"dtype must be a floating-point type, such as torch.float16, got {dtype}")
    columns = dict(columns or {})
    for name, column in columns.items():
        if column.shape[:1] != (size,):
            raise SiftError(f"the column {name!r} must have one entry a sample, [{size}], got {list(column.shape)}")
    held = torch.arange(plan.size) if plan.size <= _HELD else None
    parts = _Parts(rule, _DRAWS[draw], held, columns, dtype, plan)
    return Prioritizer(partial(_init, parts), partial(_draw, parts), partial(_observe, parts), plan)


class _Parts(NamedTuple):
    """What a prioritizer is made of."""

    rule: Rule
    draw: Callable[[Key, Tensor, Tensor, int], Tensor]
    held: Tensor | None  # Int64[N], the column "id" on the CPU
    columns: dict[str, Tensor]
    dtype: torch.dtype
    plan: Plan


def _init(parts: _Parts, key: Key) -> PrioritizerState:
    key = keys.checked(key)
    shape = parts.plan.every, parts.plan.batch_size
    ids, waiting = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
    probs, weights, losses = (torch.ones(shape) for _ in range(3))
    rows, drawn, step = (torch.zeros((), dtype=torch.int64) for _ in range(3))
    table = torch.full((parts.plan.size,), torch.nan, dtype=parts.dtype)
    state = PrioritizerState(
        table, parts.rule.init(), ids, Odds(probs, weights), waiting, losses, rows, key, drawn, step
    )
    return trees.to(state, key.device)


def _draw(parts: _Parts, state: PrioritizerState) -> tuple[PrioritizerState, Tensor, Tensor]:
    plan, table = parts.plan, entered(state)
    count = plan.every * plan.batch_size
    end = torch.iinfo(torch.int64).max if plan.end is None else plan.end
    first = read(state.draws) * count  # of the places in the endless sequence of ids that this draw fills
    ids, probs, weights = (values.flatten() for values in (state.ids, *state.odds))  # of what replaces all of them
    ruled = state.rule
    by_rule = (first + count > plan.start) & (first < end)  # whether it decides about some of them
    if maybe(by_rule):
        after, odds = parts.rule.select(state.rule, known(table), **_columns(parts, table))
        ruled = after
        if isinstance(by_rule, Tensor):
            ruled = trees.map_leaves(lambda new, old: torch.where(by_rule, new, old), after, state.rule)
        shares = _positive(odds.probs)
        ids = parts.draw(state.key, state.draws, shares, count)
        ids = ids.view(plan.batch_size, plan.every).T.flatten()  # so that each batch is spread over the table
        probs = (shares.index_select(0, ids) * (count / shares.double().sum())).clamp(max=1).float()
        weights = odds.weights.index_select(0, ids).float()
    if maybe((first < plan.start) | (first + count > end)):
        places = first + torch.arange(count, device=table.device)
        everything = (places < plan.start) | (places >= end)
        passes = -(-plan.start // plan.size)  # of the start; those of the end are numbered after them
        place = torch.where(places < plan.start, places, places - (plan.end or 0) + passes * plan.size)
        least = torch.where(everything, place, torch.iinfo(place.dtype).max).amin()
        place = torch.where(everything, place, least)
        ids = torch.where(everything, keys.passes(state.key, place, plan.size), ids)
        probs, weights = (torch.where(everything, 1.0, values) for values in (probs, weights))
    ids, probs, weights = (values.view(plan.every, plan.batch_size) for values in (ids, probs, weights))
    _, _, _, _, waiting_ids, waiting_losses, waiting, key, drawn, step = state
    waiting = torch.zeros_like(waiting)  # all that waited is in the table now
    odds = Odds(probs, weights)
    after = PrioritizerState(table, ruled, ids, odds, waiting_ids, waiting_losses, waiting, key, drawn + 1, step)
    return after, ids, weights


def _observe(parts: _Parts, state: PrioritizerState, ids: Tensor, losses: Losses) -> PrioritizerState:
    ids, losses = observed(ids.to(state.ids.device), losses.detach().to(state.ids.device), parts.plan)
    table, rule, drawn_ids, odds, waiting_ids, waiting_losses, waiting, key, drawn, step = state
    full = waiting >= parts.plan.every
    if maybe(full):
        table, waiting = torch.where(full, entered(state), table), torch.where(full, 0, waiting)
    waiting_ids = waiting_ids.index_copy(0, waiting[None], ids[None])
    waiting_losses = waiting_losses.index_copy(0, waiting[None], losses[None])
    return PrioritizerState(table, rule, drawn_ids, odds, waiting_ids, waiting_losses, waiting + 1, key, drawn, step)


def _planned(size: int, batch_size: int, every: int, steps: int | None, start: float, end: float) -> Plan:
    size = settings.count("size", size)
    batch_size = settings.count("batch_size", batch_size)
    every = settings.count("every", every)
    start = settings.nonnegative("start", start)
    end = settings.share("end", end)
    last = None
    if steps is not None:
        steps = settings.count("steps", steps)
        last = (steps - round(end * steps)) * batch_size
    return Plan(size, batch_size, every, steps, round(start * size), last)


def _columns(parts: _Parts, table: Tensor) -> dict[str, Tensor]:
    held = parts.held is not None and table.device.type == "cpu"
    ids = parts.held if held else torch.arange(parts.plan.size, device=table.device)
    return {"id": ids, **trees.to(parts.columns, table.device)}


def _positive(probs: Tensor) -> Tensor:
    """The probabilities, or all 1 where the rule gives 0 to all; an error where that can be read for free."""
    nothing = probs.amax() <= 0
    if not maybe(nothing):
        return probs
    if probs.device.type == "cpu" and not trees.unreadable(nothing):
        raise SiftError(
            "the rule gives p = 0 to every sample of the table, so no id can be drawn; give each a probability, "
            "as in ps.floor(rule, least=0.05)"
        )
    return torch.where(nothing, 1.0, probs)
