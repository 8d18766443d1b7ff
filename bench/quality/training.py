"""One run: an arm on a task, within a budget, from a seed. The same bits each time, whatever else the machine does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from bench.measure import device
from bench.quality.arms import ARMS, POOL, Arm
from bench.quality.budget import Costs, Ledger, Price, rate
from bench.quality.feeds import (
    Feed,
    Observe,
    downsampled,
    everything,
    gather,
    infobatch,
    longest,
    oversampled,
    prioritized,
    rs2,
    scorer,
    shuffled,
    sifted,
    windows,
)
from bench.quality.task import Data, Examples, Task, length
from puresift.types import Losses

REFERENCE = 0.25  # of its own budget goes into the reference of RHO-LOSS


class Stopped(Exception):
    """The run was told to stop; nothing of it is kept."""


class Fitted(NamedTuple):
    """What training leaves behind, besides the model."""

    steps: int
    rows: int  # trained on
    last: float  # learning rate of the last step


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr, fused=True)


def fit(
    task: Task,
    data: Data,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: Feed,
    ledger: Ledger,
    lr: float,
    observe: Observe,
    stop: Callable[[], bool],
    price: Price,
) -> Fitted:
    """Train until the budget is spent, as nearly as whole steps allow."""
    where, steps, rows = device().type, 0, 0
    for ids, weights in feed:
        batch = gather(data.train, data, ids)
        share = price(len(ids), longest(batch, data))
        if ledger.left < share / 2:
            break
        if stop():
            raise Stopped
        for group in optimizer.param_groups:
            group["lr"] = rate(lr, (ledger.spent + share / 2) / ledger.budget)  # in the middle of the step
        with torch.autocast(where, torch.bfloat16, enabled=task.dtype == torch.bfloat16):
            losses = task.loss(model, batch)
        optimizer.zero_grad()
        (losses if weights is None else weights.to(losses.device) * losses).mean().backward()
        optimizer.step()
        ledger.charge("train", share)
        observe(ids, losses.detach())
        steps, rows = steps + 1, rows + len(ids)
    return Fitted(steps, rows, optimizer.param_groups[0]["lr"])


def irreducible(
    task: Task, data: Data, units: float, costs: Costs, lr: float, seed: int, stop: Callable[[], bool]
) -> Tensor:
    """Float[N]: the loss of each row under a model that was trained on the other half of them."""
    size = len(data.train["labels"])
    order = shuffled(size, seed, -1)
    halves = order[: size // 2], order[size // 2 :]
    steps = max(units - costs.score["loss"] * size / task.batch_size, 1.0) / 2
    table = torch.zeros(size)
    for number, (ours, theirs) in enumerate((halves, halves[::-1])):
        model = data.build(1_000 + 2 * seed + number).to(device())
        epochs = ((ours[shuffled(len(ours), seed, epoch)], torch.ones(len(ours))) for epoch in itertools.count())
        feed = windows(data, epochs, task.batch_size)
        price = costs.batch(ARMS["full"], task)
        fit(task, data, model, adamw(model, lr), feed, Ledger(steps), lr, lambda *_: None, stop, price)
        score, params = scorer("loss", task, data, model), ps.live(model)()  # once: it does not change any more
        for ids in theirs.split(POOL * task.batch_size):
            table[ids] = score(params, {name: leaf[ids].to(device()) for name, leaf in data.train.items()}).cpu()
    return table


class Run(NamedTuple):
    """What became of a run."""

    right: Tensor  # Int[test rows], correct labels of each
    nats: float  # loss on the test rows
    judged: float | None  # by the task's own judge
    fitted: Fitted
    ledger: Ledger
    seconds: float
    counts: dict[str, int]  # rows seen, rows scored


def run(
    arm: Arm,
    task: Task,
    data: Data,
    budget: float,
    *,
    seed: int,
    costs: Costs,
    lr: float,
    clock: Callable[[], float] | None = None,
    stop: Callable[[], bool] = lambda: False,
    held_out: str = "test",
) -> Run:
    """Train one arm on a budget of plain steps, and judge it; given a clock of units, it says what is spent.

    Raises:
        Stopped: `stop()` said so.
    """
    torch.manual_seed(seed)  # dropout alone draws from it
    size = len(data.train["labels"])
    model = data.build(seed).to(device())
    counts = {"candidates": 0, "scored": 0}
    began = time.perf_counter()
    ledger, table = Ledger(budget, clock=clock), None
    if arm.reference:
        table = irreducible(task, data, REFERENCE * budget, costs, lr, seed, stop)
        torch.manual_seed(seed)
        if arm.reference == "charged":
            ledger.charge("reference", REFERENCE * budget)
        else:
            ledger.start()

    observe: Observe = lambda ids, losses: None  # noqa: E731
    if arm.kind == "sift":
        feed, observe = sifted(arm, task, data, model, ledger, costs, seed, table, counts)
    elif arm.kind == "infobatch":
        sampler = ps.infobatch(size, epochs=int(4 * budget * task.batch_size / size) + 4, anneal=1.0, seed=seed)
        feed = windows(data, infobatch(sampler, ledger, seed), task.batch_size)

        def observe(ids: Tensor, losses: Losses) -> None:
            sampler.observe(ids, losses)
            ledger.charge("pool", costs.pool[arm.name] / POOL)

    elif arm.kind == "prioritized":
        feed, observe = prioritized(
            arm, task, data, costs, seed, units=budget, charge=lambda units: ledger.charge("pool", units)
        )
    elif arm.kind == "downsampled":
        assert arm.keep is not None
        feed = windows(data, downsampled(data.train["labels"], arm.keep, seed), task.batch_size)
    elif arm.kind == "oversampled":
        feed = windows(data, oversampled(data.train["labels"], seed), task.batch_size)
    elif arm.kind == "rs2":
        share = budget * task.batch_size / (task.epochs * size)
        feed = windows(data, rs2(size, share, task.epochs, seed), task.batch_size)
    else:
        feed = windows(data, everything(size, seed), task.batch_size)
    fitted = fit(task, data, model, adamw(model, lr), feed, ledger, lr, observe, stop, costs.batch(arm, task))
    seconds = time.perf_counter() - began
    return Run(*evaluate(task, data, model, getattr(data, held_out)), fitted, ledger, seconds, counts)


@torch.no_grad()
def evaluate(task: Task, data: Data, model: nn.Module, examples: Examples) -> tuple[Tensor, float, float | None]:
    """Correct labels of each row, Int[N], the loss over all, and what the task's own judge says, if it has one."""
    model.eval()
    size = len(examples["labels"])
    order = length(examples).argsort(stable=True) if data.pads else torch.arange(size)
    right, losses = torch.zeros(size, dtype=torch.int64), torch.zeros(size)
    made: list[Tensor] = []
    for ids in order.split(128):
        batch: Any = gather(examples, data, ids)
        with torch.autocast(device().type, torch.bfloat16, enabled=task.dtype == torch.bfloat16):
            outputs, labels = task.outputs(model, batch)
        losses[ids] = task.losses(outputs, labels).cpu()
        if task.judge:
            made.append(outputs.float().cpu())
        else:
            right[ids] = (outputs.argmax(-1) == labels).view(len(ids), -1).sum(1).cpu()
    model.train()
    judged = task.judge(torch.cat(made), examples["labels"][order]) if task.judge else None
    return right, float(losses.mean()), judged
