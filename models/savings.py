"""What the loop saves against a textbook one, and how much of it plain training can have as well."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

import puresift as ps
from models import arms, bert, compare, orders
from models.compare import ENDLESS, POOLS, clock
from models.runs import Stop
from puresift.types import Batch


def measure(job: arms.Job, stop: Stop) -> dict[str, Any] | None:
    """Three loops in turns, on throwaway copies; what a sample costs, in those of a plain loop in random order.

    Returns:
        By name ("alike": plain training on batches of like length; "textbook": sifting in random order, each pool
        scored whole, in float32) the median and the quartiles, and the number of turns; None if told to stop early.
    """
    plain = _trained(job, _pools(job, alike=False), POOLS)
    loops = {"alike": _trained(job, _pools(job, alike=True), orders.WINDOW), "textbook": _textbook(job)}
    ratios: dict[str, list[float]] = {name: [] for name in loops}
    began, turns = time.perf_counter(), 0
    while turns <= compare.LEAST or (turns <= compare.MOST and time.perf_counter() - began < compare.SECONDS):
        if stop.heard():
            return None
        pace = plain()
        for name, block in loops.items():
            ratios[name].append(block() / pace)
        turns += 1
    return {name: _spread(found[1:]) for name, found in ratios.items()} | {"turns": turns - 1}  # the first warms up


def _spread(found: list[float]) -> dict[str, float]:
    low, _, high = quantiles(found, n=4) if len(found) > 1 else found * 3
    return {"cost": median(found), "low": low, "high": high}


def _pools(job: arms.Job, alike: bool) -> Iterator[Batch]:
    return iter(ps.epochs(arms.loader(job, alike), ENDLESS))


def _model(job: arms.Job) -> tuple[nn.Module, torch.optim.Optimizer, torch.device]:
    device = torch.device(job.options.device)
    model = copy.deepcopy(job.model).to(device)
    return model, arms.adamw(model, job.options), device


def _trained(job: arms.Job, pools: Iterator[Batch], count: int) -> Callable[[], float]:
    """Seconds for each of so many pools, all of which are trained on."""
    model, optimizer, device = _model(job)

    def block() -> float:
        began = clock(device)
        for _ in range(count):
            batch = {name: leaf.to(device) for name, leaf in next(pools).items()}
            arms.update(model, optimizer, batch, None, job.options.train_dtype)
        return (clock(device) - began) / count

    return block


def _textbook(job: arms.Job) -> Callable[[], float]:
    """Seconds for each pool that a plain way of sifting reads, with the rule of the sifted arm."""
    model, optimizer, device = _model(job)
    score = ps.autocast(ps.batched(model, bert.loss), torch.float32)
    pools = ps.epochs(arms.loader(job, False), ENDLESS)
    sifter, _ = arms.compose(job._replace(options=replace(job.options, bucket=False)), score)
    stream = ps.sift(sifter, sifter.init(ps.key(job.options.seed), ps.peek(pools.loader)), ps.live(model), pools)
    read = 0

    def block() -> float:
        nonlocal read
        began, before = clock(device), read
        while read - before < POOLS:
            batch, weights, state, _ = next(stream)
            arms.update(model, optimizer, batch, weights, job.options.train_dtype)
            read = int(state.step)
        return (clock(device) - began) / (read - before)

    return block
