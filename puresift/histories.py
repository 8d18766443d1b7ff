"""Where a loss stands among earlier ones: histories that a rule by rank may keep, exact or bounded, lagging or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift.columns import unreadable
from puresift.ranks import beside, exchange, mean, ranks, remember, slots, unseen
from puresift.types import Losses

# Up to here, sorting the history at every pool is as fast as keeping it in order; far beyond, it is ten times slower.
SORTED_UP_TO = 4096


class RelativeState(NamedTuple):
    """The last losses, in a ring."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far


class OrderedState(NamedTuple):
    """The last losses, in a ring, and once more in order."""

    history: Tensor  # Float[history]
    ordered: Tensor  # Float[history], ascending
    seen: Tensor  # Int64[], losses so far


class AgedState(NamedTuple):
    """The last losses, in a ring, and when they came."""

    history: Tensor  # Float[history]
    born: Tensor  # Int64[history], losses seen when the pool had come in
    seen: Tensor  # Int64[], losses so far


class ScaledState(NamedTuple):
    """The last losses, in a ring, in units of the location and the scale of their time."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far
    moments: Tensor  # Float64[3]: mass, location, mass * scale ** 2; one tensor, for compile reads 0-d doubles


class SketchState(NamedTuple):
    """How much of the last losses lies up to each of a fixed number of edges, older ones counting less."""

    edges: Tensor  # Float[sketch], ascending
    mass: Tensor  # Float64[sketch], losses in (the edge before, the edge]


class WindowState(NamedTuple):
    """Nothing to remember: a pool is ranked by itself."""


class Placed(NamedTuple):
    """The ranks a loss owns, [below, upto] out of number, and how many losses share them."""

    below: Tensor
    upto: Tensor
    number: Tensor | int
    equal: Tensor


def _by_history(state: RelativeState, losses: Losses) -> tuple[RelativeState, Placed]:
    state = RelativeState(*remember(state.history, state.seen, losses))
    below, upto = ranks(state.history.sort().values, losses)
    return state, Placed(below, upto, state.seen.clamp(max=state.history.shape[0]), upto - below)


def _by_order(state: OrderedState, losses: Losses) -> tuple[OrderedState, Placed]:
    leaving = state.history.gather(0, slots(state.history, state.seen, losses))
    history, seen = remember(state.history, state.seen, losses)
    ordered = exchange(state.ordered, leaving, losses)
    below, upto = ranks(ordered, losses)
    return OrderedState(history, ordered, seen), Placed(below, upto, seen.clamp(max=history.shape[0]), upto - below)


def _by_itself(state: WindowState, losses: Losses) -> tuple[WindowState, Placed]:
    below, upto = ranks(losses.sort().values, losses)
    return state, Placed(below, upto, losses.shape[0], upto - below)


def _by_age(state: AgedState, losses: Losses) -> tuple[AgedState, Placed]:
    length, places = state.history.shape[0], slots(state.history, state.seen, losses)
    history, seen = remember(state.history, state.seen, losses)
    born = state.born.index_copy(0, places, seen.expand(losses.shape[0]))
    filled = torch.arange(length, device=losses.device) < seen
    # Whole numbers, so that their sums are exact in any order.
    counts = torch.exp((seen - born).double() * (-4 / length)).mul(2**20).round().long().where(filled, 0)
    ordered, order = history.sort()
    sums = torch.nn.functional.pad(counts.gather(0, order).cumsum(0), (1, 0))
    below, upto = ranks(ordered, losses)
    placed = Placed(sums.gather(0, below), sums.gather(0, upto), sums[-1], upto - below)
    return AgedState(history, born, seen), placed


def _by_scale(state: ScaledState, losses: Losses) -> tuple[ScaledState, Placed]:
    size, rate = losses.shape[0], 8 / state.history.shape[0]
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


def _by_sketch(state: SketchState, losses: Losses, *, history: int) -> tuple[SketchState, Placed]:
    losses, order = beside(state.edges, losses).sort()  # neighbours are looked up twice as fast
    edges, mass = _refined(state.edges, state.mass * math.exp(-losses.shape[0] / history), losses)
    place = torch.searchsorted(edges, losses)
    mass = mass.index_add(0, place, torch.ones_like(losses, dtype=mass.dtype))
    upto = mass.cumsum(0)
    number = upto[-1].clamp(min=1)
    upto = upto.gather(0, place)
    below = upto - mass.gather(0, place)
    # In a bin of one value, the losses share its ranks; in any other, each owns one rank of mass that is spread evenly.
    atom = _atoms(edges).gather(0, place) & (upto - below > 1)
    middle = _known(edges, mass, losses)
    below = torch.where(atom, below, (middle - 0.5).clamp(min=0))
    upto = torch.minimum(torch.where(atom, upto, below + 1), number)
    back = order.argsort()
    return SketchState(edges, mass), Placed(below[back], upto[back], number, torch.where(atom, 2, 1)[back])


def _refined(edges: Tensor, mass: Tensor, losses: Losses) -> tuple[Tensor, Tensor]:
    """Edges at the quantiles of what is known and what comes, if some bin would hold more than twice its share.

    Args:
        edges: Float[K], ascending.
        mass: Float64[K].
        losses: Float[B], ascending.
    """
    number, ones = edges.shape[0], torch.ones_like(losses, dtype=mass.dtype)
    place = torch.searchsorted(edges, losses)
    load = mass.index_add(0, place.clamp(max=number - 1), ones)
    heavy = ((load > 2 / number * (mass.sum() + losses.shape[0])) & ~_atoms(edges)).any()
    heavy = heavy | ((losses < edges[0]) | (losses > edges[-1])).any()
    if heavy.device.type == "cpu" and not unreadable(heavy) and not bool(heavy):
        return edges, mass  # what follows would be thrown away; elsewhere, to ask would cost more
    come = torch.zeros_like(torch.cat([edges, losses[:1]]), dtype=torch.int64).index_add(
        0, place, torch.ones_like(place)
    )
    before, rank = come.cumsum(0)[:number], torch.arange(max(number, losses.shape[0]), device=edges.device)
    seats = torch.cat([rank[:number] + before, place + rank[: losses.shape[0]]])  # in the merge of both
    values = torch.cat([edges, losses])
    values, sums = values.scatter(0, seats, values), torch.cat([mass, ones])
    sums = sums.scatter(0, seats, sums).cumsum(0)
    levels = torch.linspace(0, 1, number, device=edges.device, dtype=mass.dtype).clamp(min=1e-9) * sums[-1]
    moved = values.gather(0, torch.searchsorted(sums, levels).clamp(max=values.shape[0] - 1))
    # A value that fills more than a bin gets one of its own, one unit in the last place wide.
    lower = torch.nn.functional.pad(moved, (1, 0), value=-torch.inf)
    first = (moved[1:] == moved[:-1]) & (lower[:-2] < moved[:-1])
    moved = torch.cat([torch.where(first, _under(moved[:-1]), moved[:-1]), moved[-1:]])
    below = torch.nn.functional.pad(_known(edges, mass, moved), (1, 0))
    return torch.where(heavy, moved, edges), torch.where(heavy, below.diff().clamp(min=0), mass)


def _known(edges: Tensor, mass: Tensor, values: Tensor) -> Tensor:
    """Float64: how much of the mass lies up to each value, if a bin's mass is spread evenly over it."""
    place = torch.searchsorted(edges, values).clamp(max=edges.shape[0] - 1)
    upper, upto, here = edges.gather(0, place).double(), mass.cumsum(0).gather(0, place), mass.gather(0, place)
    lower = torch.nn.functional.pad(edges, (1, 0), value=-torch.inf).gather(0, place).double()
    inside = (lower > -torch.inf) & (values < upper)
    share = torch.where(inside, (values - lower) / (upper - lower), (values >= upper).double())
    return upto - here * (1 - share)


def _under(values: Tensor) -> Tensor:
    return torch.nextafter(values, torch.full_like(values, -torch.inf))


def _atoms(edges: Tensor) -> Tensor:
    """Bool[K]: bins that hold one value."""
    lower = torch.nn.functional.pad(edges, (1, 0), value=-torch.inf)[:-1]
    return _under(edges) <= lower


def choose(
    drift: str | None, history: int, sketch: int | None
) -> tuple[Callable[[], Any], Callable[[Any, Losses], tuple[Any, Placed]]]:
    """An empty history, and the function that places losses in it and remembers them.

    Raises:
        ValueError: there is no such drift, or it does not go with a sketch.
    """
    if drift not in (None, "window", "age", "scale"):
        raise ValueError(f'drift must be None, "window", "age" or "scale", got {drift!r}')
    if sketch is not None:
        if drift is not None:
            raise ValueError(f"a sketch forgets by age already, so it does not go with drift={drift!r}; leave one out")
        # edges of infinity hold nothing, and the first pool moves them
        empty = lambda: SketchState(torch.full((sketch,), -torch.inf), torch.zeros(sketch, dtype=torch.float64))  # noqa: E731
        return empty, partial(_by_sketch, history=history)
    if drift == "window":
        return WindowState, _by_itself
    if drift == "age":
        return lambda: AgedState(unseen(history)[0], torch.zeros(history, dtype=torch.int64), unseen(1)[1]), _by_age
    if drift == "scale":
        return lambda: ScaledState(*unseen(history), torch.zeros(3, dtype=torch.float64)), _by_scale
    if history <= SORTED_UP_TO:
        return lambda: RelativeState(*unseen(history)), _by_history
    return lambda: OrderedState(unseen(history)[0], *unseen(history)), _by_order
