"""Batches: from everything, from a sampler, from a sifter; all of them sorted by length within windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import puresift as ps
from bench.measure import device
from bench.quality.arms import EVERY, POOL, POSITIVE, THINNED, UNIFORM, WINDOW, Arm
from bench.quality.budget import Costs, Ledger, rows_of
from bench.quality.task import Data, Examples, Task, length
from puresift.cascades import Cascade
from puresift.scores.probing import Probe
from puresift.types import Batch, Losses, Params, ScoreFn

LAST = 0.125  # of InfoBatch's budget goes into full data
STALE = 4  # visits that a remembered loss is good for


Feed = Iterator[tuple[Tensor, Tensor | None]]  # ids Int[B], weights Float[B]
Observe = Callable[[Tensor, Losses], None]


def gather(examples: Examples, data: Data, ids: Tensor) -> Examples:
    """The rows of a batch, cut to the longest."""
    batch = {name: leaf[ids] for name, leaf in examples.items()}
    if data.pads:
        most = int(length(batch).max())
        batch |= {name: batch[name][:, :most] for name in data.pads}
    return {name: leaf.to(device()) for name, leaf in batch.items()}


def longest(batch: Examples, data: Data) -> int:
    """The length that rows are padded to, if they are."""
    return next((batch[name].shape[1] for name in data.pads), 0)


def shuffled(size: int, seed: int, epoch: int) -> Tensor:
    """Int[size]: the order of an epoch."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))


def batches(data: Data, ids: Tensor, weights: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A window, cut into batches of rows of like length, in the order of the first row drawn of each."""
    if not data.pads:
        yield from zip(ids.split(size), weights.split(size), strict=True)
        return
    parts = length({"attention_mask": data.train["attention_mask"][ids]}).argsort(stable=True).split(size)
    for part in sorted(parts, key=lambda part: int(part.min())):
        yield ids[part], weights[part]


def windows(data: Data, epochs: Iterator[tuple[Tensor, Tensor]], size: int) -> Feed:
    """Whole windows out of epochs of any length, for ever."""
    ids, weights = torch.empty(0, dtype=torch.int64), torch.empty(0)
    for more, theirs in epochs:
        ids, weights = torch.cat([ids, more]), torch.cat([weights, theirs])
        while len(ids) >= WINDOW * size:
            yield from batches(data, ids[: WINDOW * size], weights[: WINDOW * size], size)
            ids, weights = ids[WINDOW * size :], weights[WINDOW * size :]


def everything(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from some(torch.arange(size), seed)


def some(rows: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epochs of some of the rows."""
    for epoch in itertools.count():
        yield rows[shuffled(len(rows), seed, epoch)], torch.ones(len(rows))


def oversampled(labels: Tensor, seed: int, share: float = POSITIVE) -> Iterator[tuple[Tensor, Tensor]]:
    """Epochs of all rows, those of the rarest class as often as it takes for that share, and once at least."""
    rare = labels == labels.bincount().argmin()
    ours, others = rare.nonzero().flatten(), (~rare).nonzero().flatten()
    count = max(round(len(others) * share / (1 - share)), len(ours))
    yield from some(torch.cat([others, ours.repeat(-(-count // len(ours)))[:count]]), seed)


def downsampled(labels: Tensor, keep: float, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epochs without most of the common class: of what `ps.downsampled` leaves, always the same rows."""
    yield from some(torch.tensor(list(ps.downsampled(labels, keep=keep, seed=seed))), seed)


def rs2(size: int, share: float, epochs: float, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    most = int(epochs) + 3
    sampler = ps.rs2(size, keep=share, epochs=most, seed=seed)
    for epoch in range(most):
        sampler.set_epoch(epoch)
        ids = torch.tensor(list(sampler))
        yield ids, torch.ones(len(ids))


def infobatch(sampler: ps.infobatch, ledger: Ledger, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epochs of the sampler; for the last of the budget everything, in the middle of an epoch if need be."""
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        ids = torch.tensor(list(sampler))
        for part in ids.split(POOL * 8):
            if ledger.left <= LAST * ledger.budget:
                yield from everything(sampler.size, seed)
            yield part, sampler.weights(part)


def prioritized(
    arm: Arm, task: Task, data: Data, costs: Costs, seed: int, *, units: float | None, charge: Callable[[float], None]
) -> tuple[Feed, Observe]:
    """Batches drawn from the losses of training, and where those go; `units` that the run has tell when it ends."""
    assert arm.bias is not None
    own = costs.own(arm) / POOL  # of a batch
    drawer = ps.prioritizer(
        task.odds(arm.bias),
        size=len(data.train["labels"]),
        batch_size=task.batch_size,
        steps=None if units is None else math.ceil(units / (1 + own)),
        every=EVERY,
        end=UNIFORM,
    )
    state = drawer.init(ps.key(seed))

    def feed() -> Feed:
        nonlocal state
        while True:
            state, ids, weights = drawer.draw(state)
            for part, theirs in zip(ids.split(WINDOW), weights.split(WINDOW), strict=True):
                yield from batches(data, part.flatten(), theirs.flatten(), task.batch_size)

    def observe(ids: Tensor, losses: Losses) -> None:
        nonlocal state
        state = drawer.observe(state, ids, losses)
        charge(own)

    return feed(), observe


def compose(
    arm: Arm,
    task: Task,
    data: Data,
    score: ScoreFn | None,
    table: Tensor | None,
    pools: int,
    model: nn.Module | None = None,
) -> ps.Sifter:
    """The arm's sifter, around a plain score; `table` holds the irreducible losses, and a cascade may see the model."""
    assert arm.rule is not None
    size = len(data.train["labels"])
    whole: ScoreFn | ps.Score | Cascade | None = score
    if arm.score == "remembered":
        assert score is not None
        whole = ps.remembered(score, size, every=STALE)
    if arm.score == "reducible":
        assert score is not None and table is not None
        whole = ps.reducible(score, table, size=size)
    if arm.first:
        assert score is not None and model is not None and arm.bias is not None
        first = ps.recalled(size) if arm.first == "recalled" else probe(data, model)
        whole = ps.cascade(first, score, keep=THINNED, bias=arm.bias)
    rule = arm.rule(pools)
    if arm.gated:
        rule = ps.gate(rule, classes=int(data.train["labels"].max()) + 1)
    bucket: Any = {"bucket": length, "length": length, "pad": data.pads, "window": WINDOW} if data.pads else {}
    return ps.sifter(
        whole if arm.score else None,
        rule,
        batch_size=rows_of(arm, task),
        draw=ps.systematic,
        **bucket,
    )


def probe(data: Data, model: nn.Module) -> Probe:
    """Guesses losses from the mean embedding of a row, or the row itself, for each class apart."""
    classes = int(data.train["labels"].max()) + 1

    def seen(model: Any, batch: Examples) -> Tensor:
        if not data.pads:
            row = batch["x"].flatten(1)
        else:
            words = next(part for part in model.modules() if isinstance(part, nn.Embedding))
            share = batch["attention_mask"] / batch["attention_mask"].sum(1, keepdim=True)
            row = F.embedding_bag(batch["input_ids"], words.weight, per_sample_weights=share, mode="sum")
        return row[:, :, None] * F.one_hot(batch["labels"], classes)[:, None, :]

    first = {name: leaf[:1].to(device()) for name, leaf in data.train.items()}
    return ps.probed(model, seen, size=seen(model, first).numel())


def scorer(kind: str, task: Task, data: Data, model: nn.Module) -> ScoreFn:
    """A pool's losses, or errors, in the training's precision unless the task has another; in pieces of like length."""
    plain = task.error(model) if kind == "error" else ps.batched(model, task.loss)
    score = ps.autocast(plain, task.scored or task.dtype)
    if kind == "glance" and task.glance is not None:
        return ps.truncated(score, task.glance, pad=data.pads)
    return ps.chunked(score, task.batch_size, length=length, pad=data.pads) if data.pads else score


def sifted(
    arm: Arm,
    task: Task,
    data: Data,
    model: nn.Module,
    ledger: Ledger,
    costs: Costs,
    seed: int,
    table: Tensor | None,
    counts: dict[str, int],
    score: ScoreFn | None = None,
) -> tuple[Feed, Observe]:
    """The arm's batches, and where the losses of training go; `score` in place of the arm's own."""
    phi, size, price = costs.score.get(source(arm), 0.0), task.batch_size, costs.batch(arm, task)
    plain = score or (scorer(source(arm), task, data, model) if arm.score else None)

    def counted(params: Params, batch: Batch) -> Losses:
        assert plain is not None
        losses = plain(params, batch)
        counts["scored"] += len(losses)
        ledger.charge("score", phi * len(losses) / size)
        return losses

    sifter = compose(arm, task, data, counted, table, expected_pools(arm, task, ledger.left, costs), model)
    train = {name: leaf.to(device()) for name, leaf in data.train.items()}
    first = {name: leaf[: POOL * size] for name, leaf in train.items()}

    ended = False

    def candidates() -> Iterator[Examples]:
        nonlocal ended
        for epoch in itertools.count():
            for ids in shuffled(len(train["labels"]), seed, epoch).split(POOL * size):
                held = int(stream.state.buffer.fill[0])
                if ledger.left <= price(held, costs.length):  # enough for the rest
                    ended = True
                    return
                ledger.charge("pool", costs.own(arm) * len(ids) / (POOL * size))
                counts["candidates"] += len(ids)
                yield {name: leaf[ids] for name, leaf in train.items()}

    judge: Any = {"governor": ps.governor(bar="shortened"), "clock": lambda: ledger.spent} if arm.governed else {}
    stream = ps.sift(sifter, sifter.init(ps.key(seed), first), ps.live(model), candidates(), **judge)

    def feed() -> Feed:
        try:
            for batch, weights, _, _ in stream:
                yield batch["id"].cpu(), weighed(weights)
        except ValueError:  # a budget of less than a window of batches: what there is leaves below
            if not ended:
                raise
        _, rest = sifter.flush(stream.state)
        if rest:
            ids, weights = (torch.cat([part[k] for part in ((b["id"], w) for b, w in rest)]) for k in (0, 1))
            for part, theirs in batches(data, ids.cpu(), weights.cpu(), rows_of(arm, task)):
                yield part, weighed(theirs)

    def weighed(weights: Tensor) -> Tensor:
        return weights / weights.mean() if arm.normalised else weights

    def observe(ids: Tensor, losses: Losses) -> None:
        if (arm.score == "remembered" or arm.first == "recalled") and not ended:  # nothing is scored after that
            stream.observe(losses)

    return feed(), observe


def source(arm: Arm) -> str:
    """The plain score below what the arm makes of it."""
    return arm.score if arm.score in ("error", "glance") else "loss"


def expected_pools(arm: Arm, task: Task, units: float, costs: Costs) -> int:
    """Pools that a budget will read, about: for schedules that count pools."""
    price = POOL * (arm.scored * costs.score.get(source(arm), 0.0) + (arm.keep or 1.0)) + costs.own(arm)
    return max(round(units / price), 1)
