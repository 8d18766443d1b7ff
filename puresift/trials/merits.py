"""What a score is worth: how much it lowers the variance of a weighted gradient, for what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import keys, trees
from puresift.cascades import Cascade
from puresift.errors import SiftError
from puresift.rules.weighing import importance
from puresift.scores.losses import lift
from puresift.types import Batch, Losses, Params, Rule, Score, ScoreFn

KEEPS = [number / 20 for number in range(1, 21)]
_DRAWS = 64  # of what a cascade leaves, whose variances are averaged: they are large where a rare row is left

AnyScore = ScoreFn | Score | Cascade
Rules = Callable[[float], Rule]  # from the fraction kept


class Look(NamedTuple):
    """What a score has told of a pool of B rows, in one draw if it is a cascade."""

    losses: Losses  # Float[n], as the rule sees them
    rows: Tensor  # Int64[n], which they are of
    probs: Tensor  # Float[n], how likely each was to be seen


class Merit(NamedTuple):
    """What a score is worth, where it is worth most."""

    merit: float  # reduction / (1 + phi / keep)
    keep: float  # the fraction kept
    reduction: float  # of the variance, at that fraction


def merit(norms: Tensor, looks: Sequence[Look], phi: float, rule: Rules = importance) -> Merit:
    """The merit of a score at the best fraction k, of twenty that are tried.

        reduction(k) = (sum_i n_i ** 2 / k) / (sum_i n_i ** 2 / p_i),  merit = max_k reduction(k) / (1 + phi / k)

    n are the norms of the rows' gradients, p the probabilities to be kept that a rule gives by the score, with
    sum(p) = k * B. The first sum is the second moment of the mean of k * B plain rows, the second that of the rows
    kept, each weighted by 1 / p; the mean gradient, small beside a row's, is left out. At equal time a kept row takes
    the place of 1 + phi / k plain ones, phi the time to score a row over that to train on it: a merit above 1 pays.

    Args:
        norms: Float[B], >= 0, true ones or a stand-in.
        looks: what the score has told of the B rows; of a cascade, in several draws.
        phi: > 0.
        rule: `rule(k)`, a rule that keeps k of what it sees.

    Returns:
        The best `Merit`; NaN where a loss is not finite.

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018: the variance that importance sampling takes away, against the time that it takes.
    """
    found = []
    for keep in KEEPS:
        plain, kept = moments(norms, looks, keep, rule)
        if kept != float("inf"):
            less = 1.0 if plain == 0 else plain / kept
            found.append(Merit(less / (1 + phi / keep), keep, less))
    return max(found, key=lambda one: one.merit)


def moments(norms: Tensor, looks: Sequence[Look], keep: float, rule: Rules = importance) -> tuple[float, float]:
    """The two sums of a reduction; the second is infinite where a cascade leaves fewer rows than are to be kept.

    Args:
        norms: Float[B], >= 0.
        looks: of these rows.
        keep: k.
        rule: `rule(k)`.

    Returns:
        Those of plain rows and of those kept; NaN where a loss is not finite.
    """
    squares, size, kept = norms.double().square(), len(norms), []
    for look in looks:
        share = keep * size / len(look.rows)
        if share > 1 + 1e-9:
            return float(squares.sum()) / keep, float("inf")
        made = rule(min(share, 1.0))
        probs = made.select(made.init(), look.losses.float())[1].probs.double()
        seen = squares[look.rows]
        terms = torch.where(seen > 0, seen / (probs * look.probs.double().square()), 0.0)
        kept.append(float(terms.sum()) if bool(look.losses.isfinite().all()) else float("nan"))
    return float(squares.sum()) / keep, sum(kept) / len(kept)


def looks(score: AnyScore, state: Any, params: Params, batch: Batch) -> list[Look]:
    """What a score tells of a pool; a cascade in several draws."""
    size = trees.batch_size(trees.plain(batch))
    if not isinstance(score, Cascade):
        losses = once(score, state, params, batch).float()
        return [Look(losses, torch.arange(size, device=losses.device), torch.ones_like(losses))]
    losses, many = score.thinnings(state, keys.split(keys.key(0), _DRAWS), params, batch)
    return [Look(thinned.shown(losses[thinned.rows]), thinned.rows, thinned.probs) for thinned in many]


def once(score: AnyScore, state: Any, params: Params, batch: Batch) -> Losses:
    """A pool scored as in a run; of a cascade, the losses of what its first score leaves."""
    if isinstance(score, Cascade):
        return score.thin(state, keys.key(0), params, batch)[1]
    return lift(score).apply(state, params, batch)[1]


def begun(score: AnyScore) -> Any:
    """The state that a score begins with."""
    if not callable(score) and not isinstance(score, Score):
        raise SiftError(f"a candidate is {score!r}; pass score(params, batch) -> Float[B], a Score or a ps.cascade")
    return (score if isinstance(score, Cascade) else lift(score)).init()
