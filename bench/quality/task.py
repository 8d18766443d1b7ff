"""What a task is: its data, its losses, and how it is judged."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import puresift as ps
from bench.quality.arms import Arm
from puresift.types import ScoreFn

Examples = dict[str, Tensor]
Judge = Callable[[Tensor, Tensor], float]  # outputs and labels of the test rows -> one number
VALID = 2_000  # rows that choose a learning rate


class Data(NamedTuple):
    """What a task's runs share."""

    train: Examples
    valid: Examples  # the learning rate is chosen here
    test: Examples  # and nothing is chosen here
    build: Callable[[int], nn.Module]  # seed -> a fresh model, in train mode
    pads: dict[str, ps.Pad]  # ragged leaves

    @property
    def checksum(self) -> int:
        """Of the labels, which tells editions of the data apart."""
        return zlib.crc32(b"".join(part["labels"].numpy().tobytes() for part in (self.train, self.test)))


class Task(NamedTuple):
    """One row of the table."""

    name: str
    summary: str
    load: Callable[[Path], Data]
    outputs: Callable[[Any, Examples], tuple[Tensor, Tensor]]
    epochs: float  # of the full run
    batch_size: int
    lr: float  # peak, where no tuning.json says better
    grid: tuple[float, ...]  # tried for the plain arm by --tune
    dtype: torch.dtype = torch.bfloat16  # of training, scoring and evaluation, by autocast
    balanced: bool = False  # judged by the mean of the classes' accuracies
    many: bool = False  # labels a row
    scored: torch.dtype | None = None  # where scores are cheaper than training: their own precision
    glance: int | None = None  # tokens of a row that a cheap score reads
    each: Callable[[Tensor, Tensor], Tensor] | None = None  # outputs and labels -> losses; None: cross-entropy
    judge: Judge | None = None  # in place of accuracy
    metric: str = "accuracy"
    unit: str = "%"
    floor: float = 0.1  # of the rule over training losses
    shown: Callable[[ps.Rule], ps.Rule] = ps.by_error  # what it sees of them
    arms: tuple[str, ...] | None = None  # None: all, but for cascades
    cascades: bool = False  # with those
    budgets: tuple[float, ...] | None = None  # None: the arm's
    rivals: tuple[str, ...] = ("shortened", "rs2")  # a win is better than all of these
    tuned: str | None = None  # the task whose learning rates it has; None: its own

    def suits(self, arm: Arm) -> bool:
        """Whether it is one of the task's arms."""
        return arm.name in self.arms if self.arms is not None else self.cascades or arm.first is None

    def loss(self, model: Any, batch: Examples) -> Tensor:
        """Each row's loss, Float[B]; cross-entropy in nats, of each character, on average, where a row has many."""
        return self.losses(*self.outputs(model, batch))

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The same, of outputs that are there already."""
        return (self.each or nats)(outputs, labels)

    def odds(self, bias: float) -> ps.Rule:
        """Over the losses of training, for ids to be drawn; `keep` is so low that it caps next to nothing."""
        return self.shown(ps.importance(0.05, floor=self.floor, bias=bias))

    def error(self, model: nn.Module) -> ScoreFn:
        """The norm of softmax - onehot, over all characters where a row has many."""

        def norm(model: Any, batch: Examples) -> Tensor:
            logits, labels = self.outputs(model, batch)
            onehot = F.one_hot(labels, logits.shape[-1])
            return (logits.float().softmax(-1) - onehot).flatten(1).norm(dim=1)

        return ps.batched(model, norm) if self.many else ps.el2n(model, self.outputs)


def nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, Float[B], from logits [B, ..., classes] and labels [B, ...]."""
    each = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none")
    return each.view(len(labels), -1).mean(1)


class Missing(Exception):
    """A task's data, packages or costs are not here."""


def length(batch: Examples) -> Tensor:
    """Tokens of each row, Int[B]."""
    return batch["attention_mask"].sum(1)


def labelled(model: Any, batch: Examples) -> tuple[Tensor, Tensor]:
    return model(batch["x"]), batch["labels"]


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make().train()
