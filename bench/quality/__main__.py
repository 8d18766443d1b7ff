"""The command line of the quality bench; see the package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # here and in the workers: a run has one core

import torch

import bench.quality
from bench import measure
from bench.quality import costs, report, work
from bench.quality.arms import ARMS, SHORTER
from bench.quality.task import Missing
from bench.quality.tasks import TASKS, loaded
from bench.quality.training import Run, run
from bench.quality.tuning import tuned

TIMED = ("shortened", "auto", "auto-small", "infobatch", "prioritized-0")
TUNED = [100, 101, 102]  # seeds of the tuning, which no run has


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench.quality", description=bench.quality.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", type=_names(TASKS, "task"), default=list(TASKS), metavar="NAMES", help=", ".join(TASKS))
    add("--arms", type=_names(ARMS, "arm"), default=None, metavar="NAMES", help=", ".join(ARMS))
    add("--seeds", type=_seeds, default=None, metavar="0-4", help="such as 0-4 or 0,7; 0-4, for --tune 100-102")
    add("--budgets", type=_budgets, default=None, metavar="60,40,25", help="percent of the full run")
    add("--data", type=Path, default=Path("../shared/data"), help="folder of sst2/ and glue-sst2/")
    add("--results", type=Path, default=work.HOME, metavar="FOLDER", help="where the runs' files are")
    add("--workers", type=int, default=1, help="processes, a core each")
    add("--minutes", type=float, default=None, help="stop after so many")
    add("--again", action="store_true", help="measure or tune again, though runs would be stale then")
    what = parser.add_mutually_exclusive_group()
    for name in ("measure", "tune", "real-time", "report"):
        what.add_argument(f"--{name}", action="store_true")
    o = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder, o.seeds = o.data.resolve(), o.seeds or (TUNED if o.tune else list(range(5)))
    if o.measure:
        return _each(o, folder, "phi.json", _measured)
    if o.tune:
        return _each(o, folder, "tuning.json", _tuned)
    if o.real_time:
        return _each(o, folder, "realtime.json", _timed)
    if o.report:
        print(report.report(o.results, o.task, o.seeds))
        return 0
    todo = work.jobs(o.task, o.arms or list(ARMS), o.budgets, o.seeds)
    failed = work.work(todo, folder, o.results, workers=o.workers, minutes=o.minutes)
    return min(failed, 1)


def _each(o: argparse.Namespace, folder: Path, file: str, make: Any) -> int:
    """One entry a task in a file, unless it is there already; tasks that cannot be made are named."""
    failed = 0
    for name in o.task:
        if o.tune and TASKS[name].tuned:
            print(f"{name}: has the learning rates of {TASKS[name].tuned}")
            continue
        content = work.read(o.results / file) or {}
        others = set(o.arms or ()) - {"full"} if o.tune else set()  # arms with rates of their own
        there = name in content and others <= set(content[name].get("arms", {}))
        if o.measure and o.arms and name in content:
            there = all((ARMS[arm].priced or arm) in content[name]["pool"] for arm in o.arms if ARMS[arm].picks)
        if there and not o.again and file != "realtime.json":
            print(f"{name}: is in {file} already; --again makes it anew, and runs made before stale")
            continue
        try:
            made = make(o, name, folder)
        except Missing as missing:
            print(f"missing: {name}: {missing}", file=sys.stderr)
            failed = 1
            continue
        work.write(o.results / file, (work.read(o.results / file) or {}) | {name: made})  # another may have written
    return failed


def _measured(o: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """What the task charges."""
    task, data = TASKS[name], loaded(name, folder)
    before = (work.read(o.results / "phi.json") or {}).get(name)
    if before and o.arms:
        missing = [arm for arm in o.arms if o.again or (ARMS[arm].priced or arm) not in before["pool"]]
        more = costs.added(task, data, missing)
        print(f"{name:8} a pool, in steps: " + ", ".join(f"{arm} {own:.3f}" for arm, own in more["pool"].items()))
        return {**before, "pool": before["pool"] | more["pool"], "added": [*before.get("added", []), more]}
    record = costs.charged(task, data)
    units = work.full_units(task, data)
    phi = ", ".join(f"{kind} {value:.3f}" for kind, value in record["score"].items())
    print(
        f"{name:8} a step {1e3 * record['step']:.1f} ms, a full run {units * record['step']:.0f} s; phi {phi}",
        flush=True,
    )
    return {**record, "units": units}


def _tuned(o: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """The learning rates of the task."""
    return tuned(name, o.arms, o.seeds, folder=folder, home=o.results, workers=o.workers, again=o.again)


def _timed(o: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """A few arms by the clock, in turns: what they would have been charged when their time was up, over their budget.

    Dividing by the same of `shortened` takes out how fast the machine is today.
    """
    task, data = TASKS[name], loaded(name, folder)
    share, prices = (o.budgets or SHORTER)[0], costs.read(work.measured(o.results, name))
    units, lr = share * work.full_units(task, data), work.terms(o.results, work.Job(name, "full", 1.0, 0))["lr"]
    chosen = o.arms or [arm for arm in TIMED if task.arms is None or arm in task.arms]
    names = ["shortened", *(arm for arm in chosen if arm != "shortened")]
    rows: dict[str, dict[str, list[float]]] = {arm: {"charged": [], "accuracy": []} for arm in names}

    def timed(arm: str, seed: int) -> Callable[[measure.Turn], Run]:
        def job(turn: measure.Turn) -> Run:
            def go_on() -> bool:
                turn.offer()
                return False

            clock = lambda: turn() / prices.step  # noqa: E731
            return run(ARMS[arm], task, data, units, seed=seed, costs=prices, lr=lr, clock=clock, stop=go_on)

        return job

    run(ARMS[names[-1]], task, data, 16, seed=0, costs=prices, lr=lr)  # first calls are slow
    for seed in o.seeds:
        for arm, made in measure.turns({arm: timed(arm, seed) for arm in names}, timer=costs.clock).items():
            rows[arm]["charged"].append(made.ledger.charged / units)
            judged = work.accuracy(task, data, made.right) if made.judged is None else made.judged / 100
            rows[arm]["accuracy"].append(judged)
    found: dict[str, Any] = {}
    for arm, row in rows.items():
        off = measure.ratio(row["charged"], rows["shortened"]["charged"])
        found[arm] = {**row, "over shortened": off}
        middle, low, high = (off[part] - 1 for part in ("median", "low", "high"))
        said = f"{name:8} {arm:14} {100 * mean(row['accuracy']):6.2f} %  charged {mean(row['charged']):.3f}"
        verdict = "agrees" if abs(middle) <= 0.05 else "DIFFERS"
        print(f"{said} of its budget, {middle:+.1%} [{low:+.1%}, {high:+.1%}]: {verdict}", flush=True)
    return {"budget": share, "seeds": o.seeds, "arms": found, "where": costs.where()}


def _names(table: Any, word: str) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(table)):
            raise argparse.ArgumentTypeError(f"no {word} {', '.join(unknown)}; there are {', '.join(table)}")
        return names

    return parse


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if last else [int(seed) for seed in text.split(",")]


def _budgets(text: str) -> list[float]:
    return [float(part) / 100 for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
