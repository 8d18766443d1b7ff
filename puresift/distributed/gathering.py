"""One tensor of every rank, on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from puresift.distributed.ranks import place


def gathered(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, stacked by rank; every rank must call it, with one shape and type.

    Args:
        tensor: this rank's own, [...].

    Returns:
        [ranks, ...], the same on every rank, on the device of `tensor`. A single process communicates nothing.

    Example:
        >>> gathered(torch.tensor([1, 2]))
        tensor([[1, 2]])
    """
    _, world = place()
    if world == 1:
        return tensor[None]
    own = tensor.to("cuda" if dist.get_backend() == "nccl" else "cpu").contiguous()
    parts = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(parts, own)
    return torch.stack(parts).to(tensor.device)
