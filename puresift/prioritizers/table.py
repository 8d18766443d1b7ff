"""The table of a prioritizer: the losses that training observed, by sample id, and how they enter it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import trees
from puresift.errors import SiftError
from puresift.ids import refuse
from puresift.types import Losses, Odds


class PrioritizerState(NamedTuple):
    """All that the next draw needs. N samples, E batches in a draw, B rows in a batch.

    Example:
        >>> import puresift as ps
        >>> drawer = ps.prioritizer(ps.importance(keep=0.5), size=4, batch_size=2, every=2)
        >>> state = drawer.init(ps.key(0))
        >>> state.losses, state.ids.shape
        (tensor([nan, nan, nan, nan]), torch.Size([2, 2]))
    """

    losses: Tensor  # Float[N], the loss of each sample when it was last trained on; NaN where unknown
    rule: Any
    ids: Tensor  # Int64[E, B], of the newest draw
    odds: Odds  # Float[E, B] each, of that draw
    waiting_ids: Tensor  # Int64[E, B], observed since, and not yet in the table
    waiting_losses: Tensor  # Float[E, B]
    waiting: Tensor  # Int64[], how many rows of these two are filled
    key: Tensor  # Int64[2], never advanced: draw d uses fold_in(key, d)
    draws: Tensor  # Int64[], draws so far
    step: Tensor  # Int64[], batches handed out


class Plan(NamedTuple):
    """What a prioritizer draws, and how much of it."""

    size: int  # samples
    batch_size: int  # rows in a batch
    every: int  # batches in a draw
    steps: int | None  # batches in all; None: without end
    start: int  # ids at the beginning that are everything in random order
    end: int | None  # and from which on they are so again; None: never


def known(table: Tensor) -> Losses:
    """Float[N]: the table, with the largest known loss for what is unknown; 1 where nothing is known."""
    table = table.float()
    if not maybe(table.amax().isnan()):  # nothing is unknown
        return table
    largest = table.nan_to_num(-torch.inf).amax()
    return torch.where(table.isnan(), torch.where(largest > -torch.inf, largest, 1.0), table)


def entered(state: PrioritizerState) -> Tensor:
    """Float[N]: the table with the losses that wait; of an id that comes twice the later one."""
    if not maybe(state.waiting > 0):
        return state.losses
    ids, losses = state.waiting_ids.flatten(), state.waiting_losses.flatten()
    every, rows = state.ids.shape
    partly = maybe(state.waiting < every)
    arrival = torch.arange(every * rows, device=ids.device, dtype=torch.int32)
    if partly:
        arrival = torch.where(arrival < state.waiting * rows, arrival, -1)
    last = torch.full((), -1, device=ids.device, dtype=torch.int32).expand(state.losses.shape[0])
    last = last.scatter_reduce(0, ids, arrival, "amax").index_select(0, ids)
    # Rows of one id write the same value, so that their order does not matter; rows that are not filled write nothing.
    kind = state.losses.dtype
    values = losses.index_select(0, last.clamp(min=0)).clamp(max=torch.finfo(kind).max).to(kind)
    if partly:
        values = torch.where(last >= 0, values, state.losses.index_select(0, ids))
    return state.losses.index_copy(0, ids, values)


def observed(ids: Tensor, losses: Losses, plan: Plan) -> tuple[Tensor, Tensor]:
    """The ids and losses of a batch, filled up to its size by repeating the last row."""
    rows = ids.shape[0] if ids.ndim == 1 else 0
    if losses.shape != ids.shape or not 0 < rows <= plan.batch_size:
        raise SiftError(
            f"observe takes one loss an id, up to {plan.batch_size} of them, got losses {list(losses.shape)} "
            f'for ids {list(ids.shape)}; pass reduction="none"'
        )
    ids, losses = ids.long(), losses.float()
    if ids.device.type == "cpu" and not trees.unreadable(ids[0] + losses[0]):
        refuse([*map(int, ids.aminmax()), 0], plan.size)
        if not all(map(math.isfinite, losses.aminmax())):  # a NaN is both the least and the largest
            bad = int((~losses.isfinite()).sum())
            raise SiftError(f"{bad} of {rows} losses observed are NaN or infinite; look for a diverging run")
    else:
        losses = torch.where(losses.isfinite(), losses, torch.nan)
    if rows < plan.batch_size:
        ids, losses = (torch.cat([v, v[-1:].expand(plan.batch_size - rows)]) for v in (ids, losses))
    return ids, losses


def read(value: Tensor) -> Tensor | int:
    """The number of an Int64[] that can be read for free, on the CPU and uncompiled; else the tensor."""
    return value if value.device.type != "cpu" or trees.unreadable(value) else int(value)


def maybe(condition: Tensor | bool) -> bool:
    """False where a Bool[] can be read for free, on the CPU and uncompiled, and is false."""
    if isinstance(condition, bool):
        return condition
    return condition.device.type != "cpu" or trees.unreadable(condition) or bool(condition)
