"""Batches that need not be full: one for each pool, or a short one after so many pools."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from puresift import settings, signals, trees
from puresift.buffers import ring
from puresift.distributed.ranks import place
from puresift.errors import SiftError
from puresift.sifters import parts_of
from puresift.steps import Parts
from puresift.types import Batch, Info, Params, Sifter, SiftState

_PARTS = 8  # sizes that a batch which is not full may have


def loosened(sifter: Sifter, state: SiftState, *, refill: bool, patience: int | None) -> tuple[Sifter, SiftState, bool]:
    """The sifter and the state of a stream whose batches may be short, and whether all of them are full.

    States keep their form: only the signal and what is taken differ, so that a state goes on either way.

    Raises:
        SiftError: batches of this sifter have to be full, or a setting is out of range.
    """
    if refill and patience is None:
        return sifter, state, True
    name = "refill=False" if not refill else "patience="
    if not refill and patience is not None:
        raise SiftError("patience= counts the pools that fill one batch, and refill=False gives one for each; choose")
    parts = parts_of(sifter)
    if parts is None:
        raise SiftError(f"{name} needs the parts of a sifter, and this one has a step of its own; use ps.sifter")
    if parts.shared:
        raise SiftError(f'{name} lets each rank go alone, and ranks="global" moves rows between them; leave out either')
    if parts.windows.batches > 1:
        raise SiftError(f"{name} has no window to sort by length in; pass length= to ps.sifter in place of bucket=")
    if patience is not None:
        leaving = _Patient(sifter, parts, state, settings.count("patience", patience))
        return leaving.sifter, state, False
    if place()[1] > 1 and trees.serial(ring.example(state.buffer)):
        raise SiftError(f"{name} on several ranks gives a batch of a pool that keeps nothing too: let rows be tensors")
    fill = state.buffer.fill
    if int(fill[0]):  # rows that wait are a batch of their own
        fill = torch.stack([fill[0], fill[0], fill[2]])
    return _Alone(sifter, parts).sifter, state._replace(buffer=state.buffer._replace(fill=fill)), False


class _Alone:
    """Each pool leaves alone; on several ranks one that keeps nothing too."""

    def __init__(self, sifter: Sifter, parts: Parts):
        self._inner, self._windows = sifter, parts.windows
        self._always = place()[1] > 1
        self.sifter = sifter._replace(step=self.step, take=self.take)

    def step(self, state: SiftState, params: Params | None, batch: Batch, **options: Any) -> tuple[SiftState, Info]:
        """The sifter's own; what it keeps is due at once."""
        after, info = self._inner.step(state, params, batch, **options)
        held, due = info.extra[signals.NAME][:2].unbind()
        return after, _due(info, held if self._always else torch.where(held > 0, held, due))

    def take(self, state: SiftState, width: int | None = None) -> tuple[SiftState, tuple[Batch, Tensor]]:
        """All that is held; the width follows from it."""
        return _rest(self._windows, state, self._windows.pool(state.buffer))


class _Patient:
    """What is held leaves after so many pools, counted from the last batch."""

    def __init__(self, sifter: Sifter, parts: Parts, state: SiftState, patience: int):
        self._inner, self._windows, self._patience = sifter, parts.windows, patience
        self._left = int(state.step)  # pools read when the last batch left
        self.sifter = sifter._replace(step=self.step, take=self.take)

    def step(self, state: SiftState, params: Params | None, batch: Batch, **options: Any) -> tuple[SiftState, Info]:
        """The sifter's own; what it holds is due where patience has an end."""
        after, info = self._inner.step(state, params, batch, **options)
        held, due = info.extra[signals.NAME][:2].unbind()
        short = (after.step - self._left >= self._patience) & (held > 0) & (held < due)
        info = _due(info, torch.where(short, held, due))
        return after, info._replace(extra={**info.extra, "left_short": short[None]})

    def take(self, state: SiftState, width: int | None = None) -> tuple[SiftState, tuple[Batch, Tensor]]:
        """A full batch, or all that is held."""
        held, self._left = torch.stack([state.buffer.fill[0], state.step]).tolist()
        if held >= self._windows.rows:
            return self._inner.take(state, width)
        return _rest(self._windows, state, self._windows.rows)


def _due(info: Info, due: Tensor) -> Info:
    """The info with a signal that says so many rows are due."""
    signal = info.extra[signals.NAME]
    return info._replace(extra={**info.extra, signals.NAME: torch.cat([signal[:1], due[None], signal[2:]])})


def size(rows: int, whole: int) -> int:
    """Rows in a batch that so many fill up: the least number of eighths of the whole, each number rounded up.

    Example:
        >>> [size(rows, 16) for rows in (1, 2, 3, 15, 16)], size(0, 16), size(1, 3)
        ([2, 2, 4, 16, 16], 2, 1)
    """
    eighths = max(_PARTS * (rows - 1) // whole + 1, 1)
    return -(-eighths * whole // _PARTS)


def _rest(windows: Any, state: SiftState, whole: int) -> tuple[SiftState, tuple[Batch, Tensor]]:
    """All rows that are held as one batch; the last is repeated at weight 0, and the others make up for it."""
    buffer = state.buffer
    slots = ring.held_slots(buffer)
    rows = len(slots)
    if not rows:  # the first row of a pool that keeps nothing lies where the next one goes
        slots = buffer.fill[2:]
    places = torch.arange(size(rows, whole), device=slots.device)
    batch, weights = windows.rows_at(buffer, slots[places.clamp(max=max(rows - 1, 0))])
    weights = torch.where(places < rows, weights * (len(places) / max(rows, 1)), 0.0)
    return state._replace(buffer=ring.emptied(buffer, windows.rows)), (batch, weights)
