"""Counter-based randomness: a key is an explicit argument, never advanced; new keys are derived with `fold_in`.

The numbers are those of Philox-4x32-10: the same bits on every device, under vmap and under compile.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from puresift import settings
from puresift.errors import ArgumentError, SiftError
from puresift.philox import MASK, counters, philox, scalar
from puresift.trees import unreadable
from puresift.types import Key

_FOLD, _SPLIT, _WORDS, _PASS, _COIN = 1, 2, 3, 4, 5  # the last counter word keeps the uses apart
_ODD = 0x6C8E9CF5  # multiplies a number so that its high bits are well mixed; what overflows is lost
_SWAPS = 24  # after so many, two numbers keep their distance with a probability of 2 ** -24


def key(seed: int) -> Key:
    """A key from a 64-bit seed.

    Args:
        seed: a whole number in [0, 2**64).

    Returns:
        Int64[2], two 32-bit words.

    Raises:
        SiftError: the seed is anything else.

    Example:
        >>> key(7)
        tensor([7, 0])
    """
    seed = settings.plain(seed)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise SiftError(f"seed must be a whole number in [0, 2**64), got {seed!r}")
    return torch.tensor([seed & MASK, seed >> 32])


def checked(key: Key) -> Key:
    """The key itself, if it is one.

    Args:
        key: Int64[2].

    Returns:
        Int64[2].

    Raises:
        SiftError: it is a seed, a generator or anything else; which is a TypeError too.

    Example:
        >>> checked(key(7))
        tensor([7, 0])
    """
    if isinstance(key, Tensor) and key.shape == (2,) and key.dtype == torch.int64:
        return key
    got = f"{key.dtype}{list(key.shape)}" if isinstance(key, Tensor) else f"the {type(key).__name__} {key!r}"
    raise ArgumentError(f"a key is Int64[2], and this is {got}; make one from a seed, as in ps.key(0)")


def fold_in(key: Key, data: int | Tensor) -> Key:
    """The key derived from `key` and `data`, as in `jax.random.fold_in`.

    Args:
        key: Int64[2].
        data: a whole number or Int64[]; its low 64 bits count.

    Returns:
        Int64[2].

    Example:
        >>> bool((fold_in(key(0), 1) == fold_in(key(0), 2)).all())
        False
    """
    if (known := _known(key, data)) is not None:
        return torch.tensor(scalar(*known, _FOLD)[:2])
    # torch.full avoids a host-to-device copy
    word = data if isinstance(data, Tensor) else torch.full((), data, dtype=torch.int64, device=key.device)
    word = word.to(torch.int64)
    zero = torch.zeros_like(word)
    counter = torch.stack([word & MASK, (word >> 32) & MASK, zero, zero + _FOLD])
    return philox(key, counter[:, None])[:2, 0]


def split(key: Key, num: int = 2) -> Tensor:
    """`num` independent keys.

    Returns:
        Int64[num, 2].

    Example:
        >>> first, second = split(key(0))
        >>> bool((uniform(first, 3) == uniform(second, 3)).any())
        False
    """
    return philox(key, counters(num, _SPLIT, key.device))[:2].T


def words(key: Key, num: int) -> Tensor:
    """`num` uniform 32-bit words, Int64[num]; a longer request starts with the same words.

    Example:
        >>> bool((words(key(0), 3) == words(key(0), 9)[:3]).all())
        True
    """
    if num <= 4 and (known := _known(key, 0)) is not None:
        return torch.tensor(scalar(*known, _WORDS)[:num], dtype=torch.int64)
    block = philox(key, counters(-(-num // 4), _WORDS, key.device))
    return rearrange(block, "word counter -> (counter word)")[:num]


def ahead(key: Key, steps: Tensor, num: int) -> Tensor:
    """For each of many steps, what `words(fold_in(key, step), num)` gives, in as many operations as one of them takes.

    Args:
        key: Int64[2].
        steps: Int64[S].
        num: words a step.

    Returns:
        Int64[S, num].

    Example:
        >>> bool((ahead(key(0), torch.arange(5), 3)[4] == words(fold_in(key(0), 4), 3)).all())
        True
    """
    zero, blocks = torch.zeros_like(steps), -(-num // 4)
    folded = philox(key, torch.stack([steps & MASK, (steps >> 32) & MASK, zero, zero + _FOLD]))[:2]
    places = counters(blocks, _WORDS, key.device)
    block = philox(folded.repeat_interleave(blocks, 1), places.repeat(1, len(steps)))
    return rearrange(block, "word (step counter) -> step (counter word)", step=len(steps))[:, :num]


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
    return fractions(words(key, num))


def fractions(words: Tensor) -> Tensor:
    """Float32[...] in [0, 1), from the upper 24 bits of 32-bit words.

    Example:
        >>> fractions(torch.tensor([0, 2**31, 2**32 - 1]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    return (words >> 8).to(torch.float32) * 2.0**-24


def coin(key: Key, number: Tensor) -> Tensor:
    """62 random bits, those of one number under a key.

    Args:
        key: Int64[2].
        number: Int64[], >= 0.

    Returns:
        Int64[], >= 0.

    Example:
        >>> bool(coin(key(0), torch.tensor(1)) == coin(key(0), torch.tensor(2)))
        False
    """
    if (known := _known(key, number)) is not None:
        first, second = scalar(*known, _COIN)[:2]
        return torch.tensor((first << 30) ^ second)
    zero = torch.zeros_like(number)
    block = philox(key, torch.stack([number & MASK, number >> 32, zero, zero + _COIN])[:, None])
    return (block[0, 0] << 30) ^ block[1, 0]


def passes(key: Key, places: Tensor, size: int) -> Tensor:
    """Endless shuffled passes over [0, size): what stands at each place of them. Pass e is a permutation of its own.

    A place is answered by itself, in memory that does not grow with the size, by a swap-or-not shuffle of 24 rounds:
    in each of them a number x and its partner (k - x) mod size change places, or do not.

    Args:
        key: Int64[2].
        places: Int64[n], >= 0; places [e * size, (e + 1) * size) are pass e.
        size: how many numbers.

    Returns:
        Int64[n].

    Example:
        >>> sorted(passes(key(0), torch.arange(5, 10), 5).tolist())
        [0, 1, 2, 3, 4]

    References:
        Viet Tung Hoang, Ben Morris, Phillip Rogaway, "An Enciphering Scheme Based on a Card Shuffle", 2012.
    """
    first, device = places.amin() // size, places.device
    number = first + torch.arange(places.shape[0] // size + 2, device=device)
    turn = torch.arange(_SWAPS, device=device)
    zero = torch.zeros_like(turn)
    parts = (number[:, None] & MASK, turn, number[:, None] >> 32, zero + _PASS)
    block = philox(key, torch.stack(torch.broadcast_tensors(*parts)).flatten(1)).unflatten(1, (-1, _SWAPS))
    kind = torch.int32 if size < 2**30 else torch.int64  # the smaller, the faster
    sign, low = torch.iinfo(kind).bits - 1, 2**31 - 1
    partners = (((block[0] << 31) ^ block[1]) % size).to(kind).T.contiguous()  # [rounds, passes]
    shifts = (block[2] & low).to(kind).T.contiguous()
    mine, x = places // size - first, (places % size).to(kind)
    for partner, shift in zip(partners.unbind(), shifts.unbind(), strict=True):
        other = partner.index_select(0, mine) - x
        other = other + ((other >> sign) & size)
        coin = (torch.maximum(x, other) + shift.index_select(0, mine)) * _ODD
        x = x + ((other - x) & -((coin >> 24) & 1))
    return x.long()


def _known(key: Key, number: int | Tensor) -> tuple[list[int], int] | None:
    """The key and the number on the host, for `scalar`; None where they are not there, or must not be read."""
    if key.device.type != "cpu" or unreadable(key[0] >= 0):
        return None
    if not isinstance(number, Tensor):
        return key.tolist(), number
    if number.device.type != "cpu" or unreadable(number >= 0):
        return None
    return key.tolist(), int(number)
