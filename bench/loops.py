"""A training step that leaves the model as it was, and batches that are made anew: what the training arms share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bench.measure import device

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Trainer:
    """One step of AdamW at a learning rate of 0: the work of any other rate, and all arms see the same model."""

    def __init__(self, model: nn.Module, loss: Loss, dtype: torch.dtype):
        self.model, self.loss, self.dtype = model, loss, dtype
        self.fresh()

    def fresh(self) -> None:
        """Drop the gradients and the optimizer's state."""
        self.model.zero_grad()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def __call__(self, batch: Batch, weights: Tensor | None = None) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(device().type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            losses = self.loss(self.model, batch)
        (losses if weights is None else weights * losses).mean().backward()
        self.optimizer.step()


class Fresh(list[Batch]):
    """Batches that are made anew each time they are read, as a loader's are."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            yield {name: leaf.clone() for name, leaf in batch.items()}
