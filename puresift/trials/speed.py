"""Which of several scores to take on this machine: the cheapest that ranks alike, or the one that is worth most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import trees
from puresift.cascades import Cascade, CascadeState, cascade
from puresift.errors import SiftError
from puresift.order import ranks
from puresift.rules.weighing import importance
from puresift.scores.integers import int8, multiplies
from puresift.trials.merits import AnyScore, Merit, Rules, looks, merit
from puresift.trials.timing import Trial
from puresift.types import Batch, Params, Score

_CHEAP = 0.5  # of a score's time, for another to thin its pools


class Choice(NamedTuple):
    """What `fastest` found."""

    name: str
    score: Any  # as it was given, or made of those that were
    seconds: dict[str, float]  # median time of one call
    agreement: dict[str, float]  # rank correlation with the first candidate; NaN where a loss is not finite


class Weighed(Choice):
    """A choice with what each candidate is worth; it unpacks into the four fields of a `Choice`."""

    merits: dict[str, Merit]  # empty where the training step is not known


def fastest(
    scores: Mapping[str, AnyScore],
    params: Params,
    batch: Batch,
    *,
    agreement: float = 0.99,
    step: float | Callable[[], Any] | None = None,
    norms: Tensor | None = None,
    rule: Rules = importance,
    states: Mapping[str, Any] | None = None,
    more: bool = True,
) -> Weighed:
    """The score to take on this machine: by merit where the price of training is known, else the cheapest of equals.

    Not every machine is faster in lower precision, so it is measured: a warm-up, then the median of three calls each,
    in turns. Without `step` it is the cheapest of those that rank a batch as the first one does. With it, the one of
    the highest merit: a score that ranks a little worse for a tenth of the price is the better one.

        merit = max over k of reduction(k) / (1 + phi / k),  phi = seconds to score the batch / seconds to train on it
        reduction(k) = (sum_i n_i ** 2 / k) / (sum_i n_i ** 2 / p_i)

    p are the probabilities that `rule(k)` gives by the candidate, and n the `norms` of the rows' gradients, for which
    the first candidate's losses stand in. The variance of the gradient is 1 / reduction of that of as many plain rows,
    and a kept row costs as much as 1 + phi / k of them; above 1, sifting by that candidate pays.

    Args:
        scores: candidates by name; the first is the reference and always admitted. With `step`, scores that remember
            and a `ps.cascade` as well.
        params: as the scores take them.
        batch: a typical pool.
        agreement: the least Spearman rank correlation with the reference; without `step`.
        step: what training on all rows of the batch takes, in seconds, or a function that does it, which must leave the
            parameters as they are: a forward and a backward.
        norms: Float[B], the norms of the rows' gradients, such as `ps.grad_norm`'s, in place of the reference's losses.
        rule: `rule(keep)`, a rule whose weights are the inverse of its probabilities.
        states: of candidates that remember, by name, such as `sifted.state.score`; by default, those they begin with.
        more: with `step`, also try "int8", the reference by `ps.int8`, where that applies, and "cascade", one candidate
            in front of another that takes at least twice its time, by the product of their merits.

    Returns:
        A `Choice` that has `merits`, by name, as well. Save its name with the checkpoint, because a resumed run must
        score as the first one did.

    Raises:
        SiftError: there is no candidate, the reference gives losses that are not finite, the step takes no time, norms
            are not one for each row, a state is of no candidate, or a candidate needs `step`.

    Example:
        >>> fastest({"plain": lambda params, batch: batch}, {}, torch.arange(3.0)).name
        'plain'
        >>> glance = lambda params, batch: batch.round()
        >>> choice = fastest({"plain": lambda params, batch: batch, "glance": glance}, {}, torch.rand(64), step=9.0)
        >>> sorted(choice.merits), choice.merits[choice.name].merit > 1
        (['glance', 'plain'], True)

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """
    if not scores:
        raise SiftError("fastest needs at least one score, such as {'float32': score}")
    trial = Trial(params, batch, step, dict(states or {}))
    trial.asked(scores, norms)
    first = next(iter(scores))
    if step is not None and more:
        scores = {**scores, **_rounded(scores, trial)}
    seconds = trial.seconds(scores)
    ranking = {name: rank_correlation(trial.told[first], trial.told[name]) for name in scores if name in trial.told}
    if step is None:
        best = min([name for name in scores if ranking[name] >= agreement], key=seconds.__getitem__)
        return _weighed(Choice(best, scores[best], seconds, ranking), {})
    norms = trial.told[first] if norms is None else norms

    def judged(name: str) -> Merit:
        seen = looks(scores[name], trial.states[name], params, batch)
        return merit(norms, seen, seconds[name] / trial.step, rule)

    merits = {name: judged(name) for name in scores}
    if more and "cascade" not in scores and (two := _pair(scores, seconds, merits)):
        pair = cascade(*(scores[name] for name in two), divided=True)
        trial.states["cascade"] = CascadeState(*(trial.states[name] for name in two))
        scores, seconds = {**scores, "cascade": pair}, seconds | trial.seconds({"cascade": pair})
        merits["cascade"] = judged("cascade")
    best = max((name for name in merits if merits[name].merit >= 0), key=lambda name: merits[name].merit)
    return _weighed(Choice(best, scores[best], seconds, ranking), merits)


def _weighed(choice: Choice, merits: dict[str, Merit]) -> Weighed:
    found = Weighed(*choice)
    found.merits = merits
    return found


def _rounded(scores: Mapping[str, AnyScore], trial: Trial) -> dict[str, AnyScore]:
    """The reference in 8 bits, if that is new, possible and of use here."""
    reference = next(iter(scores.values()))
    device = trees.leaves(trees.plain(trial.batch))[0].device
    if "int8" in scores or isinstance(reference, Score) or not multiplies(device.type, device.index):
        return {}
    try:
        return {"int8": int8(reference)}
    except SiftError:  # narrow, sharded or by row: it does not apply
        return {}


def _pair(
    scores: Mapping[str, AnyScore], seconds: Mapping[str, float], merits: Mapping[str, Merit]
) -> tuple[str, str] | None:
    """A cheap candidate and one for which it may thin pools: those whose merits multiply to the most."""
    plain = [name for name in scores if not isinstance(scores[name], Cascade) and merits[name].merit >= 0]
    pairs = [(one, two) for one in plain for two in plain if seconds[one] <= _CHEAP * seconds[two]]
    return max(pairs, key=lambda pair: merits[pair[0]].merit * merits[pair[1]].merit, default=None)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, with mid-ranks for ties; 1 for equal tensors, NaN where a number is not finite. Read on the host."""
    if bool((one == other).all()):
        return 1.0
    if not bool(other.isfinite().all()):
        return float("nan")
    middle = [torch.stack(ranks(losses, losses)).sum(0).double() for losses in (one, other)]
    return float(torch.corrcoef(torch.stack(middle))[0, 1].nan_to_num(0.0))
