"""Columns: per-row whole numbers, such as sample ids and groups, that some rules need in addition to the losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from puresift.errors import SiftError
from puresift.trees import unreadable


class MissingColumn(SiftError):
    """A rule needs a column that was not declared."""

    def __init__(self, name: str):
        super().__init__(
            f"this rule needs the column {name!r}, Int[B]: declare it with "
            f"ps.sifter(..., columns={{{name!r}: function of the batch}}), or pass select(state, losses, {name}=...)"
        )
        self.name = name


def column(columns: Mapping[str, Tensor], name: str, losses: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A column of whole numbers in [0, size), and which rows are in that range.

    Values out of range raise here where reading them costs nothing: on the CPU, outside compiled code. Elsewhere the
    caller decides what happens to such rows.

    Args:
        columns: what `select` was given.
        name: of the column.
        losses: Float[B].
        size: one more than the largest value.

    Returns:
        Int64[B] with 0 for values out of range, and Bool[B].

    Raises:
        SiftError: there is no such column, it is not Int[B], or (see above) a value is out of range.
    """
    if name not in columns:
        raise MissingColumn(name)
    values = columns[name]
    if values.shape != losses.shape or values.is_floating_point() or values.dtype == torch.bool:
        raise SiftError(
            f"the column {name!r} must hold a whole number a row, Int[{losses.shape[0]}], "
            f"got {values.dtype}{list(values.shape)}"
        )
    values = values.to(losses.device, torch.int64)
    known = (values >= 0) & (values < size)
    everything = known.all()
    if values.device.type == "cpu" and not unreadable(everything) and not bool(everything):
        raise SiftError(
            f"the column {name!r} must be in [0, {size}), got values from {int(values.min())} to "
            f"{int(values.max())}; number them from 0, or make the rule larger"
        )
    return torch.where(known, values, 0), known
