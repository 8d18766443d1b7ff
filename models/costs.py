"""What sifting costs: a clock that waits for the device, a timed score, and two loops timed in turns."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from statistics import median, quantiles
from typing import NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from models.runs import Stop, Tally
from puresift.types import Batch, Losses, Params, ScoreFn

POOLS = 8  # a block
ENDLESS = 1_000_000
LEAST, MOST, SECONDS = 5, 15, 12.0  # alternations: at least, at most, and how long to go on beyond the least


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked to."""
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
    """The same score; what it takes is added to the tally."""

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
    keep: float  # kept in these blocks, which need not be what a run keeps
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
) -> Turns:
    """Time plain and sifted training in turns, on throwaway copies of the model, over the same pools.

    Two runs one after another differ by what else the machine was doing; two blocks of a second or so hardly do. A
    sifted block ends with a batch, not with a pool, so that it holds whole steps; the plain one then reads as many.
    """
    device = next(model.parameters()).device
    tally = Tally()
    plain, sifted = copy.deepcopy(model), copy.deepcopy(model)
    plain_optimizer, sifted_optimizer = optimizer(plain), optimizer(sifted)
    ours = sifter(tally)
    stream = ps.sift(ours, ours.init(key, ps.peek(loader())), ps.live(sifted), ps.epochs(loader(), ENDLESS))
    pools: Iterator[Batch] = iter(ps.epochs(loader(), ENDLESS))
    read = 0

    def sifted_block() -> tuple[float, int]:
        nonlocal read
        began, before = clock(device), read
        while read - before < POOLS:
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
    while not stop.signal and len(ratios) <= MOST and (len(ratios) <= LEAST or spent < SECONDS):
        ours_seconds, count = sifted_block()
        plain_seconds = plain_block(count)
        ratios.append(ours_seconds / plain_seconds)
        spent += ours_seconds + plain_seconds
    ratios = ratios[1:] or ratios  # the first turn pays for first calls
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return Turns(median(ratios), low, high, tally.trained / tally.scored, tally.phi or 0.0, len(ratios))
