"""The arms: what is trained on, as pure descriptions. Nothing here looks at data or at a clock.

Every arm shares the batches' shape, bucketing, precision, optimizer, schedule and evaluation with the plain one, and
has the settings of its source, but for ours, whose search bench/results/quality/diary.md tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

import puresift as ps

POOL = 4  # batches' worth of candidates in a pool
WINDOW = 8  # batches sorted by length among themselves
SMALL = 0.75  # of a batch
LEFT = (0.5, 0.25, 0.1)  # of the common class, where it is thinned once and for all
EVERY, UNIFORM = 16, 0.15  # batches in a draw of ids; share of a run that ends on everything
THINNED = 0.6  # of a pool, by the first score of a cascade
POSITIVE = 0.1  # the rare class's share of the rows, once its own are repeated
SHORTER = (0.6, 0.4, 0.25)  # budgets, as shares of the full run's


class Arm(NamedTuple):
    """One row of the table."""

    name: str
    summary: str
    kind: Literal["plain", "rs2", "infobatch", "sift", "prioritized", "downsampled", "oversampled"]
    keep: float | None = None  # planned; None where it is the budget that decides
    rule: Callable[[int], ps.Rule] | None = None  # pools in the run -> rule
    score: Literal["loss", "error", "glance", "remembered", "reducible"] | None = None
    scored: float = 1.0  # expected share of the pools that are scored
    normalised: bool = False  # weights of a batch have mean 1
    governed: bool = False  # by ps.governor, whose clock is the budget
    gated: bool = False  # by ps.gate, which is told how many classes there are
    reference: Literal["charged", "free"] | None = None
    small: bool = False  # batches of SMALL times the rows
    priced: str | None = None  # as which arm the sifter's own time is charged, where not as its own
    budgets: tuple[float, ...] = SHORTER
    bias: float | None = None  # of the weights, where the rule is the task's, or a cascade's draws have it too
    first: Literal["probed", "recalled"] | None = None  # the score that thins a pool before the arm's own sees it
    trials: int = 1  # settings tried before the runs; the plain arm's are its learning rates

    @property
    def picks(self) -> bool:
        """Whether some rows are likelier than others."""
        return self.kind in ("sift", "infobatch", "prioritized")


def clipped(share: float, bias: float = 1.0) -> ps.Rule:
    """p = min(1, share * (.7 * e / mean(e) + .3)), e = 1 - exp(-loss), over the last 1,024; weights p ** -bias."""
    return ps.by_error(ps.importance(share, floor=0.3, history=1024, bias=bias))


def _composer(pools: int) -> ps.Rule:
    return ps.interrupt(ps.ranked(keep=0.5), pools=pools, start=0.5, end=0.9, every=2)


def _relative(beta: int) -> Arm:
    says = f"percentile ** {beta} among 1,024 losses, unweighted, as in SageMaker"
    return Arm(f"relative-{beta}", says, "sift", 1 / (1 + beta), lambda pools: ps.relative(beta=beta), "loss")


def _prioritized(bias: float) -> Arm:
    says = f"ids drawn from the losses of training, weights ** {bias:g}, nothing scored"
    name = f"prioritized-{bias:g}".replace("0.", ".")
    return Arm(name, says, "prioritized", bias=bias)


def _downsampled(keep: float) -> Arm:
    says = f"all rows of the rare class, and a fixed random {keep:.0%} of the others"
    return Arm(f"downsampled-{keep:g}".replace("0.", "."), says, "downsampled", keep)


def _clipped(name: str, share: float) -> Arm:
    says = f"unbiased importance, clipped, {share} of the mean error's"
    return Arm(name, says, "sift", share, lambda pools: clipped(share), "loss", normalised=True)


def _rho(name: str, reference: Literal["charged", "free"]) -> Arm:
    says = f"the tenth with the largest reducible loss, the reference {reference}"
    return Arm(name, says, "sift", 0.1, lambda pools: ps.top(0.1), "reducible", reference=reference)


def _cascade(first: Literal["probed", "recalled"], bias: float) -> Arm:
    guess = {"probed": "what a regression on embeddings expects", "recalled": "its last loss in training"}[first]
    says = f"thinned to {THINNED:g} by {guess}, two thirds of that by the loss of the first tokens; weights ** {bias:g}"
    rule = lambda pools: clipped(2 / 3, bias)  # noqa: E731
    more: Any = {"scored": THINNED, "normalised": bias > 0, "bias": bias, "first": first, "priced": f"{first}-1"}
    return Arm(f"{first}-{bias:g}".replace("0.", "."), says, "sift", THINNED * 2 / 3, rule, "glance", **more)


def _random(pools: int) -> ps.Rule:
    return ps.uniform(0.5)


def _scored(pools: int) -> ps.Rule:
    return ps.uniform(0.5)._replace(wants=lambda state: torch.ones((), dtype=torch.bool))


def _norms(pools: int) -> ps.Rule:
    return ps.importance(1 / 3, floor=0.0)


def _third(pools: int) -> ps.Rule:
    return ps.by_error(ps.importance(1 / 3, floor=0.3))


SEARCH = 47  # see the diary
RS2 = "a fresh random part each epoch, in as many epochs as the full run"
COMPOSER = "ranks in the pool, every second pool from .5 to .9 of the run"
INFOBATCH = "half of the samples below the mean left out, all of them in the last eighth"
NORMS = "in proportion to ||softmax - onehot||, unbiased, where that pays"
THIRD = "ps.importance of 1 - exp(-loss), a third kept"
GLANCE = "as importance, by the loss of the first tokens alone"
AUTO = "ps.auto of those losses: importance, while the governor finds that it pays"
LESS = "auto in batches of three quarters, which makes about as many steps as shortened"
SMALLER: Any = {"small": True, "priced": "composer"}  # the dearest
GATED = "as relative-1, once losses have fallen below .8 of what guessing costs"
REPEATED = "all rows, those of the rare class many times an epoch"
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
    Arm("importance-glance", GLANCE, "sift", 0.5, lambda pools: clipped(0.5), "glance", normalised=True, trials=SEARCH),
    Arm("auto", AUTO, "sift", 0.5, lambda pools: clipped(0.5), "glance", governed=True, trials=SEARCH),
    Arm("auto-small", LESS, "sift", 0.5, lambda pools: clipped(0.5), "glance", governed=True, trials=SEARCH, **SMALLER),
    Arm("remembered", REMEMBERED, "sift", 0.5, lambda pools: clipped(0.5), "remembered", normalised=True),
    _relative(1)._replace(name="relative-1-gated", summary=GATED, gated=True, priced="relative-1"),
    *map(_prioritized, (0.0, 0.5, 1.0)),
    *map(_downsampled, LEFT),
    Arm("oversampled", REPEATED, "oversampled"),
    *(_cascade(first, bias) for first in ("probed", "recalled") for bias in (0.0, 0.5, 1.0)),
)
ARMS = {arm.name: arm for arm in TABLE}
