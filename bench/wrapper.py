"""The stateful wrapper that a user would run instead, built from the published description of SageMaker Smart Sifting.

A DataLoader wrapper that scores each batch with the live model, turns it into a Python list of samples, keeps a deque
of losses, ranks by percentile, draws in numpy, accumulates the kept samples and stacks them again. As published it
scores in the precision that the model has; `dtype` is our gift.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class SiftingWrapper:
    """Iterates over batches of kept samples; all its state is its own."""

    def __init__(
        self,
        loader: Iterable[Batch],
        model: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
        *,
        beta: float,
        batch_size: int,
        history: int = 1000,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ):
        self.loader, self.model, self.loss, self.dtype = loader, model, loss, dtype
        self.beta, self.batch_size = beta, batch_size
        self.history: deque[float] = deque(maxlen=history)
        self.random = np.random.default_rng(seed)
        self.kept: list[dict[str, Any]] = []
        self.device = next(model.parameters()).device
        self.read = 0  # pools

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            batch = {name: leaf.to(self.device) for name, leaf in batch.items()}
            self.read += 1
            yield from self.sift(batch, self.score(batch))

    def score(self, batch: Batch) -> Tensor:
        """The losses, from the model itself in eval mode."""
        cast = torch.autocast(self.device.type, self.dtype, cache_enabled=False) if self.dtype else nullcontext()
        self.model.eval()
        with torch.no_grad(), cast:
            losses = self.loss(self.model, batch)
        self.model.train()
        return losses

    def sift(self, batch: Batch, losses: Tensor) -> Iterator[Batch]:
        """Everything outside the model."""
        samples, values = self.remember(batch, losses)
        self.rank(samples, values, np.asarray(self.history))
        while len(self.kept) >= self.batch_size:
            chosen, self.kept = self.kept[: self.batch_size], self.kept[self.batch_size :]
            yield {name: torch.stack([sample[name] for sample in chosen]) for name in chosen[0]}

    def remember(self, batch: Batch, losses: Tensor) -> tuple[list[dict[str, Tensor]], list[float]]:
        values = losses.tolist()
        samples = [{name: leaf[row] for name, leaf in batch.items()} for row in range(len(values))]
        self.history.extend(values)
        return samples, values

    def rank(self, samples: list[dict[str, Tensor]], values: list[float], past: np.ndarray) -> None:
        for sample, value in zip(samples, values, strict=True):
            percentile = (past < value).mean()
            if self.random.random() < percentile**self.beta:
                self.kept.append(sample)
