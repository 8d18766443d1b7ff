"""Runs as files, made by as many processes as are given, and the learning rate of each arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, as_completed
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

from bench.quality.work import read, write
from bench.rl import charges
from bench.rl.report import at, smooth
from bench.rl.start import TOLD, begun
from bench.rl.task import data
from bench.rl.training import run

GRID = (2.5e-4, 5e-4, 1e-3, 2e-3)  # learning rates, and beyond them while the best is at an edge
TUNED = (100, 101)  # seeds of the tuning, which no run has
MARGIN = 1.2  # how much longer than the plain run is charged the others go on


class Plan(NamedTuple):
    """What all runs share."""

    home: Path  # of the results
    starts: Path  # of the models that runs begin with
    steps: int  # updates of the plain run
    told: int = TOLD  # batches that those models were told

    def terms(self, lr: float, margin: float) -> dict[str, Any]:
        """What a run hangs on besides its arm and seed."""
        seconds = (read(self.home / "costs.json") or {}).get("seconds")
        return {"lr": lr, "steps": self.steps, "told": self.told, "margin": margin, "seconds": seconds}

    def made(self, record: dict[str, Any]) -> bool:
        """Whether a run was made on today's terms, at whatever learning rate."""
        return record["terms"] == self.terms(record["terms"]["lr"], record["terms"]["margin"])


def made(plan: Plan, arm: str, seed: int, lr: float, margin: float) -> dict[str, Any]:
    """One run and its terms; in a process of a pool or here."""
    torch.set_num_threads(1)
    terms = plan.terms(lr, margin)
    units = charges.prices(terms)
    record = run(
        arm,
        begun(seed, plan.starts, plan.told),
        *data(),
        seed=seed,
        lr=lr,
        enough=charges.enough(plan.steps, units, margin),
        most=charges.most(plan.steps, units, margin),
    )
    return {**record, "terms": terms}


def started(plan: Plan, seed: int) -> int:
    """The start of a seed is in its file."""
    torch.set_num_threads(1)
    begun(seed, plan.starts, plan.told)
    return seed


def each(hands: Executor, job: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, Any]]:
    """(call, result) of each as they end; the first that fails ends all."""
    waiting = {hands.submit(job, *call): call for call in calls}
    try:
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        for one in waiting:
            one.cancel()


def runs(plan: Plan, hands: Executor, arms: Iterable[str], seeds: Iterable[int], rates: dict[str, float]) -> None:
    """Make and write the runs that are not there on these terms, every arm of one seed before the next seed."""
    left = []
    for seed in seeds:
        for arm in arms:
            margin = 1.0 if arm == "plain" else MARGIN
            record = read(file(plan, arm, seed))
            if record is None or record["terms"] != plan.terms(rates[arm], margin):
                left.append((arm, seed, rates[arm], margin))
    print(f"{len(left)} runs to make", flush=True)
    for (arm, seed, _, _), record in each(hands, partial(made, plan), left):
        write(file(plan, arm, seed), record)
        last = record["curve"][-1]
        print(f"{arm:12} seed {seed}  {last['success']:6.2f} %  {record['seconds']:6.1f} s", flush=True)


def file(plan: Plan, arm: str, seed: int) -> Path:
    return plan.home / f"{arm}-{seed}.json"


def tuned(plan: Plan, hands: Executor, arms: Iterable[str], *, again: bool = False) -> dict[str, float]:
    """The learning rate of each arm, by its success at the plain run's charge, a mean over the ratios.

    The exact arm has the plain one's: it makes the same steps.
    """
    path = plan.home / "tuning.json"
    known = read(path) or {}
    of_terms = plan.terms(0.0, 1.0)
    if again or known.get("terms") != of_terms:
        known = {"terms": of_terms, "tried": {}}
    tried: dict[str, dict[str, list[float]]] = known["tried"]
    wanted = list(dict.fromkeys("plain" if arm == "exact" else arm for arm in arms))
    while calls := [call for arm in wanted for call in _missing(arm, tried.setdefault(arm, {}))]:
        for (arm, _, lr, _), record in each(hands, partial(made, plan), calls):
            tried[arm].setdefault(f"{lr:g}", []).append(_judged(plan, record))
            write(path, known)
        for arm in dict.fromkeys(call[0] for call in calls):
            print(f"{arm:12} {_said(tried[arm])}", flush=True)
    rates = {arm: _best(tried[arm]) for arm in wanted}
    return {**rates, "exact": rates["plain"]} if "plain" in rates else rates


def _missing(arm: str, tried: dict[str, list[float]]) -> list[tuple[str, int, float, float]]:
    """Trials that are to be made: the grid's, and one beyond the edge at which the best is."""
    rates = list(GRID)
    if tried and all(len(tried.get(f"{lr:g}", ())) == len(TUNED) for lr in GRID):
        best, all_of_them = _best(tried), sorted(map(float, tried))
        rates = {all_of_them[0]: [best / 2], all_of_them[-1]: [best * 2]}.get(best, [])
    # A trial that was cut off is made again with its sibling, for the file does not say which seed it was.
    left = [lr for lr in rates if len(tried.get(f"{lr:g}", ())) < len(TUNED)]
    for lr in left:
        tried.pop(f"{lr:g}", None)
    return [(arm, seed, lr, 1.0) for lr in left for seed in TUNED]


def _best(tried: dict[str, list[float]]) -> float:
    return float(max(tried, key=lambda lr: mean(tried[lr])))


def _said(tried: dict[str, list[float]]) -> str:
    return ", ".join(f"{lr}: {mean(tried[lr]):.2f}" for lr in sorted(tried, key=float))


def _judged(plan: Plan, record: dict[str, Any]) -> float:
    units = charges.prices(record["terms"])
    return mean(
        at(smooth(record), charges.charged(record, units[ratio]), charges.budget(plan.steps, units[ratio]))
        for ratio in charges.RATIOS
    )
