"""Ranks that give as many batches each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from puresift import keys
from puresift.types import Key


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank_key(key: Key) -> Key:
    """The key of this rank, so that ranks draw apart; the key itself where there is but one."""
    return keys.fold_in(key, dist.get_rank()) if world_size() > 1 else key


def in_step(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches for as long as every rank has one: all ranks end with the first that does."""
    if world_size() == 1:
        yield from batches
        return
    end = object()
    source = iter(batches)
    device = "cuda" if "nccl" in str(dist.get_backend()) else "cpu"
    while True:
        batch = next(source, end)
        alive = torch.tensor(float(batch is not end), device=device)
        dist.all_reduce(alive, op=dist.ReduceOp.MIN)
        if not alive.item():
            return
        yield batch
