"""Rules that say how many rows of a pool they keep before they have seen it, whatever the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from puresift.settings import Number
from puresift.types import Rule

Count = Callable[[int], int | None]  # rows in a pool -> rows kept; None where keep * rows is not whole
Select = TypeVar("Select", bound=Callable[..., Any])
_NEAR = 1e-9  # of a row: what keep * rows may be off by for the rounding of keep


def counted(select: Select, keep: Number) -> Select:
    """A rule's `select`, marked: its probabilities always sum to keep * B. The mark is an attribute, `count`.

    A `keep` that is a tensor is not known on the host, and leaves no mark.
    """
    if not isinstance(keep, Tensor):
        share = float(keep)
        vars(select)["count"] = lambda rows: whole(share, rows)
    return select


def like(select: Select, rule: Rule) -> Select:
    """A wrapper's `select`, marked as the rule that it wraps: for one that leaves the probabilities alone."""
    if (count := count_of(rule)) is not None:
        vars(select)["count"] = count
    return select


def count_of(rule: Rule) -> Count | None:
    """What the rule says it keeps of a pool by its size; None where it depends on the losses or on the state."""
    return getattr(rule.select, "count", None)


def whole(keep: float, rows: int) -> int | None:
    """keep * rows, where that is a whole number.

    Example:
        >>> whole(0.3, 10), whole(0.3, 11)
        (3, None)
    """
    planned = keep * rows
    nearest = round(planned)
    return nearest if abs(planned - nearest) <= _NEAR * max(rows, 1) else None
