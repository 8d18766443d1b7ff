"""What is charged: phi of every score and the sifter's own time for every arm, in plain training steps, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, cycle, islice
from typing import Any

import torch
from torch import Tensor

import puresift as ps
from bench import measure
from bench.quality.arms import ARMS, EVERY, POOL, SMALL, WINDOW, Arm
from bench.quality.budget import Costs, Ledger
from bench.quality.feeds import everything, gather, longest, prioritized, scorer, shuffled, sifted, source, windows
from bench.quality.task import Data, Task
from bench.quality.training import adamw, fit

POOLS = 24  # of a stream whose own time is taken


def charged(task: Task, data: Data, rounds: int = 9) -> dict[str, Any]:
    """The costs of a task, with their spread, and where they were measured."""
    size, rows = task.batch_size, len(data.train["labels"])
    if rows < POOL * size:
        raise ValueError(f"{task.name} has {rows} rows, less than a pool of {POOL * size}: give it more")
    model = data.build(0).to(measure.device())
    train = {name: leaf.to(measure.device()) for name, leaf in data.train.items()}
    pools = (ids for epoch in count() for ids in shuffled(rows, 1, epoch).split(POOL * size) if len(ids) == POOL * size)

    def scoring(kind: str) -> Callable[[], Any]:
        score, params = scorer(kind, task, data, model), ps.live(model)

        def pass_() -> None:
            for ids in islice(pools, WINDOW // POOL):
                score(params(), {name: leaf[ids] for name, leaf in train.items()})

        return pass_

    arms = [arm for arm in ARMS.values() if task.suits(arm)]
    kinds = sorted({source(arm) for arm in arms if arm.score})
    streams, drained = _streams([arm for arm in arms if arm.picks], task, data, model)
    scores = {f"score {kind}": scoring(kind) for kind in kinds}
    blocks = {"step": _windows(task, data, model), **scores, **streams}
    times = measure.interleaved(blocks, rounds=rounds, timer=clock)
    steps = [seconds / WINDOW for seconds in times["step"]]
    phi = {kind: measure.ratio(times[f"score {kind}"], times["step"]) for kind in kinds}
    own = _own(times, drained, rounds)
    return {
        "step": statistics.median(steps),
        "score": {kind: spread["median"] for kind, spread in phi.items()},
        "pool": {name: spread["median"] for name, spread in own.items()},
        "spread": {"step": measure.spread(steps), "score": phi, "pool": own},
        **({"small": small(task, data)} if any(arm.small for arm in arms) else {}),
        **lengths(task, data),
        "rounds": rounds,
        "checksum": data.checksum,
        "where": where(),
    }


def added(task: Task, data: Data, arms: Iterable[str], rounds: int = 9) -> dict[str, Any]:
    """The sifter's own time for some arms alone, to stand beside costs that were measured before."""
    model = data.build(0).to(measure.device())
    streams, drained = _streams([ARMS[name] for name in arms], task, data, model)
    times = measure.interleaved({"step": _windows(task, data, model), **streams}, rounds=rounds, timer=clock)
    own = _own(times, drained, rounds)
    return {"pool": {name: spread["median"] for name, spread in own.items()}, "spread": own, "where": where()}


def _streams(
    arms: Iterable[Arm], task: Task, data: Data, model: Any
) -> tuple[dict[str, Callable[[], Any]], dict[str, list[float]]]:
    """What drains each arm by whose time arms are priced, and the pools that it read, call by call."""
    owners = dict.fromkeys(ARMS[arm.priced or arm.name] for arm in arms)
    drained: dict[str, list[float]] = {arm.name: [] for arm in owners}
    return {arm.name: _drained(arm, task, data, model, drained[arm.name]) for arm in owners}, drained


def _own(times: dict[str, list[float]], drained: dict[str, list[float]], rounds: int) -> dict[str, measure.Spread]:
    """Of each arm that was drained, its own time a pool, in steps of the same round."""
    steps = [seconds / WINDOW for seconds in times["step"]]
    return {
        name: measure.spread([t / n / s for t, n, s in zip(times[name], drained[name][-rounds:], steps, strict=True)])
        for name in drained
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
    more = {name: record[name] for name in ("small", "token", "length") if name in record}
    return Costs(record["step"], record["score"], record["pool"], **more)


def small(task: Task, data: Data, rounds: int = 15) -> float:
    """A step of a small batch, in steps of a whole one: more than its share, for the optimizer does not get faster."""
    model = data.build(0).to(measure.device())
    sizes = {"whole": task.batch_size, "small": round(SMALL * task.batch_size)}
    blocks = {name: _windows(task._replace(batch_size=size), data, model) for name, size in sizes.items()}
    times = measure.interleaved(blocks, rounds=rounds, timer=clock)
    return max(float(measure.ratio(times["small"], times["whole"])["median"]), SMALL)


def lengths(task: Task, data: Data, rounds: int = 4) -> dict[str, float]:
    """The padded length of a mean batch, and what a token more costs, in steps: its slope over batches."""
    if not data.pads:
        return {"token": 0.0, "length": 0.0}
    model, rows = data.build(0).to(measure.device()), len(data.train["labels"])
    epoch = list(islice(windows(data, everything(rows, 0), task.batch_size), rows // task.batch_size))
    each = [longest(gather(data.train, data, ids), data) for ids, _ in epoch]
    train = _trainer(task, data, model)
    blocks = {str(k): partial(train, [batch]) for k, batch in enumerate(epoch[: 4 * WINDOW])}
    times = measure.interleaved(blocks, rounds=rounds, timer=clock)
    line = statistics.linear_regression(each[: len(blocks)], [statistics.median(row) for row in times.values()])
    mean = statistics.mean(each)
    return {"token": line.slope / (line.intercept + line.slope * mean), "length": mean}


def _windows(task: Task, data: Data, model: Any) -> Callable[[], Any]:
    """A window of training steps, each time the next one."""
    feed, train = windows(data, everything(len(data.train["labels"]), 0), task.batch_size), _trainer(task, data, model)
    return lambda: train(islice(feed, WINDOW))


def _trainer(task: Task, data: Data, model: Any) -> Callable[[Iterable[Any]], Any]:
    """Training steps on up to a window of batches, which leave the model as it is."""
    optimizer, price = adamw(model, 0.0), lambda rows, longest: 1.0

    def train(some: Iterable[Any]) -> None:
        fit(task, data, model, optimizer, iter(some), Ledger(WINDOW + 1), 0.0, lambda *_: None, lambda: False, price)

    return train


def _drained(arm: Arm, task: Task, data: Data, model: Any, read: list[float]) -> Callable[[], Any]:
    """All that an arm does with `POOLS` pools or so besides scoring and training; how many they were is noted."""
    size, rows, seeds = task.batch_size, len(data.train["labels"]), count()
    losses = torch.empty(POOL * size).exponential_(generator=torch.Generator().manual_seed(0)).to(measure.device())
    if arm.kind == "infobatch":
        sampler = ps.infobatch(rows, epochs=1)

        def remember() -> None:
            for ids in islice(cycle(shuffled(rows, 0, 0).split(size)), POOL * POOLS):
                sampler.observe(ids, losses[: len(ids)])
            read.append(POOLS)

        return remember
    if arm.kind == "prioritized":
        return _drawn(arm, task, data, losses, read)
    table = torch.zeros(rows) if arm.score == "reducible" else None
    free = Costs(1.0, {}, {arm.name: 0.0})  # the governor finds that sifting pays, as the dearest case has it

    def drain() -> None:
        ledger, counts = Ledger(POOLS * POOL * (arm.keep or 1.0)), {"candidates": 0, "scored": 0}
        score = (lambda params, batch: losses[: len(batch["labels"])]) if arm.score else None
        feed, observe = sifted(arm, task, data, model, ledger, free, next(seeds), table, counts, score)
        for ids, _ in feed:
            ledger.charge("train", len(ids) / size)
            observe(ids, losses[: len(ids)])
        read.append(counts["candidates"] / (POOL * size))

    return drain


def _drawn(arm: Arm, task: Task, data: Data, losses: Tensor, read: list[float]) -> Callable[[], Any]:
    """The same where batches are drawn from the losses of training: draws by the rule, and what is noted after each."""
    free, rows = Costs(1.0, {}, {arm.name: 0.0}), len(data.train["labels"])
    feed, observe = prioritized(arm, task, data, free, 0, units=None, charge=lambda units: None)

    def draw(batches: int) -> None:
        for ids, _ in islice(feed, batches):
            observe(ids, losses[: len(ids)])

    def drawn() -> None:
        draw(POOL * POOLS)
        read.append(POOLS)

    draw(rows // task.batch_size + EVERY)  # the pass over everything, which is cheaper
    return drawn
