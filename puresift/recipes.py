"""The recommended settings."""

from __future__ import annotations

import logging
from typing import Any, Literal, NamedTuple, overload

from puresift import draws
from puresift.cascades import cascade
from puresift.errors import SiftError
from puresift.prioritizers import Prioritizer, prioritizer
from puresift.rules.mixing import by_error
from puresift.rules.weighing import importance
from puresift.scores.remembering import recalled
from puresift.settings import Number, fraction
from puresift.sifters import sifter
from puresift.stream.governors import Governor, governor
from puresift.types import Score, ScoreFn, Sifter

_LOG = logging.getLogger("puresift")


class Auto(NamedTuple):
    """What to hand to `ps.sift`."""

    sifter: Sifter
    governor: Governor | None  # None where nothing is to be switched off


@overload
def auto(
    score: ScoreFn | Score, *, batch_size: int, keep: Number | None = None, history: int = 1024, **settings: Any
) -> Auto: ...


@overload
def auto(
    score: ScoreFn | Score, *, batch_size: int, size: int, rare: Literal[True], keep: Number | None = None, **more: Any
) -> Auto: ...


@overload
def auto(score: None = None, *, batch_size: int, size: int, epochs: float, **settings: Any) -> Prioritizer: ...


def auto(
    score: ScoreFn | Score | None = None,
    *,
    batch_size: int,
    keep: Number | None = None,
    history: int = 1024,
    size: int | None = None,
    epochs: float | None = None,
    rare: bool = False,
    **settings: Any,
) -> Auto | Prioritizer:
    """Where to begin: unbiased importance sampling by the probability of being wrong, and only while that pays.

        rule      ps.by_error(ps.importance(keep, floor=0.3, history=1024)), drawn by ps.systematic
        governor  ps.governor(bar="shortened")

    Weights make up for what is not kept, so the gradient is that of all samples, with less noise than as many drawn at
    random. The governor measures what scoring costs here and how much less the noise is, and hands pools through
    untouched where the first is more than the second is worth at equal time. A run then costs what a plain one does,
    but for the governor's looks, which are kept under 2 %. What is kept depends on the clock, then; for runs that have
    to repeat to the bit, leave the governor out.

    Where samples come again, as told by `size` and `epochs` > 1, no score is needed: what comes back is a prioritizer,
    which draws ids from the losses that training has already computed, for `ps.prioritize`.

        rule      ps.by_error(ps.importance(keep=0.05, floor=0.3, bias=0)), over the table, without weights
        budget    size * epochs / batch_size steps, the last 15 % of them on everything alike

    Where a class that matters is rare and samples come again a few times, as told by `rare` and `size`, their last
    losses thin a pool and the score sees the rest; the rule passes over more then, without weights or a governor. It
    won where a tenth of the rows were positive and came twice (bench.quality, recalled-0), and lost where classes were
    even; for many visits, draw ids as above.

        score     ps.cascade(ps.recalled(size), score, keep=0.6, bias=0), told by `stream.observe(losses)`
        rule      ps.by_error(ps.importance(keep=2/3, floor=0.3, history=1024, bias=0)), drawn by ps.systematic

    Which of the three it is, and why, goes to the log "puresift" in one line, at INFO.

    Args:
        score: losses in nats, Float[B], as `ps.batched` gives; cheaper is better, see `ps.autocast` and `ps.compiled`.
        batch_size: rows in a batch that leaves. A kept row does what more than one random row does, so three quarters
            of the plain loop's batch make about as many optimizer steps in the same time; that gained where a class
            was rare, and made little difference elsewhere (bench.quality, auto-small).
        keep: the planned fraction, in (0, 1]; less is kept as losses concentrate. By default .5, with `rare` .4, of
            which the score sees half as much again.
        history: losses that a row is measured against, at least a pool.
        size: samples in the dataset, where ids can name them.
        epochs: the budget in passes over it; 1 or less is a stream.
        rare: whether a class that matters is rare; it needs a score and `size`, and `batch["id"]` in [0, size).
        settings: the other settings of `ps.prioritizer`, or else of `ps.sifter`: draw, columns, pad, length, bucket,
            window, nonfinite.

    Returns:
        With `size` and `epochs` > 1 a `Prioritizer`, for `ps.prioritize(prioritizer, state, data)`. Else
        `Auto(sifter, governor)`, for `ps.sift(sifter, state, params, loader, governor=governor)`; with `rare` the
        governor is None.

    Raises:
        SiftError: a setting is out of range, or a stream has no score, or `rare` no size.

    Example:
        >>> auto(batch_size=2, size=8, epochs=3).plan.steps
        12
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
    if rare:
        return _rare(score, batch_size, 0.4 if keep is None else keep, history, size, settings)
    if size is not None and epochs is not None and epochs > 1:
        steps = max(round(size * epochs / batch_size), 1)
        _LOG.info("ps.auto: a prioritizer, for %g visits to each of %d samples leave losses to draw by", epochs, size)
        rule = by_error(importance(0.05, floor=0.3, bias=0.0))
        return prioritizer(rule, size=size, batch_size=batch_size, steps=steps, **settings)
    if score is None:
        raise SiftError(
            "data that come once have no losses to draw by, so a score is needed: pass ps.batched(model, loss), or "
            "size=len(dataset) and epochs= for data that come again"
        )
    _LOG.info("ps.auto: a governed live score, for samples do not come again")
    rule = by_error(importance(0.5 if keep is None else keep, floor=0.3, history=history))
    composed = sifter(score, rule, batch_size=batch_size, **{"draw": draws.systematic, **settings})
    return Auto(composed, governor(bar="shortened"))


def _rare(
    score: ScoreFn | Score | None,
    batch_size: int,
    keep: Number,
    history: int,
    size: int | None,
    settings: dict[str, Any],
) -> Auto:
    if score is None or size is None:
        raise SiftError(
            "rare=True thins a pool by remembered losses before a score sees it; pass the score, as in "
            "ps.batched(model, loss), and size=len(dataset), with ids in the batches"
        )
    keep = fraction("keep", keep)
    thinned = cascade(recalled(size), score, keep=min(1.5 * keep, 1.0), bias=0.0)
    _LOG.info("ps.auto: a pool thinned by remembered losses, then scored, for a class is rare")
    rule = by_error(importance(keep / thinned.keep, floor=0.3, history=history, bias=0.0))
    return Auto(sifter(thinned, rule, batch_size=batch_size, **{"draw": draws.systematic, **settings}), None)
