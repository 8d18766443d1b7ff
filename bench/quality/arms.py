"""The arms: what is trained on, as pure descriptions. Nothing here looks at data or at a clock.

Every arm shares the batches' shape, bucketing, precision, optimizer, schedule and evaluation with the plain one, and
has the settings of its source: none was tuned here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import puresift as ps
from puresift.types import Losses

POOL = 4  # batches' worth of candidates in a pool
WINDOW = 8  # batches sorted by length among themselves
SHORTER = (0.6, 0.4, 0.25)  # budgets, as shares of the full run's


class Arm(NamedTuple):
    """One row of the table."""

    name: str
    summary: str
    kind: Literal["plain", "rs2", "infobatch", "sift"]
    keep: float | None = None  # planned; None where it is the budget that decides
    rule: Callable[[int], ps.Rule] | None = None  # pools in the run -> rule
    score: Literal["loss", "error", "remembered", "reducible"] | None = None
    scored: float = 1.0  # expected share of the pools that are scored
    normalised: bool = False  # weights of a batch have mean 1
    governed: bool = False  # by ps.governor, whose clock is the budget
    reference: Literal["charged", "free"] | None = None
    budgets: tuple[float, ...] = SHORTER


class ClippedState(NamedTuple):
    """The last losses, as 1 - exp(-loss), in a ring."""

    history: Tensor  # Float[history], NaN where nothing was seen yet
    seen: Tensor  # Int64[]


def clipped(share: float, *, floor: float = 0.3, least: float = 0.05, history: int = 1024) -> ps.Rule:
    """Importance sampling whose plan shrinks as losses concentrate: a row that is likely anyhow is not made up for.

        e = 1 - exp(-loss);  p = clip(share * ((1 - floor) * e / mean(e) + floor), least, 1);  weight = 1 / p

    The mean is over the last losses, the pool's own included. `ps.importance` solves for the one factor that keeps the
    plan in place of clipping.
    """

    def init() -> ClippedState:
        return ClippedState(torch.full((history,), torch.nan), torch.zeros((), dtype=torch.int64))

    def select(state: ClippedState, losses: Losses, **columns: Any) -> tuple[ClippedState, ps.Odds]:
        errors = bounded(losses)
        places = (state.seen + torch.arange(len(errors), device=errors.device)) % history
        state = ClippedState(state.history.index_copy(0, places, errors), state.seen + len(errors))
        mean = state.history.nanmean()
        ratio = torch.where(mean > 0, errors / mean, 1.0)
        probs = (share * ((1 - floor) * ratio + floor)).clamp(least, 1)
        return state, ps.Odds(probs, 1 / probs)

    return ps.Rule(init, select, always)


def bounded(losses: Losses) -> Tensor:
    """Losses in nats as one minus the probability of the label, in [0, 1)."""
    return -torch.expm1(-losses.float().clamp(min=0))


def of_bounded(rule: ps.Rule) -> ps.Rule:
    """The rule, shown 1 - exp(-loss) in place of the loss."""
    return rule._replace(select=lambda state, losses, **columns: rule.select(state, bounded(losses), **columns))


def always(state: Any) -> Tensor:
    return torch.ones((), dtype=torch.bool)


def _composer(pools: int) -> ps.Rule:
    return ps.interrupt(ps.ranked(keep=0.5), pools=pools, start=0.5, end=0.9, every=2)


def _relative(beta: int) -> Arm:
    says = f"percentile ** {beta} among 1,024 losses, unweighted, as in SageMaker"
    return Arm(f"relative-{beta}", says, "sift", 1 / (1 + beta), lambda pools: ps.relative(beta=beta), "loss")


def _clipped(name: str, share: float) -> Arm:
    says = f"unbiased importance, clipped, {share} of the mean error's"
    return Arm(name, says, "sift", share, lambda pools: clipped(share), "loss", normalised=True)


def _rho(name: str, reference: Literal["charged", "free"]) -> Arm:
    says = f"the tenth with the largest reducible loss, the reference {reference}"
    return Arm(name, says, "sift", 0.1, lambda pools: ps.top(0.1), "reducible", reference=reference)


def _random(pools: int) -> ps.Rule:
    return ps.uniform(0.5)


def _scored(pools: int) -> ps.Rule:
    return ps.uniform(0.5)._replace(wants=always)


def _norms(pools: int) -> ps.Rule:
    return ps.importance(1 / 3, floor=0.0)


def _third(pools: int) -> ps.Rule:
    return of_bounded(ps.importance(1 / 3, floor=0.3))


RS2 = "a fresh random part each epoch, in as many epochs as the full run"
COMPOSER = "ranks in the pool, every second pool from .5 to .9 of the run"
INFOBATCH = "half of the samples below the mean left out, all of them in the last eighth"
NORMS = "in proportion to ||softmax - onehot||, unbiased, where that pays"
THIRD = "ps.importance of 1 - exp(-loss), a third kept"
REMEMBERED = "as importance, by losses remembered for up to four visits"
TABLE = (
    Arm("full", "everything, for all of the budget", "plain", 1.0, budgets=(1.0,)),
    Arm("shortened", "plain, its schedule cut to the budget", "plain", 1.0),
    Arm("rs2", RS2, "rs2"),
    Arm("random", "a random half of each pool, nothing scored", "sift", 0.5, _random, scored=0.0),
    Arm("random-scored", "the same half, scoring charged", "sift", 0.5, _scored, "loss"),
    _relative(1),
    _relative(2),
    _relative(3),
    Arm("composer", COMPOSER, "sift", 0.9, _composer, "loss", 0.2),
    Arm("infobatch", INFOBATCH, "infobatch"),
    Arm("katharopoulos", NORMS, "sift", 1 / 3, _norms, "error", governed=True),
    _rho("rho", "charged"),
    _rho("rho-free", "free"),
    _clipped("importance", 0.5),
    _clipped("importance-.4", 0.4),
    Arm("importance-ps", THIRD, "sift", 1 / 3, _third, "loss", normalised=True),
    Arm("remembered", REMEMBERED, "sift", 0.5, lambda pools: clipped(0.5), "remembered", normalised=True),
)
ARMS = {arm.name: arm for arm in TABLE}
