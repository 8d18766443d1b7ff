"""What scoring and training cost, measured at the stream's own reads, without further synchronisation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from puresift import signals
from puresift.signals import Signal
from puresift.stream.governors import Governor, GovernorState, Reading, numbers, phi, reduction
from puresift.types import Info

# On a CPU, work is done when the call returns, and a clock is read before and after it. On CUDA it is only queued: the
# one read of a pool ends its scoring, but the training step that the caller queued between a yield and the next request
# ends during the next pool. CUDA events mark both ends of both, and are queried only once they have completed: those of
# scoring at the read of its pool, those of training one pool later. On other asynchronous devices, or with a custom
# clock, the rest of a queued training step counts as scoring, so the governor errs towards off.
Mark = Any  # seconds, or a CUDA event
_NOTHING = Reading(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


class Watch:
    """Measures for a governor: marks to readings to decisions, added to the infos. Does nothing without a governor."""

    def __init__(self, governor: Governor | None, clock: Callable[[], float], device: torch.device, events: bool):
        self._governor, self._clock, self._device = governor, clock, device
        self._events = events and device.type == "cuda"
        self._state: GovernorState | None = None
        self._reading = self._scored = _NOTHING
        self._sift = True
        self._trained: deque[tuple[Mark, Mark, int]] = deque()

    def mark(self) -> Mark:
        """The current time on the device's clock."""
        if self._governor is None:
            return None
        if not self._events:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def trained(self, start: Mark, rows: int) -> None:
        """A batch of `rows` was trained on since `start`."""
        if self._governor is not None:
            self._trained.append((start, self.mark(), rows))

    def through(self, wanted: bool | None) -> bool:
        """Whether to hand the next pool through; wanted is None for the first, before it is read."""
        if self._governor is None or wanted is None:
            return False
        self._decide(wanted)
        return wanted and not self._sift

    def read(self, info: Info, start: Mark) -> tuple[Signal, Info]:
        """The pool's signal, from its one read, and its info with the decision and the reading behind it."""
        extra = dict(info.extra)
        packed = extra.pop(signals.NAME)
        if self._governor is None:
            return signals.unpack(packed.tolist()), info._replace(extra=extra)
        end = self.mark() if self._events else None  # an event is queued before the read, a clock is read after it
        scored, kept, fixed, *rest = torch.cat([numbers(info), packed]).tolist()
        seconds = self._seconds(start, end if self._events else self.mark())
        if self._state is None:
            self._decide(bool(scored))
        assert self._state is not None
        self._scored = Reading(0.0, scored, seconds, kept, reduction(fixed), 0.0, 0.0) if scored else _NOTHING
        return signals.unpack(rest), info._replace(extra=extra | self._decided(self._state))

    def like(self, info: Info) -> Info:
        """An info of the form that `read` gives, of which the names and types count."""
        extra = {name: entry for name, entry in info.extra.items() if name != signals.NAME}
        return info._replace(extra=extra | (self._decided(self._governor.init()) if self._governor else {}))

    def _decided(self, state: GovernorState) -> dict[str, Tensor]:
        return {  # left on the host: moving them to a device and back would only cost time
            "sifting": torch.tensor([self._sift]),
            "phi": torch.tensor([phi(state)]),
            "reading": torch.tensor([self._reading], dtype=torch.float64),
        }

    def _decide(self, wanted: bool) -> None:
        assert self._governor is not None
        seconds, rows = 0.0, 0
        while self._trained and (not self._events or self._trained[0][1].query()):
            start, end, size = self._trained.popleft()
            seconds, rows = seconds + self._seconds(start, end), rows + size
        self._reading = self._scored._replace(wanted=float(wanted), trained=float(rows), train=seconds)
        self._state, self._sift = self._governor.decide(self._state or self._governor.init(), self._reading)

    def _seconds(self, start: Mark, end: Mark) -> float:
        return start.elapsed_time(end) / 1e3 if self._events else end - start
