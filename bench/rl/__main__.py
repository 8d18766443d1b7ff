"""The command line of the bench of reinforcement learning; see the package."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # here and in the workers: a run has one core

import torch

import bench.rl
from bench.measure import RESULTS
from bench.quality.costs import where
from bench.quality.work import read, write
from bench.rl import charges, work
from bench.rl.arms import ARMS
from bench.rl.checks import UPDATES, checked
from bench.rl.report import report
from bench.rl.start import TOLD

STEPS = 120  # updates of the plain run
SEEDS = tuple(range(5))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench.rl", description=bench.rl.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--arms", type=_names, default=list(ARMS), metavar="NAMES", help=", ".join(ARMS))
    add("--seeds", type=_seeds, default=list(SEEDS), metavar="0-4", help="such as 0-4 or 0,7")
    add("--steps", type=_count, default=STEPS, help="updates of the plain run")
    add("--told", type=_count, default=TOLD, help="batches that the models are told before")
    add("--workers", type=_count, default=1, help="processes, a core each")
    add("--results", type=Path, default=RESULTS / "rl", metavar="FOLDER", help="where the runs' files are")
    add("--starts", type=Path, default=Path("runs/rl"), metavar="FOLDER", help="where the models at the start are")
    add("--lr", type=float, default=None, help="for all arms, in place of tuning")
    add("--again", action="store_true", help="measure and tune again: runs made before are made anew")
    add("--report", action="store_true", help="only print the tables of what is there")
    o = parser.parse_args(argv)
    torch.set_num_threads(1)
    plan = work.Plan(o.results, o.starts, o.steps, o.told)
    if not o.report:
        _made(o, plan)
    text = _told(o, plan)
    print(text)
    return 0


def _made(o: argparse.Namespace, plan: work.Plan) -> None:
    """Costs, starts, learning rates, runs and checks, each unless it is there."""
    if o.again or read(plan.home / "costs.json") is None:
        write(plan.home / "costs.json", charges.measured() | {"where": where()})
    seconds = read(plan.home / "costs.json")["seconds"]
    print("ms: " + ", ".join(f"{name} {1e3 * taken:.1f}" for name, taken in seconds.items()), flush=True)
    with ProcessPoolExecutor(o.workers, get_context("spawn")) as hands:
        seeds = [*([] if o.lr else work.TUNED), *o.seeds]
        for _ in work.each(hands, work.started, [(plan, seed) for seed in seeds]):
            pass
        print(f"{len(seeds)} starts are there", flush=True)
        rates = dict.fromkeys(ARMS, o.lr) if o.lr else work.tuned(plan, hands, o.arms, again=o.again)
        checks = _checks(plan, o.seeds, rates["plain"]) if "plain" in rates else []
        beside = [hands.submit(checked, *call) for call in checks]  # no worker is idle then
        work.runs(plan, hands, o.arms, o.seeds, rates)
        for call, found in zip(checks, beside, strict=True):
            known = read(plan.home / "checks.json") or {}
            known[str(call[1])] = found.result() | {"terms": plan.terms(rates["plain"], 0.0)}
            write(plan.home / "checks.json", known)


def _checks(plan: work.Plan, seeds: list[int], lr: float) -> list[tuple[work.Plan, int, float, int]]:
    """Those that are left to make."""
    known, terms = read(plan.home / "checks.json") or {}, plan.terms(lr, 0.0)
    left = [seed for seed in seeds if known.get(str(seed), {}).get("terms") != terms]
    return [(plan, seed, lr, min(UPDATES, plan.steps)) for seed in left]


def _told(o: argparse.Namespace, plan: work.Plan) -> str:
    """The report, printed and kept."""
    runs = {
        arm: {seed: record for seed in o.seeds if (record := read(work.file(plan, arm, seed))) is not None}
        for arm in o.arms
    }
    runs = {arm: {seed: one for seed, one in some.items() if plan.made(one)} for arm, some in runs.items()}
    if not runs.get("plain"):
        return f"no plain run of {o.steps} steps, told {o.told}, is there to report: run without --report first\n"
    tried = (read(plan.home / "tuning.json") or {}).get("tried", {})
    text = report(runs, read(plan.home / "checks.json") or {}, tried)
    (plan.home / "report.md").write_text(text, encoding="utf-8")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(ARMS)):
        raise argparse.ArgumentTypeError(f"no arm {', '.join(unknown)}; there are {', '.join(ARMS)}")
    return names


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if last else [int(seed) for seed in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
