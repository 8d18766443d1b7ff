"""The learning rate of an arm: the best of a grid, on seeds that no run has and rows that are kept for that.

A module of its own, for the processes of `--workers` look up what they are to do by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bench.quality import costs, work
from bench.quality.arms import ARMS
from bench.quality.budget import Costs
from bench.quality.halves import halves
from bench.quality.task import Task
from bench.quality.tasks import TASKS, loaded
from bench.quality.training import run


def tuned(
    name: str, arms: Iterable[str] | None, seeds: list[int], *, folder: Path, home: Path, workers: int, again: bool
) -> dict[str, Any]:
    """The plain arm's learning rate on the full budget, by how it is judged on rows kept for that.

    Where the best is the least or the largest of those tried, the half or the double of it is tried too. Other arms
    that are named have theirs beside it, found in the same way.
    """
    task = TASKS[name]
    loaded(name, folder)  # what is missing is told here
    made = (work.read(home / "tuning.json") or {}).get(name, {})
    for arm in dict.fromkeys(["full", *(arms or ())]):
        there = "lr" in made if arm == "full" else arm in made.get("arms", {})
        if there and not (again and arm in (arms or ["full"])):
            continue
        prices = costs.read({"step": 1.0, "score": {}, "pool": {}} if arm == "full" else work.measured(home, name))
        trial = partial(_trial, arm, name, folder, prices)
        trials = partial(_trials, trial, task, arm, seeds, workers)
        found = _best(trials, task.grid) | {"where": costs.where()}
        made |= found if arm == "full" else {"arms": made.get("arms", {}) | {arm: found}}
    return made


def _best(trials: Callable[[list[float]], dict[float, dict[str, Any]]], grid: Iterable[float]) -> dict[str, Any]:
    """The best of the rates, and what became of each."""
    tried: dict[float, dict[str, Any]] = {}
    rates = list(grid)
    while rates:
        tried |= trials(rates)
        best = max(tried, key=lambda lr: tried[lr]["accuracy"])
        beyond = {min(tried): best / 2, max(tried): best * 2}
        rates = [beyond[best]] if best in beyond else []
    return {"lr": best, "tried": {f"{lr:g}": tried[lr] for lr in sorted(tried)}}


def _trials(
    trial: Callable[[float, int], tuple[float, float]],
    task: Task,
    arm: str,
    seeds: list[int],
    workers: int,
    rates: list[float],
) -> dict[float, dict[str, Any]]:
    """Each rate's means over the seeds of the tuning, and what each seed came to."""
    pairs = [(lr, seed) for lr in rates for seed in seeds]
    if workers == 1:
        made = [trial(*pair) for pair in pairs]
    else:
        with ProcessPoolExecutor(min(workers, len(pairs)), get_context("spawn")) as hands:
            made = list(hands.map(trial, *zip(*pairs, strict=True)))
    found = {}
    for place, lr in enumerate(rates):
        each, nats = zip(*made[place * len(seeds) :][: len(seeds)], strict=True)
        found[lr] = {
            "accuracy": mean(each),  # or by what else the task is judged
            "nats": mean(nats),
            "seeds": dict(zip(seeds, each, strict=True)),
        }
        said = f"{mean(each):.2f}" if task.judge else f"{100 * mean(each):.2f}"
        print(f"{task.name:8} {arm} lr {lr:g}: {task.metric} {said}, {mean(nats):.4f} nats", flush=True)
    return found


def _trial(arm: str, name: str, folder: Path, prices: Costs, lr: float, seed: int) -> tuple[float, float]:
    """How one run of an arm at one learning rate is judged, and its loss."""
    torch.set_num_threads(1)
    task, data = TASKS[name], loaded(name, folder)
    units = work.full_units(task, data)
    with halves(task):
        made = run(ARMS[arm], task, data, units, seed=seed, costs=prices, lr=lr, held_out="valid")
    labels = data.valid["labels"][0].numel()
    return float(made.right.double().mean()) / labels if made.judged is None else made.judged, made.nats
