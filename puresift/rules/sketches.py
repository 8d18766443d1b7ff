"""Ranks in a history that is too long to keep: a sketch of its distribution, of fixed size."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from puresift.order import beside
from puresift.trees import unreadable
from puresift.types import Losses


class SketchState(NamedTuple):
    """A histogram of the last losses over a fixed number of moving edges; older losses count less."""

    edges: Tensor  # Float[sketch], ascending
    mass: Tensor  # Float64[sketch], losses in (the edge before, the edge]


class Placed(NamedTuple):
    """The ranks of a loss, [below, upto] out of number, and how many losses share them: by default upto - below."""

    below: Tensor
    upto: Tensor
    number: Tensor | int
    equal: Tensor | None = None


def by_sketch(state: SketchState, losses: Losses, *, history: int) -> tuple[SketchState, Placed]:
    losses, order = beside(state.edges, losses).sort()  # sorted, they are looked up twice as fast
    edges, mass = _refined(state.edges, state.mass * math.exp(-losses.shape[0] / history), losses)
    place = torch.searchsorted(edges, losses)
    mass = mass.index_add(0, place, torch.ones_like(losses, dtype=mass.dtype))
    upto = mass.cumsum(0)
    number = upto[-1].clamp(min=1)
    upto = upto.gather(0, place)
    below = upto - mass.gather(0, place)
    # Losses in a bin of one value share its ranks; in other bins mass is spread evenly, and each loss has one rank.
    atom = _atoms(edges).gather(0, place) & (upto - below > 1)
    middle = _known(edges, mass, losses)
    below = torch.where(atom, below, (middle - 0.5).clamp(min=0))
    upto = torch.minimum(torch.where(atom, upto, below + 1), number)
    back = order.argsort()
    return SketchState(edges, mass), Placed(below[back], upto[back], number, torch.where(atom, 2, 1)[back])


def _refined(edges: Tensor, mass: Tensor, losses: Losses) -> tuple[Tensor, Tensor]:
    """Edges at the quantiles of old and new losses together, if some bin would hold more than twice its share.

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
        return edges, mass  # skip unused work; elsewhere, this check would synchronise
    come = torch.zeros_like(torch.cat([edges, losses[:1]]), dtype=torch.int64).index_add(
        0, place, torch.ones_like(place)
    )
    before, rank = come.cumsum(0)[:number], torch.arange(max(number, losses.shape[0]), device=edges.device)
    seats = torch.cat([rank[:number] + before, place + rank[: losses.shape[0]]])  # positions in the merge of both
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
    """Float64: how much of the mass lies at or below each value, if a bin's mass is spread evenly over it."""
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
