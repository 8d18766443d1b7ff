"""One recommended setting."""

from __future__ import annotations

from typing import Any, NamedTuple

from puresift import draws
from puresift.rules.mixing import by_error
from puresift.rules.weighing import importance
from puresift.settings import Number
from puresift.sifters import sifter
from puresift.stream.governors import Governor, governor
from puresift.types import Score, ScoreFn, Sifter


class Auto(NamedTuple):
    """What to hand to `ps.sift`."""

    sifter: Sifter
    governor: Governor


def auto(score: ScoreFn | Score, *, batch_size: int, keep: Number = 0.5, history: int = 1024, **settings: Any) -> Auto:
    """Where to begin: unbiased importance sampling by the chance of being wrong, and only while that pays.

        rule      ps.by_error(ps.importance(keep, floor=0.3, history=1024)), drawn by ps.systematic
        governor  ps.governor(bar="shortened")

    Weights make up for what is not kept, so the gradient is that of all samples, with less noise than as many drawn at
    random. The governor measures what scoring costs here and how much less the noise is, and hands pools through
    untouched where the first is more than the second is worth at equal time. A run then costs what a plain one does,
    but for the governor's looks, which are kept under 2 %. What is kept depends on the clock, then; for runs that have
    to repeat to the bit, leave the governor out.

    Args:
        score: losses in nats, Float[B], as `ps.batched` gives; cheaper is better, see `ps.autocast` and `ps.compiled`.
        batch_size: rows in a batch that leaves. A kept row does what more than one random row does, so three quarters
            of the plain loop's batch make about as many optimizer steps in the same time; that gained where a class
            was rare, and made little difference elsewhere (bench.quality, auto-small).
        keep: the planned fraction, in (0, 1]; less is kept as losses concentrate.
        history: losses that a row is measured against, at least a pool.
        settings: the other settings of `ps.sifter`: draw, columns, pad, length, bucket, window, nonfinite.

    Returns:
        `Auto(sifter, governor)`, for `ps.sift(sifter, state, params, loader, governor=governor)`.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> import torch
        >>> import puresift as ps
        >>> sifter, judge = ps.auto(lambda params, batch: batch, batch_size=2)
        >>> pools = torch.arange(16.0).split(4)
        >>> stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools, governor=judge)
        >>> next(stream).batch.shape
        torch.Size([2])

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """
    rule = by_error(importance(keep, floor=0.3, history=history))
    composed = sifter(score, rule, batch_size=batch_size, **{"draw": draws.systematic, **settings})
    return Auto(composed, governor(bar="shortened"))
