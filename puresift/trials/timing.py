"""Candidates on one pool: what they tell, and how long they take, beside a training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.cascades import Cascade
from puresift.errors import SiftError
from puresift.scores.model import per_row
from puresift.trials.merits import AnyScore, begun, once
from puresift.types import Batch, Params, Score

_ROUNDS = 3


class Trial:
    """Candidates on one pool: what they tell, and how long they take, beside a training step."""

    def __init__(self, params: Params, batch: Batch, step: float | Callable[[], Any] | None, states: dict[str, Any]):
        self.params, self.batch, self.train, self.states = params, batch, step, states
        self.told: dict[str, Tensor] = {}  # losses, but of cascades
        self.step = float("nan")

    def asked(self, scores: Mapping[str, AnyScore], norms: Tensor | None) -> None:
        """Refuse what cannot be compared."""
        rows = trees.batch_size(trees.plain(self.batch))
        odd = [name for name, score in scores.items() if isinstance(score, Score | Cascade)]
        if odd and self.train is None:
            raise SiftError(f"{odd[0]} remembers or draws, which ranks do not judge; give step= to choose by merit")
        if unknown := sorted(self.states.keys() - scores.keys()):
            raise SiftError(f"states of {', '.join(unknown)}, which are no candidates; name them as the scores are")
        if self.train is not None and not callable(self.train):
            self.step = float(settings.positive("step", self.train))
        if norms is not None and (norms.shape != (rows,) or not bool((norms >= 0).all())):
            raise SiftError(f"norms must be {rows} numbers >= 0, one a row, got {list(norms.shape)}; use ps.grad_norm")
        if isinstance(next(iter(scores.values())), Cascade):
            raise SiftError("the first candidate, which the others are compared with, is a cascade; put a score there")

    def seconds(self, scores: Mapping[str, AnyScore]) -> dict[str, float]:
        """Medians of three calls each, in turns, after one that tells the losses; and those of the step."""
        rows = trees.batch_size(trees.plain(self.batch))
        for name, score in scores.items():
            self.states.setdefault(name, begun(score))
            losses = self._score(name, score).float()
            if not isinstance(score, Cascade):
                self.told[name] = per_row(losses, rows)
            if not bool(losses.isfinite().all()) and name == next(iter(self.told)):
                raise SiftError("the first score, which the others are compared with, gives losses that are not finite")
        taken: dict[str, list[float]] = {name: [] for name in scores}
        steps = []
        if callable(self.train):
            self.train()
        for _ in range(_ROUNDS):
            steps += [_seconds(self.train)] if callable(self.train) else []
            for name, score in scores.items():
                taken[name].append(_seconds(partial(self._score, name, score)))
        if callable(self.train):
            self.step = median(steps)
        return {name: median(values) for name, values in taken.items()}

    def _score(self, name: str, score: AnyScore) -> Tensor:
        return once(score, self.states[name], self.params, self.batch)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    answer = run()
    if isinstance(answer, Tensor):
        answer.sum().item()  # reading a number waits for the device
    elif torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start
