"""How the passes of a loader begin and end on several ranks: together, or each alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from puresift.data.pools import size
from puresift.distributed.company import Company
from puresift.distributed.describing import described
from puresift.distributed.pacts import Pact
from puresift.distributed.ranks import place
from puresift.errors import SiftError
from puresift.steps import Parts
from puresift.stream.places import PREFIX, wrapped
from puresift.stream.telling import unequal
from puresift.types import Key, SiftState

_BEHIND = PREFIX + "behind"  # passes by which the place of this rank is behind that of the shortest


class Pace:
    """Whether the ranks meet at every batch of a pass, once a pass, or never.

    A pass in step ends when a rank has read all of its pools. What longer ranks have left waits: their next pass begins
    with it, and nothing is thrown away. They are then `behind` by a pass, whose pools follow when the rest is read.

    Args:
        in_step: as in `SiftingDataLoader`.
        key: Int64[2], before a rank is folded in.
        prepared: whether Accelerate prepared the loader, whose passes begin on all ranks at once.

    Raises:
        SiftError: in_step is something else.
    """

    def __init__(self, in_step: bool | None, key: Key, *, prepared: bool = False):
        if in_step not in (True, False, None):
            raise SiftError(f"in_step must be True, False or None, got {in_step!r}")
        self._in_step, self._key, self._prepared = in_step, str(key.tolist()), prepared
        self.behind = 0
        self.stopped = False  # by a shorter rank, with a batch that waits in the state
        self._checked = self._warned = False

    def state_dict(self) -> dict[str, Tensor]:
        """How far behind this rank is, where it is."""
        return {_BEHIND: torch.tensor(self.behind)} if self.behind else {}

    def set(self, flat: Mapping[str, Any]) -> None:
        """Go on where `flat` was taken."""
        self.behind, self.stopped = int(flat.get(_BEHIND, 0)), False

    def begin(self, parts: Parts, *, governed: bool) -> Pact | None:
        """The ranks' agreement for a pass; None where this rank goes alone."""
        if place()[1] == 1:
            return None
        default = self._prepared or (parts.constant and not governed)
        if parts.shared or (default if self._in_step is None else self._in_step):
            return Pact()
        if self._in_step is None and not self._warned:
            self._warned = True
            unequal(parts)
        return None

    def meet(self, pact: Pact | None, parts: Parts, state: SiftState, loader: Any, began: int) -> None:
        """Before the first batch of a pass: compare the ranks, and see whether they need to meet again.

        Args:
            pact: of this pass.
            parts: of the sifter.
            state: at the beginning of the pass.
            loader: that gives the pools.
            began: the state's step when the epoch began.

        Raises:
            SiftError: the ranks are not built alike.
        """
        if pact is None or parts.shared:  # then the stream compares them
            return
        if not self._checked:
            pact.alike({**described(parts, state), "key": self._key, "in_step": repr(self._in_step)})
            self._checked = True
        if self._in_step is None:
            left = even(loader, parts) - (int(state.step) - began)
            met = pact.agree(left, int(state.buffer.fill[0]), self.behind)
            if left > 0 and all(numbers == met[0] for numbers in met):
                pact.close()  # all fill their batches at the same steps, without a word

    def goes_on(self, pact: Pact | None, ready: bool, company: Company | None = None) -> bool:
        """Whether the pass goes on, on all ranks; `ready`, whether this one has a batch."""
        if company is not None and company.endless and ready and company.pact.open:
            company.wait(True)
        if pact is None or not pact.open:
            return ready
        met = [there for there, *_ in pact.agree(int(ready))] if company is None else company.wait(ready)
        if all(met):
            return True
        pact.close()
        if ready:
            self.behind, self.stopped = self.behind + 1, True
        return False

    def passes_over(self, loader: Any, pools: Iterator[Any]) -> bool:
        """Whether the pools that a stopped rank has not read are left out: where all ranks must begin an epoch at once.

        A loader that Accelerate prepared exchanges its random state as it begins. The batch that is full stays in the
        state, for the next pass.

        Warns:
            UserWarning: how many pools.
        """
        if wrapped(loader) is None:
            return False
        if left := sum(1 for _ in pools):
            warnings.warn(
                f"rank {place()[0]} has not sifted {left} pools, as a prepared loader begins on all ranks at once and "
                'another had none left; pass ranks="global", or ps.hold(rule, keep) and draw=ps.systematic',
                stacklevel=2,
            )
        return True


def even(loader: Any, parts: Parts) -> int:
    """How many pools a loader gives, where it is certain that each of them fills in a known number of rows; else 0."""
    sampler = getattr(loader, "batch_sampler", None)
    if type(sampler) is not BatchSampler or parts.keeps(sampler.batch_size) is None:
        return 0
    try:
        whole = sampler.drop_last or len(sampler.sampler) % sampler.batch_size == 0  # type: ignore[arg-type]
    except TypeError:  # of a sampler without a length
        return 0
    return size(loader) or 0 if whole else 0
