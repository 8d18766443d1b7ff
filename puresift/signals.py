"""What the loop needs to know about a pool on the host, packed into one small tensor: one host read per pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NAME = "signal"  # of the entry in `info.extra` that carries it from a step to the loop


class Signal(NamedTuple):
    """A pool's signal, read on the host."""

    held: int  # rows in the buffer
    due: int  # rows due before the next batch leaves
    refused: int  # losses that are not finite, where that is an error
    wants: bool  # whether the rule wants the next pool scored
    widths: tuple[int, ...]  # the longest row of each batch of the window, as they leave; () where none is trimmed


def pack(fill: Tensor, refused: Tensor, wants: Tensor, widths: Tensor) -> Tensor:
    """The signal as a tensor.

    Args:
        fill: Int64[3], the buffer's.
        refused: Int64[], losses that are an error.
        wants: Bool[], whether the rule wants the next pool scored.
        widths: Int64[W], or Int64[0].

    Returns:
        Int64[4 + W].

    Example:
        >>> tensor = pack(torch.tensor([3, 2, 0]), torch.tensor(0), torch.tensor(True), torch.tensor([7]))
        >>> unpack(tensor.tolist())
        Signal(held=3, due=2, refused=0, wants=True, widths=(7,))
    """
    wants = wants.to(refused.device, refused.dtype)
    return torch.cat([fill[:2], torch.stack([refused, wants]), widths])


def unpack(numbers: Sequence[int]) -> Signal:
    """The signal from the numbers of `pack`, read on the host."""
    held, due, refused, wants, *widths = numbers
    return Signal(held, due, refused, bool(wants), tuple(widths))
