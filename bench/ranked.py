"""The loops of one rank that `bench ranks_cost` times: plain steps, scores, and what the two ways of sifting add."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import puresift as ps

ROWS, LENGTH, WORDS, IDLE, SEED = 64, 32, 1_000, 64, 0  # of a pool, on each rank; idle: pools of a block
SIFTED = ("constant", "global")


class Net(nn.Module):
    """An encoder and a head."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.words(tokens)
        for layer in self.layers:
            rows = layer(rows)
        return self.head(rows.mean(1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["tokens"]), batch["label"], reduction="none")


def made(rank: int) -> list[dict[str, Tensor]]:
    """Pools of this rank, with losses for the score that costs nothing."""
    dice = torch.Generator().manual_seed(1_000 * SEED + rank)
    return [
        {
            "tokens": torch.randint(WORDS, (ROWS, LENGTH), generator=dice),
            "label": torch.randint(2, (ROWS,), generator=dice),
            "loss": torch.rand(ROWS, generator=dice),
        }
        for _ in range(16)
    ]


class Arms:
    """The arms of one rank; they share a model."""

    def __init__(self, rank: int, keep: float, pools: int, width: int, layers: int):
        torch.manual_seed(SEED)
        self.model = Net(width, layers)
        self.ddp = DistributedDataParallel(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.data, self.keep, self.count = made(rank), keep, pools
        self.score, self.params = ps.batched(self.model, loss), ps.live(self.model)
        self.steps: dict[str, list[int]] = {mode: [] for mode in SIFTED}
        self.read: dict[str, list[int]] = {mode: [] for mode in SIFTED}
        self.source = cycle(self.data)

    def stream(self, mode: str, free: bool) -> Any:
        score = (lambda params, batch: batch["loss"]) if free else self.score
        rule, shape = ps.relative(keep=self.keep), {"batch_size": ROWS}
        if mode == "constant":
            sifter = ps.sifter(score, ps.hold(rule, keep=self.keep), draw=ps.systematic, **shape)
        else:
            sifter = ps.sifter(score, rule, ranks="global", **shape)
        return ps.sift(sifter, self._start(sifter), {} if free else self.params, self._endless())

    def _start(self, sifter: ps.Sifter) -> Any:
        return sifter.init(ps.key(SEED), self.data[0])

    def _endless(self) -> Any:
        return ps.epochs(self.data, 1_000_000)

    def train(self, batch: dict[str, Tensor], weights: Tensor | None) -> None:
        losses = loss(self.ddp, batch)
        self.optimizer.zero_grad()
        (losses if weights is None else weights * losses).mean().backward()
        self.optimizer.step()

    def plain(self) -> None:
        for _ in range(self.count):
            self.train(next(self.source), None)

    def scoring(self) -> None:
        for _ in range(self.count):
            self.score(self.params(), next(self.source))

    def sifted(self, mode: str) -> Callable[[], None]:
        stream = self.stream(mode, free=False)

        def block() -> None:
            before, steps = int(stream.state.step), 0
            while int(stream.state.step) - before < self.count:
                batch, weights, *_ = next(stream)
                self.train(batch, weights)
                steps += 1
            self.steps[mode].append(steps)
            self.read[mode].append(int(stream.state.step) - before)

        return block

    def idle(self, mode: str) -> Callable[[], int]:
        """Pools with a score that costs nothing, and no training; gives how many."""
        stream = self.stream(mode, free=True)

        def block() -> int:
            before = int(stream.state.step)
            while int(stream.state.step) - before < IDLE:
                next(stream)
            return int(stream.state.step) - before

        return block
