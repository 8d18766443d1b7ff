"""How a stream handles its next pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from puresift.distributed.together import Together
from puresift.types import Batch, Info, Params, Sifter, SiftState


class Handling(NamedTuple):
    """How a pool is handled: scored with these parameters, not scored (None), or kept whole without the rule."""

    params: Params | Callable[[], Params] | None
    through: bool

    def step(
        self, sifter: Sifter | Together, state: SiftState, batch: Batch, uniforms: Tensor | None = None
    ) -> tuple[SiftState, Info | None]:
        """The sifter's step; what is not set is not passed, so custom sifters need not accept it."""
        if isinstance(sifter, Together):
            return sifter.step(state, self.params, batch)
        options: dict[str, Any] = {"through": True} if self.through else {}
        if uniforms is not None:
            options["uniforms"] = uniforms
        return sifter.step(state, None if self.through else self.params, batch, **options)
