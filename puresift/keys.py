"""Counter-based randomness: a key is an explicit argument, never advanced; new keys are derived with `fold_in`.

Philox-4x32-10 in int64 tensor operations: the same bits on every device, under vmap and under compile.

References:
    John K. Salmon, Mark A. Moraes, Ron O. Dror, David E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from puresift import settings
from puresift.errors import ArgumentError, SiftError
from puresift.trees import unreadable
from puresift.types import Key

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
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
    return torch.tensor([seed & _MASK, seed >> 32])


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
        return torch.tensor(_scalar(*known, _FOLD)[:2])
    # torch.full avoids a host-to-device copy
    word = data if isinstance(data, Tensor) else torch.full((), data, dtype=torch.int64, device=key.device)
    word = word.to(torch.int64)
    zero = torch.zeros_like(word)
    counter = torch.stack([word & _MASK, (word >> 32) & _MASK, zero, zero + _FOLD])
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
    return philox(key, _counters(num, _SPLIT, key.device))[:2].T


def words(key: Key, num: int) -> Tensor:
    """`num` uniform 32-bit words, Int64[num]; a longer request starts with the same words.

    Example:
        >>> bool((words(key(0), 3) == words(key(0), 9)[:3]).all())
        True
    """
    block = philox(key, _counters(-(-num // 4), _WORDS, key.device))
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
    folded = philox(key, torch.stack([steps & _MASK, (steps >> 32) & _MASK, zero, zero + _FOLD]))[:2]
    counters = _counters(blocks, _WORDS, key.device)
    block = philox(folded.repeat_interleave(blocks, 1), counters.repeat(1, len(steps)))
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
        first, second = _scalar(*known, _COIN)[:2]
        return torch.tensor((first << 30) ^ second)
    zero = torch.zeros_like(number)
    block = philox(key, torch.stack([number & _MASK, number >> 32, zero, zero + _COIN])[:, None])
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
    parts = (number[:, None] & _MASK, turn, number[:, None] >> 32, zero + _PASS)
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


def philox(key: Key, counter: Tensor) -> Tensor:
    """Philox-4x32-10: 128 random bits for each counter.

    Args:
        key: Int64[2], or Int64[2, n] with one for each counter; 32-bit words.
        counter: Int64[4, n], 32-bit words.

    Returns:
        Int64[4, n], 32-bit words.

    Example:
        >>> counter = torch.zeros(4, 1, dtype=torch.int64)
        >>> [hex(word) for word in philox(key(0), counter)[:, 0].tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    lane = torch.arange(2, device=key.device)[:, None]  # built on the device: no transfer, no synchronisation
    rounds = torch.arange(_ROUNDS, device=key.device)[:, None, None]
    # Chosen, not computed from the lane: compiled for a GPU, such arithmetic is done in 32 bits, which these overflow.
    multipliers = [torch.where(lane == 0, *pair) for pair in (_MULTIPLIERS, _MULTIPLIERS[::-1])]
    # A round swaps the lanes of both halves. The even half stays as it lies, and what meets it is swapped instead; the
    # odd one is kept swapped, with upper bits that the next mask takes away.
    swapped = lane != rounds % 2
    bumps = (torch.where(swapped, key[0], key[1]) + rounds * torch.where(swapped, *_WEYL)) & _MASK
    even, odd = counter[0::2], counter[1::2].flip(0)
    for number, bump in enumerate(bumps.unbind()):
        product = even * multipliers[number % 2]  # below 2**64, so int64 overflow keeps the exact bits
        even, odd = ((product >> 32) ^ odd ^ bump) & _MASK, product.flip(0)
    odd = odd & _MASK
    return torch.stack([even[0], odd[1], even[1], odd[0]])


def _known(key: Key, number: int | Tensor) -> tuple[list[int], int] | None:
    """The key and the number on the host, for `_scalar`; None where they are not there, or must not be read."""
    if key.device.type != "cpu" or unreadable(key[0] >= 0):
        return None
    if not isinstance(number, Tensor):
        return key.tolist(), number
    if number.device.type != "cpu" or unreadable(number >= 0):
        return None
    return key.tolist(), int(number)


def _scalar(key: list[int], number: int, use: int) -> tuple[int, int, int, int]:
    """`philox` for one counter, a number and a use, in Python's arithmetic.

    A hundred operations on tensors of one number take fifty times as long.
    """
    a, b, c, d = number & _MASK, (number >> 32) & _MASK, 0, use
    for number in range(_ROUNDS):
        x, y = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        bump = [(word + number * weyl) & _MASK for word, weyl in zip(key, _WEYL, strict=True)]
        a, b, c, d = (y >> 32) ^ b ^ bump[0], y & _MASK, (x >> 32) ^ d ^ bump[1], x & _MASK
    return a, b, c, d


def _counters(num: int, use: int, device: torch.device) -> Tensor:
    index = torch.arange(num, device=device)
    zero = torch.zeros_like(index)
    return torch.stack([index, zero, zero, zero + use])
