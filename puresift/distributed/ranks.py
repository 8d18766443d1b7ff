"""Which rank this is, and its own random numbers. In a single process there is one rank, 0."""

from __future__ import annotations

import torch.distributed as dist

from puresift import keys
from puresift.types import Key


def place() -> tuple[int, int]:
    """(rank, world size); (0, 1) where no process group is initialised.

    Example:
        >>> place()
        (0, 1)
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def rank_key(key: Key) -> Key:
    """The key of this rank, `fold_in(key, rank)`, so that ranks draw different numbers; in a single process `key`.

    Args:
        key: Int64[2], the same on every rank.

    Returns:
        Int64[2].

    Example:
        >>> rank_key(keys.key(7))
        tensor([7, 0])
    """
    rank, world = place()
    return key if world == 1 else keys.fold_in(key, rank)
