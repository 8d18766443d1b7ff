"""Stateful scores: tables by sample id, in the score's state. Each wraps a score."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings, tables, trees
from puresift.errors import SiftError
from puresift.ids import Ids, by_id, checked, facts, ids_of, newest, refuse
from puresift.scores.losses import lift
from puresift.tables import Table
from puresift.types import Batch, Losses, Params, Score, ScoreFn


class RememberedState(NamedTuple):
    """The last known loss of each sample, and its age."""

    losses: Tensor | Table  # Float[size], NaN where missing
    ages: Tensor | Table  # Int64[size], visits since the loss was taken


def remembered(score: ScoreFn, size: int, *, every: int, id: Ids = by_id, gather: bool = True) -> Score:
    """The last known loss of each sample, scored again only where it is missing or older than `every` epochs.

    Training gives losses for free: `stream.observe(losses)` writes those of the kept rows into the table, so that only
    rows that were not kept become stale. A row that is kept with probability p is then scored in at most (1 - p) /
    every of its visits, and a pool whose rows are all known runs no forward at all. The first epoch is scored in
    full, unless `ps.delay` trains on all of it: those losses fill the table.

    An epoch is a visit: an age counts how often the sample was seen since its loss was taken. New entries of the table
    start at an age of 0 to every - 1 visits, by id, so that not all rows become stale in the same epoch.

    Args:
        score: a plain score in the unit of the losses passed to `observe`. Other scores wrap this one, as in
            `reducible(remembered(score, ...), table)`.
        size: samples in the dataset; ids lie in [0, size).
        every: epochs that a loss is used for, >= 1.
        id: `id(batch)`, Int[B]; by default `batch["id"]`.
        gather: score only the rows that need it. Their number is read from the device once per pool. False scores every
            row and saves nothing, but has fixed shapes and reads nothing, for fullgraph compile and vmap; of rows that
            repeat an id the last one counts.

    Returns:
        A `Score` with a `RememberedState`; where an age is 0, the loss is from this visit.

    Raises:
        SiftError: a setting is out of range, or the score is itself stateful; when called, ids are missing or they are
            out of range or, in a pool, repeated. A training batch may repeat one across two epochs: the last row
            counts.

    Example:
        >>> score = remembered(lambda params, batch: batch["x"], 10, every=3)
        >>> state, _ = score.apply(score.init(), {}, {"x": torch.tensor([1.0, 2.0]), "id": torch.tensor([7, 3])})
        >>> state, losses = score.apply(state, {}, {"x": torch.tensor([5.0, 6.0]), "id": torch.tensor([7, 4])})
        >>> losses
        tensor([1., 6.])

    References:
        Ilya Loshchilov, Frank Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015.
        Angela H. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019: its stale variant.
    """
    size = settings.count("size", size)
    every = settings.count("every", every)
    if isinstance(score, Score):
        raise SiftError(
            "remembered takes a plain score, and this one remembers itself; put remembered innermost, "
            "as in reducible(remembered(score, size, every=...), table)"
        )

    def init() -> RememberedState:
        losses, ages = torch.full((size,), torch.nan), torch.zeros(size, dtype=torch.int64)
        return RememberedState(tables.table(losses), tables.table(ages))

    def apply(state: RememberedState, params: Params, batch: Batch) -> tuple[RememberedState, Losses]:
        ids = ids_of(id(batch), batch, tables.settled(state.losses))
        ids = ids if gather else checked(ids, size)
        at = ids.clamp(0, size - 1)  # safe to index with before the ids are checked below
        known, ages = tables.read(state.losses, at), tables.read(state.ages, at) + 1
        stale = known.isnan() | (ages > every)
        count, rows = len(ids), None
        if gather and count:
            count, *found = torch.stack([stale.sum(), *facts(ids)]).tolist()  # the one synchronisation
            refuse(found, size)
            rows = stale.byte().argsort(descending=True, stable=True)[:count]
        if count == 0:
            losses = known
        elif rows is None or count == len(ids):
            losses = torch.where(stale, score(params, batch).float(), known)
        else:
            losses = known.index_copy(0, rows, score(params, trees.index(trees.plain(batch), rows)).float())
        ages = torch.where(stale, _first_age(ids, known), ages)
        return _written(state, ids, losses, ages), losses

    def observe(state: RememberedState, batch: Batch, losses: Losses) -> RememberedState:
        ids = checked(ids_of(id(batch), batch, tables.settled(state.losses)), size)
        return _written(state, ids, losses, _first_age(ids, tables.read(state.losses, ids)))

    def _first_age(ids: Tensor, known: Tensor) -> Tensor:
        return torch.where(known.isnan(), ids % every, 0)

    return Score(init, apply, observe)


class RecalledState(NamedTuple):
    """The last known loss of each sample."""

    losses: Tensor | Table  # Float[size], NaN where missing


def recalled(size: int, *, id: Ids = by_id) -> Score:
    """The last known loss of each sample, NaN where none is known: a score that computes nothing.

    It knows what it is told, by `stream.observe(losses)` or, as the first score of a `ps.cascade`, by the second. On
    its own it needs a sifter with nonfinite="keep", which trains on what is not known yet; to score such rows, and
    those whose loss is old, use `ps.remembered`.

    Args:
        size: samples in the dataset; ids lie in [0, size).
        id: `id(batch)`, Int[B]; by default `batch["id"]`.

    Returns:
        A `Score` with a `RecalledState`.

    Raises:
        SiftError: size is out of range; when called, ids are missing or out of range (where that costs nothing to see).

    Example:
        >>> score, batch = recalled(10), {"id": torch.tensor([7, 3])}
        >>> state = score.observe(score.init(), batch, torch.tensor([0.5, 2.0]))
        >>> score.apply(state, {}, {"id": torch.tensor([3, 4])})[1]
        tensor([2., nan])

    References:
        Ilya Loshchilov, Frank Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015.
    """
    size = settings.count("size", size)

    def apply(state: RecalledState, params: Params, batch: Batch) -> tuple[RecalledState, Losses]:
        ids = checked(ids_of(id(batch), batch, tables.settled(state.losses)), size)
        return state, tables.read(state.losses, ids)

    def observe(state: RecalledState, batch: Batch, losses: Losses) -> RecalledState:
        ids = checked(ids_of(id(batch), batch, tables.settled(state.losses)), size)
        losses = torch.where(losses.isfinite(), losses, torch.nan)[newest(ids)]
        return RecalledState(tables.write(state.losses, ids, losses))

    return Score(lambda: RecalledState(tables.table(torch.full((size,), torch.nan))), apply, observe)


class ChangeState(NamedTuple):
    """The score's own state, and each sample's losses at its last visits."""

    inner: Any
    losses: Tensor  # Float[order, size], the newest first, NaN where missing


def change(score: ScoreFn | Score, size: int, *, order: int = 2, id: Ids = by_id) -> Score:
    """How much a sample's loss still changes: |l_t - l_(t-1)|, or the second difference |l_t - 2 l_(t-1) + l_(t-2)|.

    t counts the visits of that sample. With too few known losses, it is the highest possible difference: at the
    first visit the loss itself. The loss of a learnt or unlearnable sample stops changing, so it scores low.

    Args:
        score: the loss, stateless or not; a remembered loss does not change.
        size: samples in the dataset; ids lie in [0, size).
        order: 1 or 2.
        id: `id(batch)`, Int[B]; by default `batch["id"]`.

    Returns:
        A `Score` with a `ChangeState`, Float[B] in the loss's unit. Training losses go only to the inner score: they
        are taken in train mode, where dropout would count as change.

    Raises:
        SiftError: a setting is out of range; when called, there are no ids or they are out of range (checked where
            that costs nothing: on the CPU).

    Example:
        >>> score = change(lambda params, batch: batch["x"], 10, order=1)
        >>> batch = {"x": torch.tensor([1.0, 2.0]), "id": torch.tensor([7, 3])}
        >>> state, first = score.apply(score.init(), {}, batch)
        >>> state, second = score.apply(state, {}, {**batch, "x": torch.tensor([0.5, 2.0])})
        >>> first, second
        (tensor([1., 2.]), tensor([0.5000, 0.0000]))

    References:
        Suqin Yuan et al., "Instance-dependent Early Stopping", 2025.
    """
    size = settings.count("size", size)
    if isinstance(order, bool) or order not in (1, 2):
        raise SiftError(f"order must be 1 or 2, the first or the second difference, got {order!r}")
    inner = lift(score)

    def init() -> ChangeState:
        return ChangeState(inner.init(), torch.full((order, size), torch.nan))

    def apply(state: ChangeState, params: Params, batch: Batch) -> tuple[ChangeState, Losses]:
        ids = checked(ids_of(id(batch), batch, state.losses), size)
        after, losses = inner.apply(state.inner, params, batch)
        losses = losses.float()
        before = state.losses[:, ids]
        moved, steps = losses, losses - before
        moved = torch.where(before[0].isnan(), moved, steps[0])
        if order == 2:
            moved = torch.where(before[1].isnan(), moved, losses - 2 * before[0] + before[1])
        table = torch.cat([losses[newest(ids)][None], before[:-1]])
        return ChangeState(after, state.losses.index_copy(1, ids, table)), moved.abs()

    def observe(state: ChangeState, batch: Batch, losses: Losses) -> ChangeState:
        assert inner.observe is not None
        return state._replace(inner=inner.observe(state.inner, batch, losses))

    return Score(init, apply, observe if inner.observe else None)


def _written(state: RememberedState, ids: Tensor, losses: Losses, ages: Tensor) -> RememberedState:
    """The table with new rows, the last of each id; non-finite losses count as missing."""
    losses = torch.where(losses.isfinite(), losses, torch.nan)[newest(ids)]
    return RememberedState(tables.write(state.losses, ids, losses), tables.write(state.ages, ids, ages))
