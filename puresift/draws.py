"""Draws: key, probs -> mask. For every draw, the expectation of the mask is probs.

The numbers behind a mask depend on the key alone. `uniforms=` takes them from outside, where they were made for many
steps in one call, as by `ahead`: the same bits for a hundredth of the operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puresift import keys
from puresift.order import PIECE
from puresift.trees import unreadable
from puresift.types import Draw, Key

_SHARE = 35  # bits of the largest weight, so that 2**27 of them can be summed
_COUNTED = 8  # ids a mark; of more, searching takes less time than counting
_BITS = 40  # fixed point, so that the running sum is exact for pools of up to 2**23 rows


def bernoulli(key: Key, probs: Tensor, *, uniforms: Tensor | None = None) -> Tensor:
    """Each row drawn independently: u_i < p_i.

    Args:
        key: Int64[2].
        probs: Float[B] in [0, 1].
        uniforms: Float32[B] in [0, 1), in place of `keys.uniform(key, B)`; the key is then not read.

    Returns:
        Bool[B].

    Example:
        >>> bernoulli(keys.key(0), torch.tensor([0.0, 1.0]))
        tensor([False,  True])
    """
    return (keys.uniform(key, probs.shape[0]) if uniforms is None else uniforms) < probs


def spaced(key: Key, number: Tensor, weights: Tensor, num: int) -> Tensor:
    """`num` ids in proportion to weights, by one coin: those under evenly spaced marks along the running sum.

    Id i comes up the floor or the ceiling of num * weight_i / sum(weights) times, so that a set drawn this way is
    spread over the weights as evenly as can be.

    Args:
        key: Int64[2].
        number: Int64[], of the draw under this key.
        weights: Float[N], >= 0, not all 0.
        num: how many.

    Returns:
        Int64[num], ascending, in [0, N).

    Example:
        >>> spaced(keys.key(0), torch.tensor(0), torch.tensor([1.0, 0.0, 2.0, 1.0]), 4)
        tensor([0, 2, 2, 3])

    References:
        William G. Madow, "On the Theory of Systematic Sampling, II", 1949.
    """
    coin = keys.coin(key, number)
    if weights.device.type == "cpu" and not unreadable(coin + weights[0]):
        return _spaced_in_pieces(int(coin), weights, num)
    sums = _units(weights, weights.amax()).cumsum(0)
    stride = sums[-1] // num
    marks = coin % stride + torch.arange(num, device=weights.device) * stride
    return torch.searchsorted(sums, marks, right=True)


def _spaced_in_pieces(coin: int, weights: Tensor, num: int) -> Tensor:
    """`spaced` where numbers can be read, with the same bits: never more than a piece of the running sum is held."""
    largest, pieces, ids, before = weights.amax(), weights.split(PIECE), list[Tensor](), 0
    totals = [int((units := _units(piece, largest)).sum()) for piece in pieces]
    stride = sum(totals) // num
    start = coin % stride
    for place, (piece, total) in enumerate(zip(pieces, totals, strict=True)):
        # The marks in this piece are those from the first at or above the sum before it up to the first past its own.
        first, upto = (min(-((start - sum_) // stride), num) for sum_ in (before, before + total))
        if first < upto:
            if len(pieces) > 1:
                units = _units(piece, largest)
            found = _under(units.cumsum(0), start + first * stride - before, stride, upto - first)
            ids.append(found + place * PIECE)
        before += total
    return torch.cat(ids)


def _under(sums: Tensor, start: int, stride: int, num: int) -> Tensor:
    """How many of the ascending sums are at or below each of `num` marks: start, start + stride, ..."""
    if len(sums) > _COUNTED * num:
        return torch.searchsorted(sums, torch.arange(num) * stride + start, right=True)
    # A search for each mark takes four times as long as to count the sums by the first mark that reaches them.
    reached = ((sums + (stride - 1 - start)) // stride).clamp_(0, num)
    return torch.bincount(reached, minlength=num)[:num].cumsum(0)


def independent(key: Key, number: Tensor, weights: Tensor, num: int) -> Tensor:
    """`num` ids in proportion to weights, each by a coin of its own, with replacement.

    Args:
        key: Int64[2].
        number: Int64[], of the draw under this key.
        weights: Float[N], >= 0, not all 0.
        num: how many.

    Returns:
        Int64[num] in [0, N).

    Example:
        >>> independent(keys.key(0), torch.tensor(0), torch.tensor([0.0, 1.0]), 3)
        tensor([1, 1, 1])
    """
    sums = _units(weights, weights.amax()).cumsum(0)
    high, low = keys.words(keys.fold_in(key, number), 2 * num).view(2, num).unbind()
    return torch.searchsorted(sums, ((high << 30) ^ low) % sums[-1], right=True)


def _units(weights: Tensor, largest: Tensor) -> Tensor:
    """Whole multiples of 2**-35 of the largest weight, Int64[N]: their sums are exact."""
    return (weights / largest).mul_(2.0**_SHARE).long()


def systematic(key: Key, probs: Tensor, *, count: int | None = None, uniforms: Tensor | None = None) -> Tensor:
    """One uniform u for the pool: row i is kept when floor(P_i + u) > floor(P_{i-1} + u), P the running sum of p.

    The number kept is the floor or the ceiling of sum(p), so it hardly varies from pool to pool. Neighbouring rows
    are rarely kept together, which is harmless with a shuffled loader.

    Args:
        key: Int64[2].
        probs: Float[B] in [0, 1].
        count: what the probabilities are known to sum to. Now and then, in one of millions of pools, their rounding
            would give a row more or less; with it, exactly so many are kept.
        uniforms: Int64[], u in units of 2**-40, in place of the key's own number; the key is then not read.

    Returns:
        Bool[B].

    Example:
        >>> int(systematic(keys.key(0), torch.full((10,), 0.3)).sum())
        3

    References:
        William G. Madow, "On the Theory of Systematic Sampling, II", 1949.
    """
    start = _start(keys.words(key, 2)) if uniforms is None else uniforms
    steps = (probs * 2.0**_BITS).long()
    sums = steps.cumsum(0)
    if count is not None and len(probs):
        # floor(sum + u) is the count for u from `lowest` on, and for the length of a whole number; u is moved there.
        lowest, one = (count << _BITS) - sums[-1], 1 << _BITS
        start = start.clamp(lowest, lowest + (one - 1))
    # The floor rises at a row where what is past it, after the row, is less than the row's own step.
    return ((start + sums) & ((1 << _BITS) - 1)) < steps


def _start(words: Tensor) -> Tensor:
    """Int64[...], a number in [0, 1) in units of 2**-40, from two words, Int64[..., 2]."""
    return (words[..., 0] << 8) | (words[..., 1] >> 24)


def ahead(draw: Draw, key: Key, steps: Tensor, rows: int) -> Tensor | None:
    """What a draw takes as `uniforms=` at each of many steps, where the key of a step is fold_in(key, step).

    Args:
        draw: any.
        key: Int64[2].
        steps: Int64[S].
        rows: of the largest pool; a smaller one takes the first of them.

    Returns:
        Float32[S, rows] for `bernoulli`, Int64[S] for `systematic`, and None for a draw of another kind.

    Example:
        >>> probs = torch.full((4,), 0.5)
        >>> uniforms = ahead(bernoulli, keys.key(0), torch.arange(3), 4)
        >>> one = bernoulli(keys.key(0), probs, uniforms=uniforms[2])
        >>> other = bernoulli(keys.fold_in(keys.key(0), 2), probs)
        >>> bool((one == other).all())
        True
    """
    if draw is bernoulli:
        return keys.fractions(keys.ahead(key, steps, rows))
    return _start(keys.ahead(key, steps, 2)) if draw is systematic else None
