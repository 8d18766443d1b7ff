"""A loader of drawn batches that look as before, and whose losses find their way back by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from puresift.data.loaders import drawn, fits, length
from puresift.data.prioritized import PrioritizedSampler
from puresift.errors import SiftError
from puresift.ids import Numbered
from puresift.types import Batch, Losses


class Fed(Iterable[Batch]):
    """The batches of an epoch, or of what is left of it, for loops that train on each before they ask for the next.

    Args:
        loader: a plain DataLoader, with batches of one rank's rows; its own order is left out.
        sampler: what draws instead.

    Raises:
        SiftError: the dataset has another length than the prioritizer's size; in an iteration, when batches have
            another size, or no losses came back.
    """

    def __init__(self, loader: DataLoader[Any], sampler: PrioritizedSampler):
        fits(loader.dataset, sampler.plan)
        self.sampler, self._rows = sampler, loader.batch_size
        self._loader = drawn(loader, sampler, _Collate(loader.collate_fn))
        self._ids: list[int] | None = None  # of the batch in training, on the host, so that no device is waited for

    def __len__(self) -> int:
        return length(self.sampler.plan)

    def __iter__(self) -> Iterator[Batch]:
        if self._rows != self.sampler.batch_size:
            raise SiftError(
                f"the loader has batch_size={self._rows}, and the prioritizer gives each rank "
                f"{self.sampler.batch_size} rows; build it with batch_size={self._rows} times the ranks"
            )
        for batch, ids in self._loader:
            self._ids = ids
            yield batch
            if self._ids is not None:
                raise SiftError("no losses came back for the last batch; train on the mean(losses) of each")

    def mean(self, losses: Losses) -> Tensor:
        """The weighted mean of the per-sample losses, Float[B], of the batch in training; they are fed back.

        Raises:
            SiftError: no batch is in training, or there is not one loss a row.
        """
        if self._ids is None:
            raise SiftError("mean takes the losses of a training batch, once; elsewhere use losses.mean()")
        weights: Tensor = self.sampler.weights(self._ids).to(losses.device, non_blocking=True)
        self.sampler.observe(self._ids, losses)
        self._ids = None
        return (weights * losses).mean()


class _Collate:
    """The batch as ever, and beside it the ids of its rows."""

    def __init__(self, collate: Callable[[list[Any]], Batch]):
        self._collate = collate

    def __call__(self, rows: list[Numbered]) -> tuple[Batch, list[int]]:
        return self._collate([row.item for row in rows]), [row.id for row in rows]
