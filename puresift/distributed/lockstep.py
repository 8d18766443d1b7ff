"""Ranks in lock-step: all take as many batches as the shortest has."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from puresift.distributed.ranks import place
from puresift.errors import MomentError

_FAILED, _NONE, _ONE = -1, 0, 1
Item = TypeVar("Item")


def in_step(
    batches: Iterable[Item], *, cure: str = "keep rows by ps.systematic to keep the ranks closer together"
) -> Iterator[Item]:
    """The batches, as long as every rank has one: all ranks stop together when the shortest has none left.

    A rank that continued alone would hang in the next gradient all-reduce. Every step costs one all-reduce of one
    number, which is read on the host. All ranks must also leave the loop together: stop on a count, or on something
    they agree on.

    Args:
        batches: this rank's own, any number of them. What is left of them at the end is read and counted.
        cure: what the warning advises.

    Returns:
        An iterator over the first n batches, n the same on all ranks.

    Raises:
        RuntimeError: another rank failed while it made its next batch, or read those that are left at the end.

    Warns:
        UserWarning: once, on rank 0: how many batches were left unused, summed over ranks.

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
        if item is None or least == _NONE:
            break
        yield item[0]
    unused = _added(source, 0 if item is None else 1)
    if unused and rank == 0:
        warnings.warn(
            f"the ranks kept unequal numbers of rows: {unused} batches were left unused when the shortest rank "
            f"had none; {cure}",
            stacklevel=1,  # the loop that asks for batches has done nothing wrong
        )


def _agreed(source: Iterator[Item]) -> tuple[tuple[Item] | None, int]:
    """The next item, if there is one, and the least that any rank has."""
    item: tuple[Item] | None = None
    try:
        item, status = (next(source),), _ONE
    except StopIteration:
        status = _NONE
    except BaseException:
        _reduced([_FAILED], dist.ReduceOp.MIN)
        raise
    (least,) = _reduced([status], dist.ReduceOp.MIN)
    if least == _FAILED:
        raise MomentError("another rank failed while it made its next batch; its own message says why")
    return item, least


def _added(source: Iterator[Any], count: int) -> int:
    """What is left on all ranks; where reading it fails on one, all of them raise and none goes on alone."""
    try:
        count += sum(1 for _ in source) if count else 0
    except BaseException:
        _reduced([count, 1], dist.ReduceOp.SUM)
        raise
    total, failed = _reduced([count, 0], dist.ReduceOp.SUM)
    if failed:
        raise MomentError("another rank failed while it read its batches that are left; its own message says why")
    return total


def _reduced(numbers: list[int], how: Any) -> list[int]:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(numbers, device=device)
    dist.all_reduce(tensor, how)
    return tensor.tolist()
