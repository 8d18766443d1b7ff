"""Rows as bytes and back: a tree of tensors [n, ...] as one UInt8[n, bytes]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from puresift import trees


def packed(tree: Any) -> Tensor:
    """UInt8[n, bytes].

    Example:
        >>> packed({"x": torch.zeros(2, 3), "y": torch.ones(2, dtype=torch.int16)}).shape
        torch.Size([2, 14])
    """
    return torch.cat([_bytes(leaf) for leaf in trees.leaves(tree)], 1)


def unpacked(rows: Tensor, like: Any) -> Any:
    """The tree again; `like` has its structure, types and shapes of rows."""
    place = 0

    def one(leaf: Tensor) -> Tensor:
        nonlocal place
        width = leaf.element_size() * leaf.shape[1:].numel()
        part = rows[:, place : place + width].flatten().clone()  # at a place in memory that any type may begin at
        place += width
        if not part.numel():
            return leaf.new_zeros((len(rows), *leaf.shape[1:]))
        return part.view(leaf.dtype).reshape(len(rows), *leaf.shape[1:])

    return trees.map_leaves(one, like)


def _bytes(leaf: Tensor) -> Tensor:
    width = leaf.element_size() * leaf.shape[1:].numel()
    if not leaf.numel():
        return torch.zeros((len(leaf), width), dtype=torch.uint8, device=leaf.device)
    return leaf.contiguous().reshape(len(leaf), -1).view(torch.uint8)
