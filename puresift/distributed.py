"""Several ranks: their own random numbers, their common pace, and states that know where they belong.

Each rank sifts its own share of the data and keeps its own number of rows, so ranks would drift apart; `in_step`
holds them together. In a single process nothing here does anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from puresift import keys
from puresift.types import Key

_PLACE = "place"
_FAILED, _NONE, _ONE = -1, 0, 1
Item = TypeVar("Item")


def place() -> tuple[int, int]:
    """(rank, world size); (0, 1) where no process group is initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def rank_key(key: Key) -> Key:
    """The key of this rank, `fold_in(key, rank)`, so that no two ranks draw alike; in a single process the key itself.

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


def in_step(batches: Iterable[Item]) -> Iterator[Item]:
    """The batches, as long as every rank has one: all ranks stop together when the shortest has none left.

    A rank that went on alone would wait for ever in the next gradient reduction. Every step costs one reduction of one
    number, which is read on the host. All ranks have to leave the loop together too: stop on a count, or on something
    they agree on.

    Args:
        batches: this rank's own, any number of them. What is left of them at the end is read and counted.

    Returns:
        An iterator over the first n batches, n the same on all ranks.

    Raises:
        RuntimeError: another rank failed while it made its next batch.

    Warns:
        UserWarning: once, on rank 0: how many batches were left unused, all ranks together.

    Example:
        >>> list(in_step([1, 2]))
        [1, 2]
    """
    rank, world = place()
    if world == 1:
        yield from batches
        return
    source = iter(batches)
    while True:
        item, least = _agreed(source)
        if least == _NONE:
            break
        assert item is not None
        yield item[0]
    unused = _added(source, 0 if item is None else 1)
    if unused and rank == 0:
        warnings.warn(
            f"the ranks kept unequal numbers of rows: {unused} batches were left unused when the shortest rank "
            "had none; keep rows by ps.systematic to keep the ranks closer together",
            stacklevel=2,
        )


def stamped(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state with this rank and the world size."""
    return {**flat, _PLACE: torch.tensor(place())}


def unstamped(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state without its stamp.

    Raises:
        ValueError: it belongs to another rank, or to a run on another number of ranks.
    """
    rest = dict(flat)
    here = place()
    stamp = rest.pop(_PLACE, None)
    rank, world = here if stamp is None else stamp.tolist()
    if world != here[1]:
        raise ValueError(
            f"the state was saved on {world} ranks and there are {here[1]} now; a rank's rows and place cannot be "
            "divided anew, so resume on as many ranks, or start the sifter afresh"
        )
    if rank != here[0]:
        raise ValueError(
            f"the state was saved by rank {rank} and this is rank {here[0]}; save one file a rank, and load one's own"
        )
    return rest


def _agreed(source: Iterator[Item]) -> tuple[tuple[Item] | None, int]:
    """The next item, if there is one, and the least that any rank has."""
    try:
        item, status = (next(source),), _ONE
    except StopIteration:
        return None, _reduced(_NONE, dist.ReduceOp.MIN)
    except BaseException:
        _reduced(_FAILED, dist.ReduceOp.MIN)
        raise
    least = _reduced(status, dist.ReduceOp.MIN)
    if least == _FAILED:
        raise RuntimeError("another rank failed while it made its next batch; its own message says why")
    return item, least


def _added(source: Iterator[Any], count: int) -> int:
    try:
        count += sum(1 for _ in source) if count else 0
    finally:  # a rank that fails here must not leave the others waiting
        total = _reduced(count, dist.ReduceOp.SUM)
    return total


def _reduced(number: int, how: Any) -> int:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, how)
    return int(tensor)
