"""The rule that loses nothing: a row whose gradient is zero is left out, and the mean stays that of the pool."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from puresift.rules.planning import always
from puresift.types import Losses, Odds, Rule


class NonzeroState(NamedTuple):
    """Nothing to remember."""


def nonzero() -> Rule:
    """Keep each row whose score is not exactly 0, where a score of 0 says that the row has no gradient.

        p = 1 where score != 0, else 0
        weight = kept / seen, of the pool; 1 where nothing is kept

    So `(weights * losses).mean()` over the kept rows of a pool has the gradient of `losses.mean()` over all of them:
    the sum over kept rows is that over all, and kept / seen changes its divisor from kept to seen. Nothing is estimated
    and nothing lost, whatever the draw. The weights presume batches of one pool, `ps.sift(..., refill=False)`: full
    batches across pools count a pool by how much it kept, so that their mean over a run is exact, each one's not.

    A mean over tokens has the tokens of the whole pool below the line, those of dropped rows too. Let the batch tell
    their number (a leaf that repeats it for each row), and leave out the weights, but for `weights > 0`, which is false
    for rows that only fill a batch up:

        loss = sum over kept rows and tokens of the loss / tokens in the pool

    It serves where many rows have no gradient, and a number that is there before the update says which: advantages of
    groups that all fail or all succeed, triplets inside the margin, hinge losses of what is already right, rows whose
    clipped objective is flat, rows whose labels are all ignored. A score that is nearly 0 does not do: use it where
    the zero is exact, without a KL term, an entropy bonus or a penalty on activations, which have gradients there too;
    weight decay has none of the rows' and is as before. BatchNorm in training mode sees other rows.

    Differs from the dynamic sampling of Yu et al., which fills up with groups that do have a gradient: that is another
    batch, and rollouts for it; this is the same one without the rows that add nothing.

    Args:
        nothing: there is no threshold to set, for only an exact 0 is lossless.

    Returns:
        A rule with weights. Scores of either sign are kept; -0.0 is 0, and NaN is `nonfinite=`'s, as always.

    Example:
        >>> rule = nonzero()
        >>> rule.select(rule.init(), torch.tensor([0.0, 1.5, -0.5, 0.0]))[1]
        Odds(probs=tensor([0., 1., 1., 0.]), weights=tensor([0.5000, 0.5000, 0.5000, 0.5000]))

    References:
        Qiying Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025.
    """
    return Rule(NonzeroState, _select, always)


def _select(state: NonzeroState, losses: Losses, **columns: Any) -> tuple[NonzeroState, Odds]:
    probs = (losses != 0).float()
    kept = probs.double().mean()  # NaN of no rows, and no row gets it
    return state, Odds(probs, torch.where(kept > 0, kept, 1.0).float() * torch.ones_like(probs))
