"""What sifting costs: the clock, a timed score, two loops timed in turns, and the summary of an arm."""

import copy
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from models import arms, files, orders, ranks
from models.runs import Stop, Tally
from puresift.distributed import place
from puresift.report import figures
from puresift.types import Batch, Losses, Params, ScoreFn

POOLS = 8  # per block
ENDLESS = 1_000_000
LEAST, MOST, SECONDS = 5, 15, 12.0  # alternations: minimum, maximum, and seconds to continue past the minimum
SUMMARY = ("accuracy", "seconds", "seen", "scored", "trained", "phi", "keep", "predicted_cost")


def clock(device: torch.device) -> float:
    """Seconds, after synchronising with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Laps:
    """The seconds since the last lap."""

    def __init__(self, device: torch.device):
        self.device, self.mark = device, clock(device)

    def lap(self) -> float:
        before, self.mark = self.mark, clock(self.device)
        return self.mark - before


def timed(score: ScoreFn, tally: Tally, device: torch.device) -> ScoreFn:
    """The same score; its time is added to the tally."""

    def shim(params: Params, batch: Batch) -> Losses:
        began = clock(device)
        losses = score(params, batch)
        tally.score_seconds += clock(device) - began
        tally.scored += len(losses)
        return losses

    return shim


class Turns(NamedTuple):
    """A sifted pass over some candidates, in units of a plain one over the same: median and quartiles."""

    cost: float
    low: float
    high: float
    keep: float  # kept in these blocks; a whole run may keep another share
    phi: float
    alternations: int


def interleaved(
    model: nn.Module,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    update: Callable[[nn.Module, torch.optim.Optimizer, Batch, Tensor | None], float],
    sifter: Callable[[Tally], ps.Sifter],
    loader: Callable[[], Iterable[Batch]],
    key: Tensor,
    stop: Stop,
    count: int = POOLS,
) -> Turns:
    """Time plain and sifted training in turns, on throwaway copies of the model, over the same pools.

    Two runs one after another differ by other load on the machine; two blocks of about a second hardly do. A
    sifted block ends with a batch, not with a pool, so that it holds whole steps; the plain one then reads as many.
    Where pools are sorted by length, a block of `count` holds both short and long ones.
    """
    device = next(model.parameters()).device
    tally, some = Tally(), ps.peek(loader())
    plain, sifted = (ranks.spread(copy.deepcopy(model), some) for _ in range(2))
    plain_optimizer, sifted_optimizer = optimizer(plain), optimizer(sifted)
    ours = sifter(tally)
    stream = ps.sift(ours, ours.init(key, some), ps.live(sifted), ps.epochs(loader(), ENDLESS))
    pools: Iterator[Batch] = iter(ps.epochs(loader(), ENDLESS))
    read = 0

    def sifted_block() -> tuple[float, int]:
        nonlocal read
        began, before = clock(device), read
        while read - before < count:
            batch, weights, state, _ = next(stream)
            start = clock(device)
            update(sifted, sifted_optimizer, batch, weights)
            tally.train_seconds += clock(device) - start
            tally.trained += len(weights)
            read = int(state.step)
        return clock(device) - began, read - before

    def plain_block(count: int) -> float:
        began = clock(device)
        for batch in islice(pools, count):
            update(plain, plain_optimizer, {name: leaf.to(device) for name, leaf in batch.items()}, None)
        return clock(device) - began

    ratios: list[float] = []
    spent = 0.0
    while not stop.heard() and len(ratios) <= MOST and (len(ratios) <= LEAST or spent < SECONDS):
        ours_seconds, reads = sifted_block()
        ours_seconds, plain_seconds = ranks.same((ours_seconds, plain_block(reads)))  # one clock for all ranks
        ratios.append(ours_seconds / plain_seconds)
        spent += ours_seconds + plain_seconds
    ratios = ratios[1:] or ratios  # the first turn includes warm-up
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return Turns(median(ratios), low, high, tally.trained / tally.scored, tally.phi or 0.0, len(ratios))


def measure(job: arms.Job, stop: Stop) -> dict[str, Any]:
    """Which precision scores faster here and, for the comparison, what a sifted pass costs."""
    o, device = job.options, ranks.device(job.options.device)
    if o.sift in ("none", "uniform"):
        return {"score": None, "interleaved": None}
    model = copy.deepcopy(job.model).to(device)
    first = {name: leaf.to(device) for name, leaf in ps.peek(arms.loader(job)).items()}
    names = ("float32", "bfloat16") if o.score_dtype == "auto" else (o.score_dtype,)

    def fastest() -> dict[str, Any]:
        choice = ps.fastest({name: arms.scorer(job, model, name) for name in names}, ps.live(model), first)
        return {"dtype": choice.name, "seconds": choice.seconds, "agreement": choice.agreement}

    score = ranks.first(fastest)
    if not o.compare:
        return {"score": score, "interleaved": None}
    if place()[0] == 0:
        print(f"scoring in {score['dtype']}; measuring what a pass costs, sifted and not: a minute", file=sys.stderr)
    torch.manual_seed(o.seed)
    turns = interleaved(
        model,
        partial(arms.adamw, o=o),
        partial(arms.update, dtype=o.train_dtype),
        lambda tally: arms.compose(job, timed(arms.scorer(job, model, score["dtype"]), tally, device))[0],
        partial(arms.loader, job),
        ps.key(o.seed),
        stop,
        orders.WINDOW if o.bucket else POOLS,
    )
    return {"score": score, "interleaved": ranks.same(turns._asdict())}


def cost(arm: Mapping[str, Any], turns: Mapping[str, Any] | None) -> float:
    """What a sample that an arm has seen costs, in those that plain training sees; a report shows the same number.

    Scoring as measured in turns, where it was, and training as counted; else phi times the share scored, plus k.
    """
    if turns is None or not arm["scored"]:
        return float(arm["predicted_cost"])
    return float((turns["cost"] - turns["keep"]) * arm["scored"] / arm["seen"] + arm["keep"])


def read_summary(path: Path) -> dict[str, Any] | None:
    """What `summarize` gave for an arm; None if it is not finished."""
    cure = "remove it, and the arm is evaluated again"
    summary: dict[str, Any] | None = files.read_json(path, *SUMMARY, cure=cure)
    if summary and (wrong := [name for name in SUMMARY if type(summary[name]) not in (int, float, type(None))]):
        raise ValueError(f"{path} is damaged ({wrong[0]} is {summary[wrong[0]]!r:.60}): {cure}")
    return summary


def add_costs(known: dict[str, dict[str, Any]], turns: Mapping[str, Any] | None) -> None:
    """Add to each arm what a sample costs, what the arm takes in plain runs, and its pace by the clock.

    The clock is told and no more: arms run one after another, and what else the machine does is in it.
    """
    pace = {name: arm["seconds"] / arm["seen"] for name, arm in known.items()}
    for name, arm in known.items():
        arm["cost"] = cost(arm, turns)
        arm["time"] = arm["cost"] * arm["seen"] / known["plain"]["seen"] if "plain" in pace else None
        arm["clock"] = pace[name] / pace["plain"] if "plain" in pace else None


def summarize(job: arms.Job, tally: Tally, accuracy: float, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    epochs, rest = divmod(tally.pool, len(arms.loader(job)))
    seen = epochs * len(job.train) + min(rest * job.options.batch_size, len(job.train))
    keep = tally.trained / seen
    return {
        "accuracy": accuracy,
        "seconds": tally.seconds,
        "eval_seconds": tally.eval_seconds,
        "pools": tally.pool,
        "steps": tally.step,
        "seen": seen,
        "scored": tally.scored,
        "trained": tally.trained,
        "phi": tally.phi,
        "keep": keep,
        "predicted_cost": figures.cost(seen, tally.trained, tally.scored, tally.phi or 0.0),
        "lr": optimizer.param_groups[0]["lr"],
    }
