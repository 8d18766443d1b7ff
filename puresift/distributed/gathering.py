"""Tensors of every rank, on every rank; and rows on their way from one to another."""

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
    own = tensor.to(wire()).contiguous()
    parts = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(parts, own)
    return torch.stack(parts).to(tensor.device)


def exchanged(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """What the other ranks send here; every rank must call it.

    Args:
        rows: UInt8[sum(sent), bytes], those for rank 0 first.
        sent: how many go to each rank.
        received: how many come from each.

    Returns:
        UInt8[sum(received), bytes], those of rank 0 first, on the device of `rows`.
    """
    own = rows.to(wire()).contiguous()
    come = own.new_empty((sum(received), *own.shape[1:]))
    dist.all_to_all_single(come, own, received, sent)
    return come.to(rows.device)


def wire() -> str:
    """The type of device whose tensors the ranks exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
