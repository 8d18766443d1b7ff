"""Philox-4x32-10 in int64 tensor operations: the same bits on every device, under vmap and under compile.

References:
    John K. Salmon, Mark A. Moraes, Ron O. Dror, David E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puresift.types import Key

MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(key: Key, counter: Tensor) -> Tensor:
    """Philox-4x32-10: 128 random bits for each counter.

    Args:
        key: Int64[2], or Int64[2, n] with one for each counter; 32-bit words.
        counter: Int64[4, n], 32-bit words.

    Returns:
        Int64[4, n], 32-bit words.

    Example:
        >>> counter = torch.zeros(4, 1, dtype=torch.int64)
        >>> [hex(word) for word in philox(torch.tensor([0, 0]), counter)[:, 0].tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    lane = torch.arange(2, device=key.device)[:, None]  # built on the device: no transfer, no synchronisation
    rounds = torch.arange(_ROUNDS, device=key.device)[:, None, None]
    # Chosen, not computed from the lane: compiled for a GPU, such arithmetic is done in 32 bits, which these overflow.
    multipliers = [torch.where(lane == 0, *pair) for pair in (_MULTIPLIERS, _MULTIPLIERS[::-1])]
    # A round swaps the lanes of both halves. The even half stays as it lies, and what meets it is swapped instead; the
    # odd one is kept swapped, with upper bits that the next mask takes away.
    swapped = lane != rounds % 2
    bumps = (torch.where(swapped, key[0], key[1]) + rounds * torch.where(swapped, *_WEYL)) & MASK
    even, odd = counter[0::2], counter[1::2].flip(0)
    for number, bump in enumerate(bumps.unbind()):
        product = even * multipliers[number % 2]  # below 2**64, so int64 overflow keeps the exact bits
        even, odd = ((product >> 32) ^ odd ^ bump) & MASK, product.flip(0)
    odd = odd & MASK
    return torch.stack([even[0], odd[1], even[1], odd[0]])


def scalar(key: list[int], number: int, use: int) -> tuple[int, int, int, int]:
    """`philox` for one counter, a number and a use, in Python's arithmetic.

    A hundred operations on tensors of one number take fifty times as long.
    """
    a, b, c, d = number & MASK, (number >> 32) & MASK, 0, use
    for number in range(_ROUNDS):
        x, y = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        bump = [(word + number * weyl) & MASK for word, weyl in zip(key, _WEYL, strict=True)]
        a, b, c, d = (y >> 32) ^ b ^ bump[0], y & MASK, (x >> 32) ^ d ^ bump[1], x & MASK
    return a, b, c, d


def counters(num: int, use: int, device: torch.device) -> Tensor:
    """Int64[4, num]: 0, 1, ..., num - 1, for one use of a key."""
    index = torch.arange(num, device=device)
    zero = torch.zeros_like(index)
    return torch.stack([index, zero, zero, zero + use])
