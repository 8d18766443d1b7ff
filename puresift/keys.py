"""Counter-based randomness: a key is an explicit argument, never advanced, and derives everything by folding.

Philox-4x32-10 in int64 tensor operations: the same bits on every device, under vmap and under compile.

References:
    John K. Salmon, Mark A. Moraes, Ron O. Dror, David E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from puresift.types import Key

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_FOLD, _SPLIT, _WORDS = 1, 2, 3  # the last counter word keeps the three uses apart


def key(seed: int) -> Key:
    """A key from a 64-bit seed.

    Args:
        seed: a whole number in [0, 2**64).

    Returns:
        Int64[2], two 32-bit words.

    Raises:
        ValueError: the seed is no such number.

    Example:
        >>> key(7)
        tensor([7, 0])
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number in [0, 2**64), got {seed!r}")
    return torch.tensor([seed & _MASK, seed >> 32])


def fold_in(key: Key, data: int | Tensor) -> Key:
    """The key that belongs to `data` under `key`: derive, don't thread.

    Args:
        key: Int64[2].
        data: a whole number or Int64[]; its low 64 bits count.

    Returns:
        Int64[2].

    Example:
        >>> bool((fold_in(key(0), 1) == fold_in(key(0), 2)).all())
        False
    """
    # a fill keeps a Python number off the host-to-device path
    word = data if isinstance(data, Tensor) else torch.full((), data, dtype=torch.int64, device=key.device)
    word = word.to(torch.int64)
    zero = torch.zeros_like(word)
    counter = torch.stack([word & _MASK, (word >> 32) & _MASK, zero, zero + _FOLD])
    return philox(key, counter[:, None])[:2, 0]


def split(key: Key, num: int = 2) -> Tensor:
    """`num` independent keys.

    Returns:
        Int64[num, 2].
    """
    return philox(key, _counters(num, _SPLIT, key.device))[:2].T


def words(key: Key, num: int) -> Tensor:
    """`num` uniform 32-bit words, Int64[num]; a longer request starts with the same words."""
    block = philox(key, _counters(-(-num // 4), _WORDS, key.device))
    return rearrange(block, "word counter -> (counter word)")[:num]


def uniform(key: Key, num: int) -> Tensor:
    """`num` uniform numbers in [0, 1) with 24 bits each; a longer request starts with the same numbers.

    Args:
        key: Int64[2].
        num: how many.

    Returns:
        Float32[num].

    Example:
        >>> bool((uniform(key(0), 3) == uniform(key(0), 9)[:3]).all())
        True
    """
    return (words(key, num) >> 8).to(torch.float32) * 2.0**-24


def philox(key: Key, counter: Tensor) -> Tensor:
    """Philox-4x32-10: 128 random bits for each counter.

    Args:
        key: Int64[2], 32-bit words.
        counter: Int64[4, n], 32-bit words.

    Returns:
        Int64[4, n], 32-bit words.
    """
    lane = torch.arange(2, device=key.device)[:, None]  # built on the device: no transfer, no synchronisation
    multiplier = lane * (_MULTIPLIERS[1] - _MULTIPLIERS[0]) + _MULTIPLIERS[0]
    weyl = lane * (_WEYL[1] - _WEYL[0]) + _WEYL[0]
    rounds = torch.arange(_ROUNDS, device=key.device)[:, None, None]
    even, odd = counter[0::2], counter[1::2]
    for bump in ((key[:, None] + rounds * weyl) & _MASK).unbind():
        product = even * multiplier  # below 2**64, so the wrapped bits are the exact ones
        even = ((product >> 32) & _MASK).flip(0) ^ odd ^ bump
        odd = (product & _MASK).flip(0)
    return torch.stack([even[0], odd[0], even[1], odd[1]])


def _counters(num: int, use: int, device: torch.device) -> Tensor:
    index = torch.arange(num, device=device)
    zero = torch.zeros_like(index)
    return torch.stack([index, zero, zero, zero + use])
