"""Where a stream begins in its loader, and what of its settings does not go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from puresift import settings
from puresift.data.pools import epochs, size
from puresift.distributed.ranks import place
from puresift.errors import SiftError
from puresift.steps import Parts
from puresift.stream.governors import Governor
from puresift.stream.telling import reshuffled
from puresift.types import Batch, SiftState


def found(parts: Parts | None, state: SiftState, loader: Iterable[Batch], skip: int | None) -> tuple[int, int | None]:
    """How many pools are skipped first; and the length of a pass, where the longest of all ranks' is agreed on.

    Raises:
        SiftError: the place of the state in an unsized loader is unknown.

    Warns:
        UserWarning: the loader is shuffled anew, so that its place cannot be found.
    """
    if skip is not None:
        return skip, None
    length, begun = None if isinstance(loader, epochs) else size(loader), int(state.step)
    if begun and length is None and not isinstance(loader, epochs):
        raise SiftError(
            f"the state has read {begun} pools, but the loader has no length to find its place by; pass skip=0 "
            f"if it already stands where it should, or skip={begun} to pass over what was read"
        )
    if begun if isinstance(loader, epochs) else begun % (length or 1):
        reshuffled(loader)
    shared = parts is not None and parts.shared and place()[1] > 1
    return begun if shared or not length else begun % length, length if shared else None


def governed(parts: Parts | None, governor: Governor | None, clock: Callable[[], float] | None) -> None:
    """Refuse a governor that cannot decide for all ranks, and a clock that nobody reads.

    Raises:
        SiftError: naming the cure.
    """
    if governor is not None:
        settings.called("governor", governor, "decide")
        if parts is not None and parts.shared:
            raise SiftError(
                'a governor decides by each rank\'s own clock, and ranks="global" for all; leave out one of both'
            )
    elif clock is not None:
        raise SiftError("clock= is read by a governor alone; pass governor=ps.governor() with it")
