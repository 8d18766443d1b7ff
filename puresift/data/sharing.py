"""Whether ranks read rows of their own."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from puresift.data.generators import parts

_OF_TORCH = ("torch.utils.data", "torchdata.stateful_dataloader")


def shared_out(loader: Any) -> bool | None:
    """Whether a loader gives each rank rows of its own; None where that cannot be seen.

    True where a `DistributedSampler` shares out; False where other samplers of torch's order the rows of a map-style
    dataset, which they do on every rank alike. What a stream, a sampler of one's own, another kind of loader or one
    that Accelerate prepared gives cannot be seen.

    Args:
        loader: any.
    """
    if not isinstance(loader, DataLoader) or hasattr(loader, "base_dataloader"):
        return None
    samplers = [part for part in parts(loader) if part is not loader]
    if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
        return True
    if isinstance(loader.dataset, IterableDataset):
        return None
    return None if any(not type(sampler).__module__.startswith(_OF_TORCH) for sampler in samplers) else False
