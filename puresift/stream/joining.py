"""Whether the ranks of a stream score one sharded model together, and how they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from puresift import trees
from puresift.buffers import example
from puresift.distributed.company import Company
from puresift.distributed.pacts import Pact
from puresift.distributed.ranks import place
from puresift.errors import SiftError
from puresift.rules.planning import never
from puresift.scores.copies import unwrap
from puresift.scores.sharding import resharded, spread
from puresift.sifters import parts_of
from puresift.steps import Parts
from puresift.stream.pacing import even
from puresift.stream.telling import ALONE
from puresift.types import Params, Sifter, SiftState

Now = Callable[[], tuple[Sifter, SiftState, Callable[[], Params]]]


class Joint:
    """A stream's part in the company of ranks that score one sharded model; nothing where there is none.

    Args:
        now: the stream's sifter, its newest state, and what gives the parameters.

    Attributes: `company`, and `alone`, whether the stream itself, and no loader, sees that the ranks end together.
    """

    def __init__(self, now: Now):
        self._now = now
        self.company: Company | None = None
        self.alone = False

    def join(self, company: Company | None) -> None:
        """Take part in the company of a loader."""
        self.company = company
        if company is not None:
            company.spare = self._spare

    def begin(self, pact: Pact, governor: Any, loader: Any, skip: int) -> Company | None:
        """The company, a new one where no loader has given its own; None where ranks need none.

        Raises:
            SiftError: they would score different numbers of pools.
        """
        sifter, state, params = self._now()
        parts, model = parts_of(sifter), getattr(params, "model", None)
        if isinstance(model, nn.Module):
            resharded(model)  # a validation may have gone before
        if self.company is None and together(parts, params):
            if parts is None or not (parts.shared or (parts.constant and governor is None)):
                raise SiftError(ALONE)
            self.join(Company(pact))
            self.alone = not parts.shared
            if self.alone:
                left = even(loader, parts) - skip
                met = pact.agree(left, int(state.buffer.fill[0]))
                if left > 0 and all(numbers == met[0] for numbers in met):
                    pact.close()  # all fill their batches at the same steps, without a word
        return self.company

    def meet(self, ready: bool) -> None:
        """Where no loader does it, see that all ranks have a batch, or none has."""
        if self.alone and self.company is not None:
            self.company.together(ready)

    def _spare(self) -> None:
        """Score a row, for the sake of the other ranks."""
        sifter, state, params = self._now()
        parts = parts_of(sifter)
        assert parts is not None and parts.score is not None
        parts.score.apply(state.score, params(), trees.index(example(state.buffer), slice(0, 1)))


def together(parts: Parts | None, params: Any) -> bool:
    """Whether several ranks score these parameters by forwards that are collectives: the answer is the same on all."""
    if place()[1] == 1 or (parts is not None and (parts.score is None or parts.rule.wants is never)):
        return False
    model = getattr(params, "model", None)  # that of ps.live, or of a callable which says whose parameters it gives
    if isinstance(model, nn.Module):
        return spread(unwrap(model))
    held = params() if callable(params) else params
    return any(type(tensor).__name__ == "DTensor" for tensor in held.values())


def accompanied(
    parts: Parts, params: Any, pact: Pact | None, former: Company | None, *, endless: bool
) -> Company | None:
    """The company of a loader's pass; None where its ranks need none, or its stream makes one.

    Args:
        parts: of the sifter.
        params: that are scored.
        pact: of this pass.
        former: the last pass's; those of trainers that count steps are all of one.
        endless: whether passes follow without end.

    Raises:
        SiftError: the ranks would go each alone.
    """
    if parts.shared or not together(parts, params):
        return None
    if pact is not None:
        return Company(pact)
    if not endless:
        raise SiftError(ALONE)
    return Company(Pact(), endless=True) if former is None else former
