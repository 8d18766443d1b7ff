"""What a stream says: where it ends too early, and on several ranks, where a rule lets them drift apart."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from puresift.data.generators import shufflers
from puresift.data.sharing import shared_out
from puresift.distributed.ranks import place
from puresift.errors import SiftError
from puresift.steps import Parts

DRIFT = (
    "on several ranks this sifter keeps another number of rows on each, so that they fill their batches at different "
    "steps, and under DDP wait for each other; let it keep a constant number, by ps.hold(rule, keep) and "
    'draw=ps.systematic, or decide for all ranks at once, by ranks="global", or let ps.SiftingDataLoader(in_step=True) '
    "end them together"
)
ALONE = (
    "a sharded model is scored by all ranks at once, and this sifter lets each go alone, so that they would wait for "
    "each other for ever; let it keep a constant number, by ps.hold(rule, keep) and draw=ps.systematic, without a "
    'governor and without in_step=False, or decide for all ranks at once, by ranks="global", or let '
    "ps.SiftingDataLoader(in_step=True) end them together"
)

WAY_ON = "go on with another ps.sift from stream.state, which holds what was read before"
LOADER_WAY_ON = (
    "loader.load_state_dict(loader.state_dict()) goes on where it stood; a next pass alone leaves out the rest"
)
OVER = (
    "a newer pass has begun, a state was loaded or the rows were flushed, so this pass is over; one SiftingDataLoader "
    "serves one loop at a time"
)
META = (
    "the parameters are on the meta device, where tensors have no values to score by; give the model its values first, "
    "as by model.to_empty(device=...) and load_state_dict"
)
NONE = "the loader gave no batch in this pass; pass an iterable that can be iterated again"
NOTHING = "the loader gave no batch; an iterator that was used up before is the usual cause"
TOO_LITTLE = (
    "the loader ended after {} pools with {} kept rows, before one batch was full; lower batch_size, raise keep, "
    "run several epochs with ps.epochs, or hand the rows out with sifter.flush(stream.state)"
)

SHORT = (
    "the loader gave {} pools, and the saved state had read {} of this pass; give it the same data as when it was saved"
)
AGAIN = (
    "{} pools of a stream without length are read again and passed over, because it does not tell a position that "
    "holds all it has read; read it through torchdata's StatefulDataLoader, or give it state_dict and load_state_dict, "
    "and leave out a shuffle buffer of Hugging Face's; then the next saved state goes on from its own position"
)

SAME = (
    "every rank reads the same rows; share them out, by the DataLoader's sampler=DistributedSampler(dataset), or where "
    "the dataset of each rank is its own share already, say so by DistributedSampler(share, num_replicas=1, rank=0)"
)
UNPREPARED = (
    "every rank of Accelerate reads the same rows, and accelerator.prepare leaves a loader that is sifted as it is; "
    "prepare the one inside of it, and sift what comes back by ps.integrations.accelerate.sifting(accelerator, loader, "
    "...); where the dataset of each rank is its own share, say so by DistributedSampler(share, num_replicas=1, rank=0)"
)


SHUFFLED = (
    "the state has read some pools of a loader that is shuffled anew in each pass, so that those read from here on are "
    "others: some rows come twice, and others not at all. Let the order follow from a seed and the epoch: "
    "DataLoader(dataset, batch_size, sampler=DistributedSampler(dataset, num_replicas=1, rank=0, seed=0)) within "
    "ps.epochs; or sift by ps.SiftingDataLoader, whose state knows the order"
)


def reshuffled(loader: Any) -> None:
    """Warn of a place in a loader whose order nobody knows.

    Warns:
        UserWarning: naming the cure.
    """
    if shufflers(getattr(loader, "loader", loader)):  # within ps.epochs
        warnings.warn(SHUFFLED, stacklevel=4)


def unequal(parts: Parts | None) -> None:
    """Warn on rank 0 of several, where nothing promises that all ranks keep as many rows.

    Warns:
        UserWarning: naming the ways out.
    """
    rank, world = place()
    if world > 1 and rank == 0 and parts is not None and parts.known is None and not parts.shared:
        warnings.warn(DRIFT, stacklevel=3)


def same(loader: Any) -> bool:
    """Say where several ranks read the same rows; whether there are several, so that it is said once.

    Raises:
        SiftError: the ranks are those of Accelerate, which has prepared another loader than this one.

    Warns:
        UserWarning: on rank 0, naming the cure.
    """
    rank, world = place()
    if world > 1 and shared_out(loader) is False:
        state = sys.modules.get("accelerate.state")
        if state is not None and state.PartialState._shared_state:
            raise SiftError(UNPREPARED)
        if rank == 0:
            warnings.warn(SAME, stacklevel=3)
    return world > 1
