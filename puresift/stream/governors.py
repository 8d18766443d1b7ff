"""Does sifting pay? Measured costs go in as values, and a pure decision comes out; the stream reads the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.types import Info

_FINE = 2.0**20  # fixed-point scale of variance reductions in an Int64 tensor


class Reading(NamedTuple):
    """What was measured since the last decision. Plain numbers; the readings of a whole run are its log."""

    wanted: float  # 1 where the rule wants the next pool scored, else 0
    scored: float  # rows of the last pool, 0 where it was not scored
    score: float  # seconds that scoring and selecting took
    kept: float  # rows kept of those scored
    reduction: float  # sqrt(B / ESS) of its probabilities; 1 where weights are all 1
    trained: float  # rows in the batches trained on
    train: float  # seconds of those training steps


class GovernorState(NamedTuple):
    """Moving averages, 0 where nothing was measured yet, and the time spent."""

    pool: float  # rows of the pool last scored
    score: float  # seconds a row scored
    train: float  # seconds a row trained on
    keep: float  # realised fraction of the pools scored
    reduction: float  # of their variance
    elapsed: float  # seconds, scoring and training
    spent: float  # of those, on scoring that did not pay
    cold: float  # pools scored whose times were ignored


class Governor(NamedTuple):
    """Readings to decisions; both members are pure.

    Example:
        >>> import puresift as ps
        >>> judge = ps.governor(warmup=0)
        >>> cheap = Reading(wanted=1, scored=64, score=0.1, kept=32, reduction=1, trained=64, train=1.0)
        >>> state, sift = judge.decide(judge.init(), cheap)
        >>> sift
        True
    """

    init: Callable[[], GovernorState]
    decide: Callable[[GovernorState, Reading], tuple[GovernorState, bool]]  # whether to sift the next pool


def governor(
    *, bar: Literal["full", "shortened"] = "full", budget: float = 0.02, rate: float = 0.25, warmup: int = 1
) -> Governor:
    """Sift while it pays; else keep whole pools unscored, and measure again from time to time.

    With phi = seconds to score a row / seconds to train on one, and k the fraction kept, a sifted pool pays while

        phi + k < max(1, k * sqrt(B / ESS))

    where the second term counts only for weighted rules: their kept rows are worth sqrt(B / ESS) plain ones each, after
    Katharopoulos and Fleuret. The 1 assumes that seeing a candidate is worth training on it. Against a plain run
    shortened to the same time, the harder baseline, that does not hold, and the condition becomes

        phi + k < k * B / ESS

    because the variance of a mean falls as 1 / rows: a kept row is worth B / ESS plain ones, if p is proportional to
    the gradient's norm. (There, the square root kept sifting off in runs where it was measured to pay.)
    ESS = (sum p)^2 / sum p^2 is the effective size of a pool of B rows under its probabilities.

    Time spent on scoring that does not pay is added up; while sifting is off, a pool is scored to measure again if that
    keeps the sum within `budget` of the rest of the elapsed time. At the start, `warmup` + 1 pools are scored and
    charged regardless of cost: the first are slow for lack of warm caches and compiled kernels. (If compilation takes
    minutes, call the score once before the run.)

    Differs from Katharopoulos and Fleuret: costs are measured (theirs are phi = 1/3 for every model), and a rule
    without weights is judged only by time.

    Args:
        bar: what sifting has to beat: "full", the plain run's time for as many candidates; "shortened", a plain run of
            equal time, which rules without weights never beat by this measure.
        budget: the share of plain training time that measuring may cost, in (0, 1].
        rate: the weight of a new reading in the moving averages, in (0, 1]. A reading counts for at most twice the
            average, so that an evaluation between two batches is not taken for a training step. While sifting is
            off, averages are old, and a new reading replaces them.
        warmup: pools scored at the start whose times are charged but not used as measurements.

    Returns:
        `Governor(init, decide)`: `decide(state, reading) -> (state, sift)`. Pass it to `ps.sift(..., governor=...)`.

    Raises:
        SiftError: a setting is out of range.

    Example:
        >>> judge = governor(warmup=0)
        >>> costly = Reading(wanted=1, scored=64, score=2.0, kept=32, reduction=1, trained=64, train=1.0)
        >>> state, sift = judge.decide(judge.init(), costly)
        >>> phi(state), sift
        (2.0, False)

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """
    for name, value in (("budget", budget), ("rate", rate)):
        if isinstance(value, Tensor):
            raise SiftError(f"{name} must be a plain number, as decisions are made on the host; pass float({name})")
    budget, rate = (float(settings.fraction(name, value)) for name, value in (("budget", budget), ("rate", rate)))
    warmup = settings.count("warmup", warmup, least=0)
    if bar not in ("full", "shortened"):
        raise SiftError(f'bar must be "full" or "shortened", got {bar!r}')
    full = bar == "full"

    def init() -> GovernorState:
        return GovernorState(*[0.0] * len(GovernorState._fields))

    def decide(state: GovernorState, reading: Reading) -> tuple[GovernorState, bool]:
        state = _measured(state, reading, rate, warmup, full)
        if not reading.wanted:
            return state, False
        if not state.pool or _pays(state, full):
            return state, True
        price = state.score * state.pool
        look = state.train > 0 and state.spent + price <= budget * (state.elapsed - state.spent)
        return state, look

    return Governor(init, decide)


def phi(state: GovernorState) -> float:
    """Seconds to score a row over seconds to train on one; NaN until both are measured."""
    return state.score / state.train if state.pool and state.train else float("nan")


def decisions(governor: Governor, readings: Iterable[Iterable[float]]) -> list[bool]:
    """Recompute the decisions of a run from its log.

    Args:
        governor: one with the same settings.
        readings: `info.extra["reading"]` of every pool, Float[pools, 7].

    Returns:
        Whether each pool was sifted, as in `info.extra["sifting"]`.

    Example:
        >>> decisions(governor(warmup=0), [[1, 0, 0.0, 0, 1, 0, 0.0], [1, 64, 2.0, 32, 1, 64, 1.0]])
        [True, False]
    """
    state, made = governor.init(), []
    for reading in readings:
        state, sift = governor.decide(state, Reading(*map(float, reading)))
        made.append(sift)
    return made


def numbers(info: Info) -> Tensor:
    """Int64[3]: rows scored, rows kept of them, and sqrt(B / ESS) in fixed point, to be read with the pool's signal."""
    probs, weights = info.odds
    size = len(probs)
    reduction = (size * probs.double().square().sum()).sqrt() / probs.double().sum()
    reduction = torch.where((weights != 1).any(), reduction, 1.0).nan_to_num(1.0, 1.0)
    scored = (~info.losses.isnan()).any()
    return torch.stack([scored * size, scored * info.mask.sum(), (reduction * _FINE).long()])


def reduction(number: int) -> float:
    """sqrt(B / ESS) from the fixed point of `numbers`."""
    return number / _FINE


def _pays(state: GovernorState, full: bool) -> bool:
    worth = max(1.0, state.keep * state.reduction) if full else state.keep * state.reduction**2
    return state.score < (worth - state.keep) * state.train


def _measured(state: GovernorState, reading: Reading, rate: float, warmup: int, full: bool) -> GovernorState:
    train = min(reading.train, 2 * state.train * reading.trained) if state.train else reading.train
    off = not (state.pool and _pays(state, full))  # or never measured
    state = state._replace(
        train=_average(state.train, train, reading.trained, rate),
        elapsed=state.elapsed + reading.score + train,
    )
    if not reading.scored:
        return state
    if state.cold < warmup:
        return state._replace(cold=state.cold + 1, spent=state.spent + reading.score)
    score = reading.score if off else min(reading.score, 2 * state.score * reading.scored)
    rate = 1.0 if off else rate
    state = state._replace(
        pool=reading.scored,
        score=_average(state.score, score, reading.scored, rate),
        keep=state.keep + rate * (reading.kept / reading.scored - state.keep),
        reduction=state.reduction + rate * (reading.reduction - state.reduction),
    )
    return state if _pays(state, full) else state._replace(spent=state.spent + reading.score)


def _average(old: float, total: float, rows: float, rate: float) -> float:
    if not rows:
        return old
    return old + rate * (total / rows - old) if old else total / rows
