"""The pilot job in one minute: does it pay to sift this job, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from puresift import settings, trees
from puresift.data.pools import peek
from puresift.scores.losses import Loss, batched
from puresift.scores.model import live
from puresift.trials import jobs, measured, verdicts
from puresift.trials.advice import Advice
from puresift.trials.contracts import check
from puresift.trials.facts import Facts
from puresift.trials.jobs import Job, Ragged
from puresift.trials.pilots import Throwaway, Watch, pilot
from puresift.types import Batch, Pad

_ROWS = 1024  # whose gradients are measured
_ENDS = {True: (0.4, 0.5, 0.6), False: (0.6, 0.7, 0.95)}  # of the time: pilot, gradients, costs; then a run cut


def advise(
    model: nn.Module,
    loss: Loss,
    loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer | None = None,
    *,
    passes: float | None = None,
    steps: int | None = None,
    seconds: float = 60.0,
    held_out: bool = True,
    pad: Mapping[str, Pad] | None = None,
    length: Callable[[Batch], Tensor] | None = None,
) -> Advice:
    """Whether it pays to sift this job, and how: a pilot of a minute, on a copy that is thrown away.

    It checks the score's contract; trains a copy for up to 400 steps and at most one pass, because whatever is learnt
    by heart has concentrated gradients; measures B / ESS of per-row gradient norms in the middle and at the end, the
    lower of which counts, for what is rare is so from early on; phi by way of scoring, padding, memory on a GPU and,
    where samples come many times, what a run cut to 60 % costs. Then one rule:

        steps < 300                                             shorten
        visits >= 10, B / ESS >= 3                              prioritize: draw by the losses of training
        visits >= 10, not held_out, cutting costs > 5 %         prioritize
        visits >= 10 otherwise                                  shorten; not certain, if the interval has 3 inside
        fewer visits, a second is worth >= 1.25 plain ones      auto: a governed live score (1.5 below two visits)
        otherwise                                               shorten: the plain run, its schedule cut

    where the lower ends of 95 % intervals count, and with k the share that `ps.auto` keeps, l the wait for a row,

        worth of a second = (1 + l) k w / (l + phi + k),    w = mean(n^2) / (mean(p) mean(n^2 / p))

    w is how many plain rows have as little noise as one drawn with probabilities p, for gradient norms n; it is what
    sifting gains at the most, were noise all that counts. In the measured table (bench/README.md) many visits paid with
    a rare class and on some pictures and not on even classes; fewer visits paid little, and only where scores were
    cheap; fine-tuning in a few hundred steps gained nothing certain. `python -m bench advise` holds the rule to it.

    Args:
        model: in train mode, as training begins; it is copied, and left as it is, to the bit.
        loss: `loss(model, batch)`, Float[B], as `ps.batched` takes it.
        loader: what the plain run trains on; it must start anew each time it is asked.
        optimizer: that of the run; its copy trains the copy, at its peak rates. By default AdamW at .001.
        passes: over the loader, in the full run; by default one, and the page says so. How often samples come again
            decides more than all the rest.
        steps: of the full run; by default passes times the loader's length.
        held_out: False where the run is judged by what it learns, as a picture or an equation that a network fits.
        seconds: what the pilot may take, plus at most a step of each kind; compiling is not tried.
        pad: ragged leaves, as in `ps.sifter`. By default, where a batch has an "attention_mask", all leaves of its
            shape, padded with 0.
        length: `length(batch)`, Int[B]; by default the sum of the "attention_mask".

    Returns:
        An `Advice(verdict, reason, code, gain, facts, seconds)`; print it.

    Raises:
        SiftError: the contract is broken, the model is in eval mode or spread over ranks, the loader is empty, a
            one-shot iterator or has no length, or the loss becomes NaN in the pilot.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> loss = lambda model, x: (model(x)[:, 0] - x.sum(1)).square()
        >>> advise(model, loss, DataLoader(torch.rand(64, 4), 8), passes=3, seconds=1).verdict
        'shorten'

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """
    seconds = settings.positive("seconds", seconds)
    passes = settings.positive("passes", passes) if passes is not None else None
    jobs.sane(model, loss)
    with jobs.as_it_was(loader), torch.enable_grad():
        first = trees.plain(peek(loader))
        device = next(leaf.device for leaf in trees.leaves(first) if isinstance(leaf, Tensor))
        device = next((p.device for p in model.parameters()), device)
        watch = Watch(seconds, device)
        job = jobs.job(loader, passes, steps, trees.batch_size(first))
        ragged = jobs.ragged(first, pad, length)
        moved = max(check(batched(model, loss), live(model), first)[1:])
        facts = _measure(lambda: Throwaway(model, optimizer, loss), loader, job, ragged, held_out, watch, device)
        rate = "the optimizer's rate" if optimizer is not None else "AdamW's .001, for want of optimizer="
        facts = facts._replace(moved=moved, rate=rate, assumed=job.assumed, optimizer=optimizer is not None)
        verdict, reason = verdicts.decide(facts)
        return Advice(verdict, reason, verdicts.code(verdict, facts), verdicts.gain(verdict, facts), facts, watch())


def _measure(
    fresh: Callable[[], Throwaway],
    loader: Any,
    job: Job,
    ragged: Ragged,
    held_out: bool,
    watch: Watch,
    device: torch.device,
) -> Facts:
    throwaway, often = fresh(), job.visits >= verdicts.MANY
    trained, told, costs = _ENDS[often]
    train, held, steps, wait, middle = pilot(throwaway, loader, job.batches, often, watch, trained)
    seen, losses, sizes, exact = measured.gradients(throwaway, _some(held + train), watch, told)
    concentration = min(measured.bootstrap(measured.concentration, part) for part in (middle, sizes))
    rare = concentration.low >= verdicts.RARE
    rule, drawn = measured.table_odds(losses, sizes, 0.1 if rare else 0.3)
    rows = ragged.pad, ragged.length
    modes, step = measured.modes(throwaway, train, seen, sizes, lambda step: wait / step, watch, costs, *rows)
    mode = max(modes, key=lambda mode: mode.worth.mean)
    cut, whole = None, 0.0
    if often and not rare and len(train + held) >= job.batches:
        cut, whole = measured.shortening(fresh, train, held if held_out else _some(train), job.steps, step, watch)
    return Facts(
        rows=job.rows,
        batch_size=job.batch_size,
        steps=job.steps,
        passes=job.passes,
        visits=job.visits,
        step=step,
        loading=wait / step,
        held_out=held_out,
        moved=0.0,
        modes=modes,
        mode=mode,
        rule=rule,
        pilot=steps,
        exact=exact,
        concentration=concentration,
        drawn=measured.bootstrap(measured.worth, sizes, drawn),
        shortening=cut,
        whole=whole,
        padding=measured.padding(train + held, *rows),
        memory=measured.memory(throwaway, batched(throwaway.model, throwaway.loss), train[0], device),
        rate="",
        ragged=ragged.code,
    )


def _some(batches: list[Batch]) -> list[Batch]:
    """As many as have the rows that are measured."""
    per = max(trees.batch_size(batches[0]), 1)
    return batches[: max(math.ceil(_ROWS / per), 1)]
