"""One run: an arm on a task, within a budget, from a seed. The same bits each time, whatever else the machine does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from bench.measure import device
from bench.quality.arms import ARMS, POOL, SMALL, WINDOW, Arm
from bench.quality.tasks import Data, Examples, Task, length, nats
from puresift.types import Batch, Losses, Params, ScoreFn

WARM_UP = 0.06  # of the budget
REFERENCE = 0.25  # of its own budget goes into the reference of RHO-LOSS
LAST = 0.125  # of InfoBatch's budget goes into full data
STALE = 4  # visits that a remembered loss is good for


class Costs(NamedTuple):
    """What is charged, in plain training steps of this task."""

    step: float  # seconds of such a step
    score: dict[str, float]  # of a batch's worth of rows: phi, by score
    pool: dict[str, float]  # of a pool, without its score, by arm
    small: float = SMALL  # a step of a small batch
    token: float = 0.0  # of each token that the longest row of a batch has more than
    length: float = 0.0  # in a mean batch

    def own(self, arm: Arm) -> float:
        """Of a pool, for this arm."""
        return self.pool[arm.priced or arm.name]

    def batch(self, arm: Arm, task: Task) -> Price:
        """Of a batch trained on. Rows drawn by chance are of mean length; those that are picked may be longer."""
        row = (self.small if arm.small else 1.0) / rows_of(arm, task)
        token = self.token / task.batch_size if arm.picks else 0.0
        return lambda rows, longest: rows * (row + token * (longest - self.length))


Price = Callable[[int, float], float]  # rows of a batch and its padded length -> units


def rows_of(arm: Arm, task: Task) -> int:
    """Of a batch."""
    return round(SMALL * task.batch_size) if arm.small else task.batch_size


class Stopped(Exception):
    """The run was told to stop; nothing of it is kept."""


class Ledger:
    """What a run has spent of its budget: units as charged or, given a clock of units, as measured."""

    def __init__(self, budget: float, *, clock: Callable[[], float] | None = None):
        self.budget, self.clock = budget, clock
        self.parts = dict.fromkeys(("train", "score", "pool", "reference"), 0.0)
        self.start()

    def start(self) -> None:
        """What the clock has told so far does not count."""
        self.began = self.clock() if self.clock else 0.0

    def charge(self, part: str, units: float) -> None:
        self.parts[part] += units

    @property
    def charged(self) -> float:
        return sum(self.parts.values())

    @property
    def spent(self) -> float:
        return self.clock() - self.began if self.clock else self.charged

    @property
    def left(self) -> float:
        return self.budget - self.spent


def rate(peak: float, done: float) -> float:
    """Linear up over the warm-up, linear down to zero; `done` is the fraction of the budget spent."""
    done = min(done, 1.0)
    return peak * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


class Fitted(NamedTuple):
    """What training leaves behind, besides the model."""

    steps: int
    rows: int  # trained on
    last: float  # learning rate of the last step


Feed = Iterator[tuple[Tensor, Tensor | None]]  # ids Int[B], weights Float[B]
Observe = Callable[[Tensor, Losses], None]


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


# Batches: from everything, from a sampler, from a sifter; all of them sorted by length within windows.


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
    for epoch in itertools.count():
        yield shuffled(size, seed, epoch), torch.ones(size)


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


def compose(arm: Arm, task: Task, data: Data, score: ScoreFn | None, table: Tensor | None, pools: int) -> ps.Sifter:
    """The arm's sifter, around a plain score; `table` holds the irreducible losses."""
    assert arm.rule is not None
    size = len(data.train["labels"])
    whole: ScoreFn | ps.Score | None = score
    if arm.score == "remembered":
        assert score is not None
        whole = ps.remembered(score, size, every=STALE)
    if arm.score == "reducible":
        assert score is not None and table is not None
        whole = ps.reducible(score, table, size=size)
    bucket: Any = {"bucket": length, "length": length, "pad": data.pads, "window": WINDOW} if data.pads else {}
    return ps.sifter(
        whole if arm.score else None,
        arm.rule(pools),
        batch_size=rows_of(arm, task),
        draw=ps.systematic,
        **bucket,
    )


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

    sifter = compose(arm, task, data, counted, table, expected_pools(arm, task, ledger.left, costs))
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
        if arm.score == "remembered" and not ended:  # nothing is scored after that
            stream.observe(losses)

    return feed(), observe


def source(arm: Arm) -> str:
    """The plain score below what the arm makes of it."""
    return arm.score if arm.score in ("error", "glance") else "loss"


def expected_pools(arm: Arm, task: Task, units: float, costs: Costs) -> int:
    """Pools that a budget will read, about: for schedules that count pools."""
    price = POOL * (arm.scored * costs.score.get(source(arm), 0.0) + (arm.keep or 1.0)) + costs.own(arm)
    return max(round(units / price), 1)


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

    elif arm.kind == "rs2":
        share = budget * task.batch_size / (task.epochs * size)
        feed = windows(data, rs2(size, share, task.epochs, seed), task.batch_size)
    else:
        feed = windows(data, everything(size, seed), task.batch_size)
    fitted = fit(task, data, model, adamw(model, lr), feed, ledger, lr, observe, stop, costs.batch(arm, task))
    seconds = time.perf_counter() - began
    return Run(*evaluate(task, data, model, getattr(data, held_out)), fitted, ledger, seconds, counts)


@torch.no_grad()
def evaluate(task: Task, data: Data, model: nn.Module, examples: Examples) -> tuple[Tensor, float]:
    """Correct labels of each row, Int[N], and the loss over all."""
    model.eval()
    size = len(examples["labels"])
    order = length(examples).argsort(stable=True) if data.pads else torch.arange(size)
    right, losses = torch.zeros(size, dtype=torch.int64), torch.zeros(size)
    for ids in order.split(128):
        batch: Any = gather(examples, data, ids)
        with torch.autocast(device().type, torch.bfloat16, enabled=task.dtype == torch.bfloat16):
            logits, labels = task.outputs(model, batch)
        losses[ids] = nats(logits, labels).cpu()
        right[ids] = (logits.argmax(-1) == labels).view(len(ids), -1).sum(1).cpu()
    model.train()
    return right, float(losses.mean())
