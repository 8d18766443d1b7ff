"""Lightning on drawn batches: nothing is scored, and an epoch has a length."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from puresift.data.feeding import Fed
from puresift.data.loaders import covers, length
from puresift.data.prioritized import PrioritizedSampler
from puresift.errors import SiftError
from puresift.integrations.lightning.framework import _Callback
from puresift.integrations.lightning.loading import through
from puresift.prioritizers import Prioritizer
from puresift.types import Losses


class DrawingCallback(_Callback):
    """Draws the batches that a LightningModule trains on by a prioritizer, and saves its state in checkpoints.

    Give it to the Trainer, `wrap` the training loader or the data module, and end `training_step` with
    `return drawing.mean(losses)`, for per-sample losses. Batches look as before. From a checkpoint of any step the
    draws go on bit for bit, with as many workers; dropout does not, for Lightning saves no state of torch's generators.
    On several ranks the loader's batch_size is that of one rank.

    Args:
        prioritizer: from `ps.prioritizer`; its size is len(dataset), its batch_size that of all ranks, and its steps,
            if given, the batches that the Trainer takes.
        seed: a whole number.
        prefetch: how many batches may wait for their losses.

    Attributes: `sampler`, the `ps.PrioritizedSampler`.

    Raises:
        SiftError: here or when `fit` begins, for an invalid setting or setup.

    Example:
        >>> import puresift as ps, torch
        >>> drawing = DrawingCallback(ps.prioritizer(ps.importance(keep=0.5), size=8, batch_size=4))
        >>> loader = drawing.wrap(DataLoader(torch.arange(8.0), 4))
        >>> for x in loader:
        ...     loss = drawing.mean(x.square())
        >>> len(loader), float(loss) > 0
        (2, True)
    """

    def __init__(self, prioritizer: Prioritizer, *, seed: int = 0, prefetch: int = 1000):
        self.sampler = PrioritizedSampler(prioritizer, seed=seed, prefetch=prefetch)
        self._fed: Fed | None = None  # the loader in use
        self._saved: Mapping[str, Tensor] | None = None

    def wrap(self, data: Any) -> Any:
        """The loader, or the data module, with drawn batches for training.

        Args:
            data: a DataLoader over a map-style dataset, or a LightningDataModule (copied, then changed).

        Returns:
            What to pass to `Trainer.fit` instead.

        Raises:
            SiftError: it is neither, or has another length or batch size than the prioritizer.
        """
        if isinstance(data, DataLoader):
            return _Drawn(data, self)
        if not hasattr(data, "train_dataloader"):
            raise SiftError(
                f"wrap takes the plain DataLoader, whose dataset is read by id, or a data module, not a "
                f"{type(data).__name__}"
            )
        return through(data, self.wrap)

    def mean(self, losses: Losses) -> Tensor:
        """The weighted mean of the per-sample losses, Float[B], of the batch in training; they are fed back.

        Raises:
            SiftError: no batch is in training, or there is not one loss a row.
        """
        if self._fed is None:
            raise SiftError("no batch is in training; give fit() what drawing.wrap(loader) returns")
        return self._fed.mean(losses)

    # Called by Lightning.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.overfit_batches or trainer.limit_train_batches != 1.0:
            raise SiftError(
                "an epoch of drawn batches is as long as the dataset; leave overfit_batches and limit_train_batches "
                "out, and shorten training by max_steps"
            )
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            raise SiftError("training_step takes dataloader_iter; take (batch, batch_idx), a batch at a time")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not isinstance(trainer.train_dataloader, _Drawn) or trainer.train_dataloader.callback is not self:
            raise SiftError("the training loader is not drawn; give fit() what drawing.wrap(loader) returns")
        whole, accumulated, epochs = length(self.sampler.plan), trainer.accumulate_grad_batches, trainer.max_epochs
        limits = [epochs * -(-whole // accumulated)] if epochs not in (None, -1) else []
        limits += [trainer.max_steps] if trainer.max_steps != -1 else []
        if limits:
            covers(self.sampler.plan, whole, accumulated, min(limits))

    def state_dict(self) -> dict[str, Any]:
        return dict(self.sampler.state_dict() if self._saved is None else self._saved)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._saved = state_dict

    # Called by the wrapped loader.

    def _begin(self, fed: Fed) -> None:
        """An epoch begins, or what is left of it."""
        if self._saved is not None:
            self.sampler.load_state_dict(self._saved)
        self._saved, self._fed = None, fed


class _Drawn(Fed):
    """What Lightning iterates over; no DataLoader, so that it puts no sampler of its own into it."""

    def __init__(self, loader: DataLoader[Any], callback: DrawingCallback):
        super().__init__(loader, callback.sampler)
        self.callback = callback

    def __iter__(self) -> Iterator[Any]:
        self.callback._begin(self)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Empty: the callback saves it."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        pass
