"""Histories of losses that a rule ranks against: rings, kept in order, aged or rescaled."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift.errors import SiftError
from puresift.order import beside, mean, rank_bounds, ranks
from puresift.rules.sketches import Placed, SketchState, by_sketch
from puresift.types import Losses

# Up to here, sorting the history at every pool is as fast as keeping it in order; for far longer ones, 10 times slower.
SORTED_UP_TO = 4096


class ShortHistory(SiftError):
    """A pool has more losses than the history."""

    def __init__(self, size: int, length: int):
        super().__init__(f"a pool of {size} losses does not fit a history of {length}; pass history={size} or more")
        self.length = length


class RelativeState(NamedTuple):
    """The last losses, in a ring."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far


class OrderedState(NamedTuple):
    """The last losses, in a ring, and sorted."""

    history: Tensor  # Float[history]
    ordered: Tensor  # Float[history], ascending
    seen: Tensor  # Int64[], losses so far


class AgedState(NamedTuple):
    """The last losses, in a ring, and when each was added."""

    history: Tensor  # Float[history]
    born: Tensor  # Int64[history], losses seen once the pool was added
    seen: Tensor  # Int64[], losses so far


class ScaledState(NamedTuple):
    """The last losses, in a ring, in units of the location and the scale of their time."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far
    moments: Tensor  # Float64[3]: mass, location, mass * scale ** 2; one tensor, because compile reads 0-d doubles


class WindowState(NamedTuple):
    """Nothing to remember: a pool is ranked by itself."""


def _by_history(state: RelativeState, losses: Losses) -> tuple[RelativeState, Placed]:
    state = RelativeState(*remember(state.history, state.seen, losses))
    below, upto = ranks(state.history, losses, state.seen)
    return state, Placed(below, upto, state.seen.clamp(max=state.history.shape[0]))


def _by_order(state: OrderedState, losses: Losses) -> tuple[OrderedState, Placed]:
    leaving = state.history.gather(0, slots(state.history, state.seen, losses))
    history, seen = remember(state.history, state.seen, losses)
    ordered = exchange(state.ordered, leaving, losses)
    below, upto = rank_bounds(ordered, losses, seen)
    return OrderedState(history, ordered, seen), Placed(below, upto, seen.clamp(max=history.shape[0]))


def _by_itself(state: WindowState, losses: Losses) -> tuple[WindowState, Placed]:
    below, upto = ranks(losses, losses)
    return state, Placed(below, upto, losses.shape[0])


def _by_age(state: AgedState, losses: Losses) -> tuple[AgedState, Placed]:
    length, places = state.history.shape[0], slots(state.history, state.seen, losses)
    history, seen = remember(state.history, state.seen, losses)
    born = state.born.index_copy(0, places, seen.expand(losses.shape[0]))
    filled = torch.arange(length, device=losses.device) < seen
    # Whole numbers, so that their sums are exact in any order.
    counts = torch.exp((seen - born).double() * (-4 / length)).mul(2**20).round().long().where(filled, 0)
    ordered, order = history.sort()
    sums = torch.nn.functional.pad(counts.gather(0, order).cumsum(0), (1, 0))
    below, upto = rank_bounds(ordered, losses)
    placed = Placed(sums.gather(0, below), sums.gather(0, upto), sums[-1], upto - below)
    return AgedState(history, born, seen), placed


def _by_scale(state: ScaledState, losses: Losses) -> tuple[ScaledState, Placed]:
    size, rate = losses.shape[0], 8 / state.history.shape[0]
    if not size:  # an empty pool has no mean, and moves none
        return state, _by_history(RelativeState(state.history, state.seen), losses)[1]
    fade = math.exp(-rate * size)
    pool = losses.double()
    middle = mean(pool)
    mass, location, spread = state.moments.unbind()
    old, shift = mass * fade, middle - location
    mass = old + size
    location = location + shift * (size / mass)
    within = mean((pool - middle).square()) * size
    spread = spread * fade + within + shift.square() * (old * size / mass)
    scale = (spread / mass).sqrt()
    units = torch.where(scale > 0, (pool - location) / scale, 0.0).float()
    inner, placed = _by_history(RelativeState(state.history, state.seen), units)
    return ScaledState(*inner, torch.stack([mass, location, spread])), placed


def choose(
    drift: str | None, history: int, sketch: int | None
) -> tuple[Callable[[], Any], Callable[[Any, Losses], tuple[Any, Placed]]]:
    """An empty history, and the function that places losses in it and remembers them.

    Raises:
        SiftError: unknown drift, or one that cannot be combined with a sketch.
    """
    if drift not in (None, "window", "age", "scale"):
        raise SiftError(f'drift must be None, "window", "age" or "scale", got {drift!r}')
    if sketch is not None:
        if drift is not None:
            raise SiftError(f"a sketch forgets by age already, so it excludes drift={drift!r}; leave one out")
        # infinite edges hold no mass, and the first pool moves them
        empty = lambda: SketchState(torch.full((sketch,), -torch.inf), torch.zeros(sketch, dtype=torch.float64))  # noqa: E731
        return empty, partial(by_sketch, history=history)
    if drift == "window":
        return WindowState, _by_itself
    if drift == "age":
        return lambda: AgedState(unseen(history)[0], torch.zeros(history, dtype=torch.int64), unseen(1)[1]), _by_age
    if drift == "scale":
        return lambda: ScaledState(*unseen(history), torch.zeros(3, dtype=torch.float64)), _by_scale
    if history <= SORTED_UP_TO:
        return lambda: RelativeState(*unseen(history)), _by_history
    return lambda: OrderedState(unseen(history)[0], *unseen(history)), _by_order


def unseen(history: int) -> tuple[Tensor, Tensor]:
    """An empty ring, Float[history], and the number of losses seen, Int64[]."""
    return torch.full((history,), torch.inf), torch.zeros((), dtype=torch.int64)


def remember(history: Tensor, seen: Tensor, losses: Losses) -> tuple[Tensor, Tensor]:
    """The ring with a pool's losses in place of its oldest ones, and the number seen.

    Args:
        history: Float[n], infinite where nothing was seen yet.
        seen: Int64[], losses so far.
        losses: Float[B].

    Returns:
        Float[n] and Int64[].

    Raises:
        SiftError: the pool is longer than the history.
    """
    place = slots(history, seen, losses)
    if torch.compiler.is_compiling() and losses.shape[0]:  # to read every slot anew fuses, as writing to some does not
        number = (torch.arange(history.shape[0], device=losses.device) - seen) % history.shape[0]
        come = losses[number.clamp(max=losses.shape[0] - 1)]
        return torch.where(number < losses.shape[0], come, history), seen + losses.shape[0]
    return history.index_copy(0, place, losses), seen + losses.shape[0]


def exchange(ordered: Tensor, leaving: Tensor, coming: Tensor) -> Tensor:
    """An ordered tensor with some of its values exchanged for others: a merge in linear time, which a sort is not.

    Args:
        ordered: Float[n], ascending.
        leaving: Float[B], values in it, as often as they occur here.
        coming: Float[B].

    Returns:
        Float[n], ascending.
    """
    size, length = leaving.shape[0], ordered.shape[0]
    leaving, coming, number = leaving.sort().values, coming.sort().values, torch.arange(size, device=ordered.device)
    twins = number - torch.searchsorted(leaving, leaving)  # how many of the same value leave before this one
    gone = torch.searchsorted(ordered, leaving) + twins
    at = torch.searchsorted(ordered, beside(ordered, coming))
    # A value that stays moves up by those added below it and down by those removed below it.
    ones = torch.ones_like(at, dtype=torch.int32)
    moves = torch.zeros_like(torch.cat([ordered, coming[:1]]), dtype=torch.int32)  # batched under vmap if either is
    moves = moves.index_add_(0, torch.cat([at, gone + 1]), torch.cat([ones, -ones])).cumsum(0)
    place = moves[:length] + torch.arange(length, device=ordered.device)
    # Added values replace removed ones, then all values are scattered to their sorted positions.
    place = place.scatter(0, gone, at - torch.searchsorted(gone, at) + number)
    seated = ordered.scatter(0, gone, coming)
    return seated.scatter(0, place, seated)


def slots(history: Tensor, seen: Tensor, losses: Losses) -> Tensor:
    """Int64[B]: where in the ring a pool's losses go.

    Raises:
        SiftError: the pool is longer than the history.
    """
    size, length = losses.shape[0], history.shape[0]
    if size > length:
        raise ShortHistory(size, length)
    return (seen + torch.arange(size, device=losses.device)) % length
