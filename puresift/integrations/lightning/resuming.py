"""What a checkpoint of Lightning's does not hold, and a resumed run is told."""

from __future__ import annotations

import warnings
from typing import Any

from puresift.data.generators import shufflers

UNSEEDED = (
    "the pass that was under way goes on, but later ones come in another order than without the break: this loader "
    "shuffles by torch's global generator, which Lightning does not save. Give it one of its own, "
    "DataLoader(..., shuffle=True, generator=torch.Generator().manual_seed(0)), or "
    "sampler=DistributedSampler(dataset, num_replicas=1, rank=0), and resumed runs go on bit for bit"
)


def unseeded(pools: Any) -> bool:
    """Whether a loader's order comes from torch's global generator.

    Args:
        pools: any loader; of samplers that are not torch's it is not known, and the answer is False.
    """
    return any(sampler.generator is None for sampler in shufflers(pools))


def warn(pools: Any) -> None:
    """Say that the passes after the one under way are shuffled in another order.

    Warns:
        UserWarning: the order of the loader is in no checkpoint.
    """
    if unseeded(pools):
        warnings.warn(UNSEEDED, stacklevel=3)
