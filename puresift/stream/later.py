"""Flags that a device is still computing: looked at once they have come to the host, without waiting for them."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor


def queued(device: torch.device) -> bool:
    """Whether work on a device has only begun when a call returns, and events tell when it has ended."""
    return device.type == "cuda"


class Later:
    """Single numbers on their way to the host, in order, each with a note."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tensor, Any, Any]] = deque()

    def put(self, number: Tensor, note: Any = None) -> None:
        """Send one."""
        host, event = number.to("cpu", non_blocking=True), None
        if number.is_cuda:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(number.device))
        self._waiting.append((host, event, note))

    def come(self, *, wait: bool = False) -> list[tuple[int, Any]]:
        """Those that have come since; with `wait`, all that were sent."""
        found = []
        while self._waiting and (wait or _done(self._waiting[0][1])):
            host, event, note = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            found.append((int(host), note))
        return found


def _done(event: Any) -> bool:
    return not queued(torch.device("cpu")) if event is None else bool(event.query())
