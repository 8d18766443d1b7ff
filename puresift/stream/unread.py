"""Pools that need not be read: how many rows each fills in is known before its tensors are."""

from __future__ import annotations

import torch

from puresift import signals
from puresift.errors import SiftError
from puresift.signals import Signal
from puresift.steps import Parts
from puresift.stream.later import Later, queued
from puresift.types import Info


class Unread:
    """Tells a stream the signals of its pools, where rule and draw say ahead how many rows they keep.

    Nothing is read on the host, so that the host never waits for a device. Losses that are not finite are found once
    their count has come, a pool or so later; no such row is kept meanwhile, if others suffice. On a CPU reading costs
    nothing, and pools are read.

    Args:
        parts: of the sifter; None where it is a caller's own.
        device: where pools are scored.

    Attributes: `wants`, whether the rule wants scores; None where it must be read.
    """

    def __init__(self, parts: Parts | None, device: torch.device):
        self._parts = parts if parts is not None and parts.constant and queued(device) else None
        self.wants = self._parts.wants_all if self._parts is not None else None
        self._refused = Later()

    def signal(self, info: Info, held: int, pool: int) -> tuple[Signal, Info] | None:
        """The signal of a pool that came to `held` rows, and its info without the packed one; None where it must be
        read."""
        kept = None if self._parts is None else self._parts.keeps(len(info.losses))
        if self._parts is None or kept is None:
            return None
        extra = dict(info.extra)
        del extra[signals.NAME]
        if self.wants:
            self._refused.put(extra["nonfinite"], (pool, len(info.losses)))
        signal = Signal(held + kept, self._parts.windows.rows, 0, bool(self.wants), 0, ())
        return signal, info._replace(extra=extra)

    def check(self, *, wait: bool = False) -> None:
        """Look at what has come of the pools so far; with `wait`, at all of them.

        Raises:
            SiftError: losses were not finite.
        """
        for refused, (pool, rows) in self._refused.come(wait=wait):
            if refused:
                raise SiftError(
                    f"{refused} of {rows} losses in pool {pool} are NaN or infinite; look for a diverging run, or "
                    'choose ps.sifter(..., nonfinite="drop") or "keep". It was found while the GPU went on: pools read '
                    "since are in the state too, and of this one rows with finite losses, if there were enough"
                )
