"""What the loop needs to know about a pool on the host, packed into one small tensor: one host read per pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from puresift.errors import SiftError

NAME = "signal"  # of the entry in `info.extra` that carries it from a step to the loop


class Signal(NamedTuple):
    """A pool's signal, read on the host."""

    held: int  # rows in the buffer
    due: int  # rows due before the next batch leaves
    refused: int  # losses that are not finite, where that is an error
    wants: bool  # whether the rule wants the next pool scored
    cut: int  # rows with content past the length that length= gives them, which is an error
    widths: tuple[int, ...]  # the longest row of each batch of the window, as they leave; () where none is trimmed


def uncut(cut: int) -> None:
    """Refuse rows that would lose content.

    Raises:
        SiftError: naming their number.
    """
    if cut:
        raise SiftError(
            f"{cut} rows of the pool hold more than their padding past the length that length= (or bucket=) gives "
            "them, and would be cut; return each row's real length, up to its last token, or cut rows on purpose "
            "where batches are made"
        )


def pack(fill: Tensor, refused: Tensor, wants: Tensor, widths: Tensor, cut: Tensor) -> Tensor:
    """The signal as a tensor.

    Args:
        fill: Int64[3], the buffer's.
        refused: Int64[], losses that are an error.
        wants: Bool[], whether the rule wants the next pool scored.
        widths: Int64[W], or Int64[0].
        cut: Int64[], rows that would lose content.

    Returns:
        Int64[5 + W].

    Example:
        >>> wants, cut = torch.tensor(True), torch.tensor(0)
        >>> tensor = pack(torch.tensor([3, 2, 0]), torch.tensor(0), wants, torch.tensor([7]), cut)
        >>> unpack(tensor.tolist())
        Signal(held=3, due=2, refused=0, wants=True, cut=0, widths=(7,))
    """
    wants = wants.to(refused.device, refused.dtype)
    return vector([*fill[:2].unbind(), refused, wants, cut, *widths.unbind()])


def vector(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers [], of one kind, as [n]. Compiled for a GPU, a stack takes a kernel for each of them, this one."""
    if not torch.compiler.is_compiling():
        return torch.stack([*numbers])
    place, found = torch.arange(len(numbers), device=numbers[0].device), numbers[-1]
    for number, value in enumerate(numbers[:-1]):
        found = torch.where(place == number, value, found)
    return found.expand(len(numbers))


def unpack(numbers: Sequence[int]) -> Signal:
    """The signal from the numbers of `pack`, read on the host."""
    held, due, refused, wants, cut, *widths = numbers
    return Signal(held, due, refused, bool(wants), cut, tuple(widths))
