"""Ranks that score one sharded model: its forward is a collective, so all of them take part in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puresift.distributed.pacts import Pact
from puresift.errors import SiftError
from puresift.scores.sharding import accompanied

_OVER, _READY, _SCORES = 0, 1, 2
UNEQUAL = (
    "the loader of {} gave fewer batches than those of the others, who would train alone and wait for ever; give "
    "every rank as many pools of one size (a DistributedSampler and drop_last=True), or let "
    "ps.SiftingDataLoader(in_step=True) end them together"
)


class Company:
    """The ranks that score a model together, though each needs another number of pools to fill a batch.

    They meet before each forward, and before each batch. A rank that has its batch, or whose pools are read, takes part
    in the forwards of the others: with the rows that it scored last, whose losses are thrown away.

    Args:
        pact: of the ranks; once it is closed they are known to score as many pools, and meet no more.
        endless: whether passes follow without end, so that a rank whose pools are read scores those of the next pass.

    Attributes: `spare`, which scores a row; for a rank that has scored nothing yet.
    """

    def __init__(self, pact: Pact, *, endless: bool = False):
        self.pact, self.endless = pact, endless
        self.spare: Callable[[], Any] = lambda: None
        self._last: Callable[[], Any] | None = None
        self._sparing = False

    def forward(self, run: Callable[[], Any]) -> Any:
        """What the forward gives, which all ranks take part in.

        Raises:
            RuntimeError: another rank has failed.
        """
        if self.pact.open and not self._sparing:
            self.pact.agree(_SCORES)
        self._last = run
        answer = run()
        if self._sparing:
            raise _Enough
        return answer

    def wait(self, ready: bool) -> list[int]:
        """Take part until no rank scores any more; then which ranks have a batch, 1 or 0, by rank."""
        while True:
            met = [number for number, *_ in self.pact.agree(_READY if ready else _OVER)]
            if _SCORES not in met:
                return met
            self._take_part()

    def together(self, ready: bool) -> None:
        """Wait, and refuse to let some ranks go on alone.

        Raises:
            SiftError: some ranks have a batch, and some have none left.
        """
        if not self.pact.open:
            return
        met = self.wait(ready)
        if _READY not in met:
            self.pact.close()
        elif _OVER in met:
            self.pact.close()  # all ranks know
            ended = [str(rank) for rank, there in enumerate(met) if there == _OVER]
            raise SiftError(UNEQUAL.format(f"rank{'s' if len(ended) > 1 else ''} {', '.join(ended)}"))

    def _take_part(self) -> None:
        if self._last is not None:
            self._last()
            return
        self._sparing = True
        try:
            with accompanied(self):
                self.spare()
        except _Enough:  # the others run one forward, and a score may be made of several
            pass
        finally:
            self._sparing = False


class _Enough(Exception):
    """The first forward of a score has run."""
