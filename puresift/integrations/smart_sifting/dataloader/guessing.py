"""A warning where ranks decide while the model still guesses."""

from __future__ import annotations

import math
import warnings

from torch import Tensor

from puresift.distributed.ranks import place
from puresift.rules import gate, uniform

_SHARE, _POOLS = 0.8, 8
_SURE = _SHARE * math.log(2)  # nats: a mean loss below it is no guess, whatever the number of classes


class Guessing:
    """Warns once, if the first pools that a rule by rank decides are those for which `ps.gate` would wait.

    Of several ranks the first one tells. It goes by a gate around a rule that keeps everything, and watches no longer
    once that has opened.

    Args:
        classes: as in `ps.gate`.
    """

    def __init__(self, classes: int | None = None):
        self._classes = classes
        self._gate = gate(uniform(keep=1.0), _SHARE, classes=classes, pools=_POOLS)
        self._state, self._done = self._gate.init(), False

    def see(self, losses: Tensor) -> None:
        """A pool's losses, Float[B]; NaN where it was not scored."""
        finite = losses[losses.isfinite()] if not self._done else losses
        if self._done or not len(finite):
            return
        self._state, _ = self._gate.select(self._state, finite.cpu())
        if self._classes is None and int(self._state.seen) <= _POOLS:
            return
        self._done = True
        mean = float(self._state.mean)
        if place()[0] == 0 and not bool(self._state.open) and mean >= (_SURE if self._classes is None else 0.0):
            warnings.warn(_MESSAGE.format(mean=mean, bar=self._bar()), stacklevel=1)

    def _bar(self) -> str:
        if self._classes is not None:
            return f"{_SHARE} * ln({self._classes})"
        return f"{_SHARE} of the {float(self._state.first):.3g} of the first {_POOLS} scored batches"


_MESSAGE = (
    "the rule ranks losses while their mean is {mean:.3g}, not below {bar}; ranks ignore scale: if the model still "
    "guesses, its largest losses pull it back to guessing (help(puresift.gate) has the arithmetic). Pass gate=True "
    "to RelativeProbabilisticSiftConfig, and classes= for a classifier, to keep everything until the mean has fallen"
)
