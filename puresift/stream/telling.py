"""What a stream says: where it ends too early, and on several ranks, where a rule lets them drift apart."""

from __future__ import annotations

import warnings

from puresift.distributed.ranks import place
from puresift.steps import Parts

DRIFT = (
    "on several ranks this sifter keeps another number of rows on each, so that they fill their batches at different "
    "steps, and under DDP wait for each other; let it keep a constant number, by ps.hold(rule, keep) and "
    'draw=ps.systematic, or decide for all ranks at once, by ranks="global", or let ps.SiftingDataLoader(in_step=True) '
    "end them together"
)

WAY_ON = "go on with another ps.sift from stream.state, which holds what was read before"
LOADER_WAY_ON = (
    "loader.load_state_dict(loader.state_dict()) goes on where it stood; a next pass alone leaves out the rest"
)
OVER = (
    "a newer pass has begun, a state was loaded or the rows were flushed, so this pass is over; one SiftingDataLoader "
    "serves one loop at a time"
)
NONE = "the loader gave no batch in this pass; pass an iterable that can be iterated again"
NOTHING = "the loader gave no batch; an iterator that was used up before is the usual cause"
TOO_LITTLE = (
    "the loader ended after {} pools with {} kept rows, before one batch was full; lower batch_size, raise keep, "
    "run several epochs with ps.epochs, or hand the rows out with sifter.flush(stream.state)"
)


def unequal(parts: Parts | None) -> None:
    """Warn on rank 0 of several, where nothing promises that all ranks keep as many rows.

    Warns:
        UserWarning: naming the ways out.
    """
    rank, world = place()
    if world > 1 and rank == 0 and parts is not None and parts.known is None and not parts.shared:
        warnings.warn(DRIFT, stacklevel=3)
