"""Runs as files: what is to be done, what is done already, and workers that do the rest until they are told to stop."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from bench.measure import RESULTS
from bench.quality import costs as prices
from bench.quality.arms import ARMS
from bench.quality.feeds import source
from bench.quality.halves import halves
from bench.quality.task import Data, Missing, Task
from bench.quality.tasks import TASKS, loaded
from bench.quality.training import Run, Stopped, run

HOME = RESULTS / "quality"


class Job(NamedTuple):
    """One run."""

    task: str
    arm: str
    budget: float  # share of the full run's
    seed: int

    def file(self, home: Path) -> Path:
        return home / self.task / f"{self.arm}-{round(100 * self.budget)}-{self.seed}.json"


def jobs(tasks: Iterable[str], arms: Iterable[str], budgets: Iterable[float] | None, seeds: Iterable[int]) -> list[Job]:
    """All runs, in an order in which what is done is useful already: every arm of one seed before the next seed."""
    chosen = list(budgets) if budgets is not None else None
    names = list(arms)
    return [
        Job(task, arm, budget, seed)
        for seed in seeds
        for task in tasks
        for arm, budget in cells(TASKS[task])
        if arm in names and (chosen is None or budget in chosen)
    ]


def cells(task: Task) -> list[tuple[str, float]]:
    """The arms of a task, each with its budgets."""
    arms = [arm for arm in ARMS.values() if task.suits(arm)]
    budgets = {arm.name: arm.budgets if 1.0 in arm.budgets else task.budgets or arm.budgets for arm in arms}
    return [(arm, budget) for arm, shares in budgets.items() for budget in shares]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(path: Path, content: Any) -> None:
    """Under this name there is always a whole file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def measured(home: Path, task: str) -> dict[str, Any]:
    """The costs of a task.

    Raises:
        Missing: they were not measured.
    """
    costs: dict[str, Any] | None = (read(home / "phi.json") or {}).get(task)
    if costs is None:
        raise Missing(f"its costs were not measured: python -m bench.quality --measure --task {task}")
    return costs


def terms(home: Path, job: Job) -> dict[str, Any]:
    """What a run hangs on besides its name: what it is charged, and the learning rate with how many were tried.

    Raises:
        Missing: the task's costs were not measured.
    """
    task, costs = TASKS[job.task], measured(home, job.task)
    tuned = (read(home / "tuning.json") or {}).get(task.tuned or job.task, {"lr": task.lr, "tried": {}})
    own = tuned.get("arms", {}).get(job.arm)
    arm, price = ARMS[job.arm], prices.read(costs)
    charges = {
        "phi": costs["score"][source(arm)] if arm.score else 0.0,
        "own": costs["pool"].get(arm.priced or arm.name, 0.0),  # of a pool
        "small": price.small if arm.small else None,  # of a small step
        "token": [price.token, price.length] if arm.picks else None,  # by the length of what was picked
        "checksum": costs["checksum"],
    }
    if own or arm.kind == "plain":
        tuned = own or tuned
        return {**charges, "lr": tuned["lr"], "trials": max(len(tuned["tried"]), 1)}
    return {**charges, "lr": tuned["lr"], "trials": arm.trials}


def stale(record: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a run was made on other terms than a new one would be."""
    return any(record.get(name) != now[name] for name in ("phi", "own", "small", "token", "checksum", "lr"))


def done(home: Path, job: Job) -> bool:
    record = read(job.file(home))
    return record is not None and not stale(record, terms(home, job))


def full_units(task: Task, data: Data) -> float:
    """Steps of the full run."""
    return task.epochs * len(data.train["labels"]) / task.batch_size


def packed(values: torch.Tensor, most: int) -> str:
    """Whole numbers from 0 to `most` (255 at most) as text; those up to 1 as bits."""
    array = values.numpy().astype(numpy.uint8)
    return base64.b64encode(zlib.compress((numpy.packbits(array) if most == 1 else array).tobytes(), 9)).decode()


def unpacked(text: str, size: int, most: int) -> Any:
    """What was packed, an array of `size` numbers."""
    array = numpy.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=numpy.uint8)
    return numpy.unpackbits(array, count=size) if most == 1 else array


def accuracy(task: Task, data: Data, right: torch.Tensor) -> float:
    """The share of the test's labels that are right; where the task is balanced, its mean over the classes."""
    share, groups = right.double() / data.test["labels"][0].numel(), classes(task, data)
    means = [float(share[groups == group].mean()) for group in groups.unique()]
    return sum(means) / len(means)


def classes(task: Task, data: Data) -> torch.Tensor:
    """Int[test rows]: the class of each where the task is balanced, else 0."""
    labels = data.test["labels"]
    return labels.unique(return_inverse=True)[1] if task.balanced else torch.zeros(len(labels), dtype=torch.int64)


def record(job: Job, task: Task, data: Data, budget: float, terms: dict[str, Any], result: Run) -> dict[str, Any]:
    """One row, with all that statistics need."""
    right, per = result.right, data.test["labels"][0].numel()  # labels a row
    rows = {"rows": len(right), "labels": per, "right": packed(right, per)} if task.judge is None else None
    fitted, ledger, seen = result.fitted, result.ledger, result.counts
    return {
        "task": job.task,
        "arm": job.arm,
        "seed": job.seed,
        **({"accuracy": accuracy(task, data, right)} if task.judge is None else {"judged": result.judged}),
        "nats": result.nats,
        "seconds": result.seconds,
        "budget": job.budget,
        "units": {"budget": budget, "spent": ledger.spent, **ledger.parts},
        "keep": fitted.rows / seen["candidates"] if seen["candidates"] else None,
        "steps": fitted.steps,
        **seen,
        "last_lr": fitted.last,
        **terms,
        **prices.where(),
        "test": rows,
        "groups": packed(classes(task, data), 255) if task.balanced else None,
    }


def perform(job: Job, folder: Path, home: Path, stop: Any) -> dict[str, Any]:
    """Make one run and write it.

    Raises:
        Missing: data, packages or costs are not here.
        Stopped: `stop()` said so; nothing is written.
    """
    task, conditions = TASKS[job.task], terms(home, job)
    data = loaded(job.task, folder)
    if data.checksum != conditions["checksum"]:
        raise Missing(f"the data of {job.task} is not what its costs were measured on: measure again with --again")
    budget = job.budget * full_units(task, data)
    costs = prices.read(measured(home, job.task))
    with halves(task):
        result = run(ARMS[job.arm], task, data, budget, seed=job.seed, costs=costs, lr=conditions["lr"], stop=stop)
    row = record(job, task, data, budget, conditions, result)
    write(job.file(home), row)
    return row


def work(todo: list[Job], folder: Path, home: Path, *, workers: int = 1, minutes: float | None = None) -> int:
    """Do what is left of the jobs; how many failed.

    A run that is under way when the time is up, or when the first SIGINT or SIGTERM comes, is given up.
    """
    deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    left: list[Job] = []
    lacking: dict[str, str] = {}
    for job in todo:
        try:
            if job.task not in lacking and not done(home, job):
                left.append(job)
        except Missing as missing:
            lacking[job.task] = str(missing)
            print(f"missing: {job.task}: {missing}", file=sys.stderr)
    failed = len([job for job in todo if job.task in lacking])
    print(f"{len(todo) - len(left) - failed} of {len(todo)} runs are there, {len(left)} to go", flush=True)
    if workers == 1:
        with _signals() as stop:
            return failed + sum(_attempts(iter(left), folder, home, lambda: stop() or time.monotonic() > deadline))
    context = multiprocessing.get_context("spawn")
    turn, errors = context.Value("i", 0), context.Value("i", 0)
    wall = time.time() + 60 * minutes if minutes is not None else float("inf")
    args = (left, folder, home, turn, errors, wall)
    hands = [context.Process(target=_worker, args=args) for _ in range(max(1, min(workers, len(left))))]
    for hand in hands:
        hand.start()
    with _signals() as stop:
        told = False
        while any(hand.is_alive() for hand in hands):
            if stop() and not told:
                told = True
                for hand in hands:
                    os.kill(hand.pid, signal.SIGTERM)  # type: ignore[arg-type]
            for hand in hands:
                hand.join(0.2)
    crashed = sum(hand.exitcode != 0 for hand in hands)
    return failed + errors.value + crashed


def _worker(left: list[Job], folder: Path, home: Path, turn: Any, errors: Any, wall: float) -> None:
    torch.set_num_threads(1)

    def mine() -> Iterator[Job]:
        while True:
            with turn.get_lock():
                place = turn.value
                turn.value += 1
            if place >= len(left):
                return
            yield left[place]

    with _signals() as stop:
        for fault in _attempts(mine(), folder, home, lambda: stop() or time.time() > wall):
            with errors.get_lock():
                errors.value += fault


def _attempts(left: Iterator[Job], folder: Path, home: Path, stop: Any) -> Iterator[bool]:
    """Whether each of the jobs failed; ends early when told to stop."""
    for job in left:
        if stop():
            return
        try:
            row = perform(job, folder, home, stop)
        except Stopped:
            return
        except Missing as missing:
            print(f"missing: {job.task} {job.arm}: {missing}", file=sys.stderr, flush=True)
            yield True
        except Exception:
            print(f"failed: {job}", file=sys.stderr)
            traceback.print_exc()
            yield True
        else:
            said = f"{job.task:8} {job.arm:14} {job.budget:4.0%} seed {job.seed}"
            value = row["judged"] if "judged" in row else 100 * row["accuracy"]
            print(f"{said}  {value:6.2f} {TASKS[job.task].unit}  {row['seconds']:6.1f} s", flush=True)
            yield False


class _signals:
    """The first SIGINT or SIGTERM is a wish, which calling this object tells; the second one is an order."""

    def __enter__(self) -> _signals:
        self.came = False
        try:
            self.before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread
            self.before = {}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: Any) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True

    def __call__(self) -> bool:
        return self.came
