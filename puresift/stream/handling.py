"""How a stream handles its next pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from puresift.distributed.together import Together
from puresift.types import Batch, Info, Params, Sifter, SiftState


class Handling(NamedTuple):
    """How a pool is handled: scored with these parameters, not scored (None), or kept whole without the rule."""

    params: Params | Callable[[], Params] | None
    through: bool

    def step(self, sifter: Sifter | Together, state: SiftState, batch: Batch) -> tuple[SiftState, Info | None]:
        """The sifter's step; `through` is passed only if set, so custom sifters need not accept it."""
        if isinstance(sifter, Together):
            return sifter.step(state, self.params, batch)
        return sifter.step(state, None, batch, through=True) if self.through else sifter.step(state, self.params, batch)
