"""The numbers of a draw, made for many pools in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from puresift import draws
from puresift.steps import Parts
from puresift.types import SiftState

_STEPS = 64  # made in one call: a step's share of its operations is then less than that of any other
_NUMBERS = 2**15  # in one call, unless a single pool needs more


class Uniforms:
    """What a draw takes as `uniforms=` at one step after another: those of its key, made on the host ahead of time.

    A GPU gets them in one copy for many pools, and launches nothing for them. They depend on key and step alone, so
    that a stream that resumes between two calls draws as before.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Make them anew: the draw or the key is another one from here on."""
        self._made, self._first, self._rows = list[Tensor](), 0, 0
        self._key: Tensor | None = None  # on the host

    def at(self, parts: Parts | None, state: SiftState, step: int, rows: int) -> Tensor | None:
        """Those of a pool of so many rows.

        Args:
            parts: of the sifter; None where it is a caller's own.
            state: any of the stream, for its key and device.
            step: `state.step`, on the host.
            rows: in the pool.

        Returns:
            As `draws.ahead` gives them for one step; None where the draw takes none.
        """
        if parts is None:
            return None
        if rows > self._rows or not self._first <= step < self._first + len(self._made):
            steps = min(_STEPS, max(_NUMBERS // max(rows, 1), 1))
            self._key = state.key.cpu() if self._key is None else self._key
            made = draws.ahead(parts.draw, self._key, torch.arange(step, step + steps), rows)
            if made is None:
                return None
            if state.step.is_cuda:
                made = made.pin_memory()
            self._made, self._first, self._rows = list(made.to(state.step.device, non_blocking=True)), step, rows
        one = self._made[step - self._first]
        return one[:rows] if one.ndim else one
