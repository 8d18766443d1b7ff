"""Ranks in lock-step: all take as many batches as the shortest has."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from puresift.distributed.pacts import Pact
from puresift.distributed.ranks import place
from puresift.errors import MomentError

_NONE, _ONE = 0, 1
Item = TypeVar("Item")


def in_step(
    batches: Iterable[Item], *, cure: str = "keep rows by ps.systematic to keep the ranks closer together"
) -> Iterator[Item]:
    """The batches, as long as every rank has one: all ranks stop together when the shortest has none left.

    A rank that continued alone would hang in the next gradient all-reduce. Every step costs one all-gather of a few
    numbers, which are read on the host. All ranks must also leave the loop together: stop on a count, or on something
    they agree on. A `SiftingDataLoader` does it without leaving out what is left.

    Args:
        batches: this rank's own, any number of them. What is left of them at the end is read and counted.
        cure: what the warning advises.

    Returns:
        An iterator over the first n batches, n the same on all ranks.

    Raises:
        RuntimeError: another rank failed while it made its next batch, or read those that are left at the end; its
            cause names the rank.

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
    source, pact = iter(batches), Pact()
    while True:
        item, least = _agreed(source, pact)
        if item is None or least == _NONE:
            break
        yield item[0]
    unused = _added(source, 0 if item is None else 1, pact)
    if unused and rank == 0:
        warnings.warn(
            f"the ranks kept unequal numbers of rows: {unused} batches were left unused when the shortest rank "
            f"had none; {cure}",
            stacklevel=1,  # the loop that asks for batches has done nothing wrong
        )


def _agreed(source: Iterator[Item], pact: Pact) -> tuple[tuple[Item] | None, int]:
    """The next item, if there is one, and the least that any rank has."""
    item: tuple[Item] | None = None
    try:
        item, status = (next(source),), _ONE
    except StopIteration:
        status = _NONE
    except BaseException as error:
        pact.fail(error)
        raise
    return item, min(_heard(pact, status, "made its next batch"))


def _added(source: Iterator[Any], count: int, pact: Pact) -> int:
    """What is left on all ranks; where reading it fails on one, all of them raise and none goes on alone."""
    try:
        count += sum(1 for _ in source) if count else 0
    except BaseException as error:
        pact.fail(error)
        raise
    return sum(_heard(pact, count, "read its batches that are left"))


def _heard(pact: Pact, number: int, doing: str) -> list[int]:
    """The numbers of all ranks."""
    try:
        return [other for other, *_ in pact.agree(number)]
    except MomentError as error:
        raise MomentError(f"another rank failed while it {doing}; its own message says why") from error
