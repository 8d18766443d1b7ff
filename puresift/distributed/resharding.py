"""The states of so many ranks as those of another number of them: nothing is lost, and nothing comes twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from puresift import tables, trees
from puresift.buffers import empty, example, refill
from puresift.buffers.ring import held_slots, rows_at
from puresift.checkpoint import load_state_dict
from puresift.errors import SiftError
from puresift.rules.grouping import CoverState
from puresift.scores.remembering import RememberedState
from puresift.types import Batch, Kept, SiftState

_BUFFER = ":SiftState/buffer:Buffer/"


def resharded(
    saved: Sequence[Mapping[str, Tensor]], like: SiftState, *, rank: int, ranks: int, shared: bool = False
) -> SiftState:
    """One rank's state out of those that another number of ranks saved.

    Rows that wait for a batch are dealt out again, in the order in which batches would have taken them: as many to each
    rank, give or take one. With `shared`, for a sifter of `ranks="global"`, the rule's state, the key and the number of
    pools are those that all ranks had, so that the global batches go on as if nothing had changed, if the global pool
    and the global batch stay as they are. Otherwise some things are no longer what they would have been: a rank goes
    on with the history of one of the old ranks, draws by a key of its own, and stands at the pool that the mean rank
    had read to. What `ps.remembered` and `ps.cover` know of each id is joined.

    Args:
        saved: from `ps.state_dict`, of every rank that there was, in their order.
        like: a state of this rank's sifter as it is built now, `sifter.init(key, batch)`.
        rank: this one.
        ranks: how many there are now.
        shared: whether the sifter decides for all ranks as one.

    Returns:
        A state on the device of `like`.

    Raises:
        SiftError: a state is of another kind, rows are Python objects, or there are more rows than the buffers hold.

    Example:
        >>> import puresift as ps
        >>> sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=4)
        >>> state = sifter.init(ps.key(0), torch.zeros(3))
        >>> two = [sifter.step(state, None, torch.arange(3.0) + 10 * old)[0] for old in range(2)]
        >>> one = resharded([ps.state_dict(state) for state in two], state, rank=0, ranks=1)
        >>> sifter.take(one)[1][0]
        tensor([ 0.,  1.,  2., 10.])
    """
    if trees.serial(example(like.buffer)):
        raise SiftError(
            "rows that are Python objects cannot be dealt out to other ranks; make the leaf a tensor, or leave it out "
            "and look it up by an id"
        )
    states = [load_state_dict(_shaped(like, flat), flat) for flat in saved]
    rows, weights = _ordered(states)
    mine = torch.arange(rank, len(weights), ranks, device=weights.device)
    buffer = _filled(like, trees.index(rows, mine), weights[mine])
    old = states[rank % len(states)]
    score = _joined([one.score for one in states], old.score)
    if shared:
        return SiftState(score, old.rule, buffer, old.key, old.step)
    rule = _joined([one.rule for one in states], old.rule)
    step = torch.stack([one.step for one in states]).sum() // ranks
    return SiftState(score, rule, buffer, like.key.clone(), step)


def _shaped(like: SiftState, flat: Mapping[str, Tensor]) -> SiftState:
    """The same kind of state with a buffer as large as the saved one."""
    if f"{_BUFFER}weights" not in flat or f"{_BUFFER}fill" not in flat:
        return like  # which loading refuses in words
    room = flat[f"{_BUFFER}weights"].shape[0]
    rows = trees.map_leaves(lambda leaf: leaf.new_zeros((room - 2, *leaf.shape[1:])), example(like.buffer))
    fill = flat[f"{_BUFFER}fill"].to(like.buffer.fill.device)
    return like._replace(buffer=empty(rows, batch_size=1)._replace(fill=fill))


def _ordered(states: Sequence[SiftState]) -> tuple[Batch, Tensor]:
    """The rows that wait on all ranks: those of the first batches, then of the second, and so on."""
    parts, places = [], []
    for rank, state in enumerate(states):
        slots = held_slots(state.buffer)
        size = max(int(state.buffer.fill[1]), 1)  # rows of a window, or what is left of one
        parts.append(rows_at(state.buffer, slots))
        number = torch.arange(len(slots), device=slots.device)
        places.append((number // size * len(states) + rank) * size + number % size)
    order = torch.cat(places).argsort()
    joined = trees.map_leaves(lambda *leaves: torch.cat(leaves), *parts)
    rows, weights = trees.index(joined, order)
    return rows, weights


def _filled(like: SiftState, rows: Batch, weights: Tensor) -> Any:
    """The buffer of `like` with these rows alone."""
    room = like.buffer.weights.shape[0] - 1
    if len(weights) > room:
        raise SiftError(
            f"this rank would get {len(weights)} of the rows that wait for a batch, and its buffer holds {room}; "
            "resume on more ranks, or with larger batches or pools"
        )
    if not len(weights):
        return like.buffer
    return refill(like.buffer, Kept(rows, weights, torch.ones_like(weights, dtype=torch.bool)))


def _joined(states: Sequence[Any], mine: Any) -> Any:
    """`mine`, with what all of the states know of each id."""
    if isinstance(mine, RememberedState):
        losses, ages = (torch.stack([tables.values(part) for part in parts]) for parts in zip(*states, strict=True))
        newest = torch.where(losses.isnan(), torch.iinfo(ages.dtype).max, ages).argmin(0, keepdim=True)
        known = (values.gather(0, newest)[0] for values in (losses, ages))
        return RememberedState(*map(tables.table, known))
    if isinstance(mine, CoverState):
        visits = torch.stack([tables.values(one.visits) for one in states]).sum(0)
        return CoverState(_joined([one.inner for one in states], mine.inner), tables.table(visits))
    if isinstance(mine, tuple):
        parts = [_joined([one[place] for one in states], part) for place, part in enumerate(mine)]
        return type(mine)(*parts) if hasattr(mine, "_fields") else tuple(parts)
    return mine
