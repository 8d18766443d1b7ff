"""Which of several scores is the fastest on this machine, among those that rank alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from puresift.errors import SiftError
from puresift.order import rank_bounds
from puresift.types import Batch, Params, ScoreFn


class Choice(NamedTuple):
    """What `fastest` found."""

    name: str
    score: ScoreFn
    seconds: dict[str, float]  # median time of one call
    agreement: dict[str, float]  # rank correlation with the first candidate; NaN where a loss is not finite


def fastest(scores: Mapping[str, ScoreFn], params: Params, batch: Batch, *, agreement: float = 0.99) -> Choice:
    """The cheapest of several scores among those that rank a batch as the first one does.

    Not every machine is faster in lower precision, so it is measured: a warm-up, then the median of three calls each.

    Args:
        scores: candidates by name; the first is the reference and always admitted.
        params: as the scores take them.
        batch: a typical pool.
        agreement: the least Spearman rank correlation with the reference.

    Returns:
        A `Choice`; save its name with the checkpoint, because a resumed run must score as the first one did.

    Raises:
        SiftError: there is no candidate, or the reference gives losses that are not finite.

    Example:
        >>> fastest({"plain": lambda params, batch: batch}, {}, torch.arange(3.0)).name
        'plain'
    """
    if not scores:
        raise SiftError("fastest needs at least one score, such as {'float32': score}")
    seconds, ranking, losses = {}, {}, {}
    for name, score in scores.items():
        losses[name] = score(params, batch).float()
        seconds[name] = median(_seconds(score, params, batch) for _ in range(3))
    reference = losses[next(iter(scores))]
    if not bool(reference.isfinite().all()):
        raise SiftError("the first score, which the others are compared with, gives losses that are not finite")
    for name, values in losses.items():
        ranking[name] = rank_correlation(reference, values)
    admitted = [name for name in scores if ranking[name] >= agreement]
    best = min(admitted, key=seconds.__getitem__)
    return Choice(best, scores[best], seconds, ranking)


def _seconds(score: ScoreFn, params: Params, batch: Batch) -> float:
    start = time.perf_counter()
    score(params, batch).sum().item()  # reading a number waits for the device
    return time.perf_counter() - start


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, with mid-ranks for ties; 1 for equal tensors, NaN where a number is not finite. Read on the host."""
    if bool((one == other).all()):
        return 1.0
    if not bool(other.isfinite().all()):
        return float("nan")
    middle = [torch.stack(rank_bounds(losses.sort().values, losses)).sum(0).double() for losses in (one, other)]
    return float(torch.corrcoef(torch.stack(middle))[0, 1].nan_to_num(0.0))
