"""What is charged: phi of every score and the sifter's own time for every arm, in plain training steps, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import torch

import puresift as ps
from bench import measure
from bench.quality.arms import POOL, SMALL, TABLE, WINDOW, Arm
from bench.quality.tasks import Data, Task
from bench.quality.training import Costs, Ledger, compose, everything, fit, scorer, shuffled, windows

POOLS = 24  # of a stream whose own time is taken


def charged(task: Task, data: Data, rounds: int = 9) -> dict[str, Any]:
    """The costs of a task, with their spread, and where they were measured."""
    size, rows = task.batch_size, len(data.train["labels"])
    model = data.build(0).to(measure.device())
    window = WINDOW * size
    pools = [ids for ids in shuffled(rows, 1, 0).split(POOL * size) if len(ids) == POOL * size]
    if not pools:
        raise ValueError(f"{task.name} has {rows} rows, less than a pool of {POOL * size}: give it more")
    turns = cycle(pools)

    def scoring(kind: str) -> Callable[[], Any]:
        score, params = scorer(kind, task, data, model), ps.live(model)

        def pass_() -> None:
            for _ in range(window // (POOL * size)):
                ids = next(turns)
                score(params(), {name: leaf[ids] for name, leaf in data.train.items()})

        return pass_

    kinds = ("loss", "error", "glance")
    owners = [arm for arm in TABLE if arm.kind != "plain" and arm.priced is None]
    streams = {arm.name: _drained(arm, task, data, model, pools) for arm in owners}
    scores = {f"score {kind}": scoring(kind) for kind in kinds}
    times = measure.interleaved({"step": _steps(task, data, model), **scores, **streams}, rounds=rounds, timer=clock)
    steps = [seconds / WINDOW for seconds in times["step"]]
    phi = {kind: measure.ratio(times[f"score {kind}"], times["step"]) for kind in kinds}
    own = {name: measure.spread([t / POOLS / s for t, s in zip(times[name], steps, strict=True)]) for name in streams}
    return {
        "step": statistics.median(steps),
        "score": {kind: spread["median"] for kind, spread in phi.items()},
        "pool": {name: spread["median"] for name, spread in own.items()},
        "spread": {"step": measure.spread(steps), "score": phi, "pool": own},
        "small": small(task, data),
        "rounds": rounds,
        "checksum": data.checksum,
        "where": where(),
    }


def clock() -> float:
    """Seconds of this process: its one thread works all of them, and does not count those that others take from it."""
    return measure.clock() if torch.cuda.is_available() else time.process_time()


def where() -> dict[str, Any]:
    """Hardware, threads, versions and the time."""
    return {
        **measure.where(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def read(record: dict[str, Any]) -> Costs:
    return Costs(record["step"], record["score"], record["pool"], record.get("small", SMALL))


def small(task: Task, data: Data, rounds: int = 15) -> float:
    """A step of a small batch, in steps of a whole one: more than its share, for the optimizer does not get faster."""
    model = data.build(0).to(measure.device())
    sizes = {"whole": task.batch_size, "small": round(SMALL * task.batch_size)}
    blocks = {name: _steps(task._replace(batch_size=size), data, model) for name, size in sizes.items()}
    times = measure.interleaved(blocks, rounds=rounds, timer=clock)
    return max(float(measure.ratio(times["small"], times["whole"])["median"]), SMALL)


def _steps(task: Task, data: Data, model: Any) -> Callable[[], Any]:
    """A window of training steps that leave the model as it is."""
    feed, row = windows(data, everything(len(data.train["labels"]), 0), task.batch_size), 1 / task.batch_size

    def steps() -> None:
        some, ledger = islice(feed, WINDOW), Ledger(WINDOW + 1)
        fit(task, data, model, some, ledger, 0.0, lambda *_: None, lambda: False, row)

    return steps


def _drained(arm: Arm, task: Task, data: Data, model: Any, pools: list[torch.Tensor]) -> Callable[[], Any]:
    """All that an arm does with `POOLS` pools besides scoring and training."""
    size, rows = task.batch_size, len(data.train["labels"])
    losses = torch.empty(POOL * size).exponential_(generator=torch.Generator().manual_seed(0)).to(measure.device())
    if arm.kind == "rs2":
        return lambda: None
    if arm.kind == "infobatch":
        sampler = ps.infobatch(rows, epochs=1)
        parts = [part for ids in islice(cycle(pools), POOLS) for part in ids.split(size)]

        def remember() -> None:
            for part in parts:
                sampler.observe(part, losses[: len(part)])

        return remember
    table = torch.zeros(rows) if arm.score == "reducible" else None
    sifter = compose(arm, task, data, lambda params, batch: losses[: len(batch["labels"])], table, POOLS)
    train = {name: leaf.to(measure.device()) for name, leaf in data.train.items()}
    first = {name: leaf[: POOL * size] for name, leaf in train.items()}

    def drain() -> None:
        read = ({name: leaf[ids] for name, leaf in train.items()} for ids in islice(cycle(pools), POOLS))
        stream = ps.sift(sifter, sifter.init(ps.key(0), first), ps.live(model), read)
        for _, weights, _, _ in stream:
            if arm.score == "remembered":
                stream.observe(losses[: len(weights)])

    return drain
