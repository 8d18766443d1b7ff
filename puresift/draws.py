"""Draws: key, probs -> mask. Whatever the draw, the expectation of the mask is probs."""

from __future__ import annotations

import torch
from torch import Tensor

from puresift import keys
from puresift.types import Key

_BITS = 40  # fixed point, so that the running sum is exact for pools of up to 2**23 rows


def bernoulli(key: Key, probs: Tensor) -> Tensor:
    """Each row on its own coin: u_i < p_i.

    Args:
        key: Int64[2].
        probs: Float[B] in [0, 1].

    Returns:
        Bool[B].

    Example:
        >>> bernoulli(keys.key(0), torch.tensor([0.0, 1.0]))
        tensor([False,  True])
    """
    return keys.uniform(key, probs.shape[0]) < probs


def systematic(key: Key, probs: Tensor) -> Tensor:
    """One coin for the pool: row i is kept when floor(P_i + u) > floor(P_{i-1} + u), P the running sum of p.

    The number kept is the floor or the ceiling of sum(p), so it hardly varies from pool to pool; neighbours in the
    pool are seldom kept together, which a shuffled loader makes harmless.

    Args:
        key: Int64[2].
        probs: Float[B] in [0, 1].

    Returns:
        Bool[B].

    Example:
        >>> int(systematic(keys.key(0), torch.full((10,), 0.3)).sum())
        3

    References:
        William G. Madow, "On the Theory of Systematic Sampling, II", 1949.
    """
    high, low = keys.words(key, 2).unbind()
    start = (high << 8) | (low >> 24)
    steps = (probs * 2.0**_BITS).long()
    floors = torch.cat([start[None], start + steps.cumsum(0)]) >> _BITS
    return floors[1:] > floors[:-1]
