"""The loader: it reads a script's own loader, and yields full batches of the kept samples."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from puresift import keys, trees
from puresift.buffers import example
from puresift.distributed.lockstep import in_step
from puresift.distributed.ranks import rank_key
from puresift.integrations.smart_sifting.dataloader import formats, hosted
from puresift.integrations.smart_sifting.exceptions import SiftConfigValidationException, UnsupportedDataFormatException
from puresift.integrations.smart_sifting.loss.abstract_sift_loss_module import provided
from puresift.integrations.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig, read
from puresift.records.meters import Meter
from puresift.rules import delay, relative
from puresift.scores.losses import batched
from puresift.scores.model import live
from puresift.sifters import sifter
from puresift.stream.stream import Stream, sift
from puresift.types import Batch, Info, Losses, Sifted, Sifter, SiftState

__all__ = ["SiftingDataloader"]
logger = logging.getLogger("smart_sifting.dataloader.sift_dataloader")  # the name that scripts know


class SiftingDataloader(Iterable[Any]):
    """Batches of the samples that a relative, loss-based rule keeps from another loader.

    Every batch of that loader is scored with the newest model and drawn from; kept samples accumulate until a batch is
    full. Samples left over wait for the next epoch; an epoch that kept less than a batch in all yields a short
    one. There is no length. Samples whose loss is not finite are kept. Draws follow `torch.manual_seed`, and
    differ between the ranks of a process group, which all end an epoch when the first one does.

    Inside a Lightning trainer, the wrapped loader gets the distributed sampler that the trainer would have given it.

    Args:
        sift_config: a `RelativeProbabilisticSiftConfig`, or a dict of its keys.
        orig_dataloader: any loader; its batches are lists, tuples, dicts or tensors, unless there is a transform.
        batch_transforms: a `SiftingBatchTransform`, for batches of another kind.
        model: the model that trains; its train mode, buffers and gradients are unchanged.
        loss_impl: an object with a `loss`, see `Loss`.
        log_batch_data: log at level INFO, for each batch, the losses that were kept and those that were sifted out.
        batch_format_index: which dimension of a batch holds the samples: 0 for a list of samples, 1 for a list of
            features. Needed only where both have the same size.

    Attributes: `state`, the newest `SiftState` (None before the first batch); `meter`, a `ps.Meter` of what was kept.

    Raises:
        SiftConfigValidationException, LossImplementationNotProvidedException: at construction.
        UnsupportedDataFormatException: at the first batch that has no rows to tell apart or to accumulate.
        SiftError: at the first batch that is scored, when the loss is not one number per row.

    Example:
        >>> class Squares:
        ...     def loss(self, model, transformed_batch, original_batch=None):
        ...         return model(original_batch).square().sum(1)
        >>> config = {"beta_value": 1, "loss_history_length": 8, "loss_based_sift_config": {"sift_config": {}}}
        >>> loader = SiftingDataloader(config, torch.zeros(8, 1).split(4), model=nn.Linear(1, 1), loss_impl=Squares())
        >>> [batch.shape for batch in loader]
        [torch.Size([4, 1]), torch.Size([4, 1])]
    """

    _sifter: Sifter  # both made from the first batch
    _format: formats.Format

    def __init__(
        self,
        sift_config: RelativeProbabilisticSiftConfig | dict[str, Any],
        orig_dataloader: Iterable[Any],
        batch_transforms: Any = None,
        model: nn.Module | None = None,
        loss_impl: Any = None,
        log_batch_data: bool = False,
        batch_format_index: int | None = None,
    ):
        self.sift_config = read("sift_config", sift_config, RelativeProbabilisticSiftConfig)
        self.loss_impl = provided(loss_impl)
        if not isinstance(model, nn.Module):
            raise SiftConfigValidationException(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(orig_dataloader, Iterable):
            raise SiftConfigValidationException(
                f"orig_dataloader must be a loader, got {type(orig_dataloader).__name__}"
            )
        if batch_format_index not in (None, 0, 1):
            raise SiftConfigValidationException(f"batch_format_index must be 0 or 1, got {batch_format_index!r}")
        for name in ("transform", "reverse_transform") if batch_transforms is not None else ():
            if isinstance(batch_transforms, type) or not callable(getattr(batch_transforms, name, None)):
                raise SiftConfigValidationException(
                    f"batch_transforms must be an object with {name}(), got {batch_transforms!r}"
                )
        self.model, self.orig_dataloader, self.batch_transforms = model, orig_dataloader, batch_transforms
        self.log_batch_data, self.batch_format_index = log_batch_data, batch_format_index
        self.state: SiftState | None = None
        self.meter = Meter()
        self._ended = False
        self._seen: tuple[Any, Any] = (None, None)  # the batch being scored, transformed and original

    def __iter__(self) -> Iterator[Any]:
        return iter(in_step(self._epoch()))

    @property
    def batch_size(self) -> int | None:
        """Rows in a batch, where the wrapped loader says so."""
        batches = getattr(self.orig_dataloader, "batch_sampler", None)
        size = getattr(self.orig_dataloader, "batch_size", None) or getattr(batches, "batch_size", None)
        return size if isinstance(size, int) else None

    @property
    def sampler(self) -> Any:
        """The wrapped loader's, for trainers that tell it the epoch."""
        return getattr(self.orig_dataloader, "sampler", None)

    @property
    def batch_sampler(self) -> Any:
        """The wrapped loader's."""
        return getattr(self.orig_dataloader, "batch_sampler", None)

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the wrapped loader, if it has one."""
        if hasattr(self.orig_dataloader, "set_epoch"):
            self.orig_dataloader.set_epoch(epoch)

    def _epoch(self) -> Iterator[Any]:
        self.orig_dataloader = hosted.prepared(self.orig_dataloader, self.model)
        pools = self._pools()
        first = next(pools, None)
        if first is None:
            return
        start = self._sifter.init(self._key(), first) if self.state is None else self._delayed(self.state)
        stream = sift(self._sifter, start, live(self.model), chain([first], pools), skip=0, ahead=False)
        self.state, given = start, False
        while (sifted := self._next(stream, given)) is not None:
            self.state, given = sifted.state, True
            self._record(sifted.info)
            yield self._format.batch(sifted.batch)
        self.state = stream.state
        self._record(stream.info)
        if not given and int(self.state.buffer.fill[0]):
            self.state, ((rows, _), *_) = self._sifter.flush(self.state)
            yield self._format.batch(rows)

    def _pools(self) -> Iterator[Batch]:
        """The batches as trees of rows; each is scored right after it is read, while `_seen` holds its source."""
        self._ended = False
        for batch in self.orig_dataloader:
            if self.batch_transforms is not None:
                shown = self.batch_transforms.transform(batch)
            else:
                device = next(iter(live(self.model).values()), torch.empty(0)).device
                shown = batch = trees.to(batch, device)
            if self.state is None:
                self._format = self._formatted(shown)
            rows = self._format.rows(shown)
            if self.state is None:
                self._sifter = self._sifted(trees.batch_size(rows))
            else:
                self._fits(rows, self.state)
            self._seen = shown, batch
            yield rows
        self._ended = True

    def _formatted(self, first: Any) -> formats.Format:
        if self.batch_transforms is not None:
            return formats.transformed(self.batch_transforms, first)
        return formats.plain(first, self.batch_size, self.batch_format_index)

    def _sifted(self, batch_size: int) -> Sifter:
        def loss(model: nn.Module, rows: Batch) -> Losses:
            return self.loss_impl.loss(model, *self._seen)

        config = self.sift_config
        rule = relative(beta=config.beta_value, history=max(config.loss_history_length, batch_size))
        rule = delay(rule, steps=config.loss_based_sift_config.sift_config.sift_delay)
        return sifter(batched(self.model, loss), rule, batch_size=batch_size, nonfinite="keep")

    def _delayed(self, state: SiftState) -> SiftState:
        """The state at the start of a further epoch."""
        if not self.sift_config.loss_based_sift_config.sift_config.repeat_delay_per_epoch:
            return state
        return state._replace(rule=state.rule._replace(seen=torch.zeros_like(state.rule.seen)))

    def _next(self, stream: Stream, given: bool) -> Sifted | None:
        try:
            return next(stream, None)
        except ValueError:  # after the last pool, a stream raises this only if no batch was ever full
            if self._ended and not given:
                return None
            raise

    def _fits(self, rows: Batch, state: SiftState) -> None:
        try:
            trees.like(trees.numbered(rows), example(state.buffer))
        except ValueError as error:
            raise UnsupportedDataFormatException(
                f"{str(error).partition(';')[0]}; let the loader's collate function pad every batch to one shape, or "
                "pass batch_transforms= with a ListBatch, whose rows may be of any length"
            ) from error
        capacity = state.buffer.weights.shape[0] - 1
        if 2 * trees.batch_size(rows) > capacity:
            raise UnsupportedDataFormatException(
                f"a batch of {trees.batch_size(rows)} rows came after a first one of {capacity // 2}; let the loader "
                "give batches of one size"
            )

    def _record(self, info: Info) -> None:
        self.meter.update(info)
        if self.log_batch_data and len(info.losses):
            kept, sifted = info.losses[info.mask].tolist(), info.losses[~info.mask].tolist()
            logger.info(
                "kept %d of %d samples; losses kept: %s; losses sifted out: %s",
                len(kept),
                len(info.losses),
                [round(loss, 4) for loss in kept],
                [round(loss, 4) for loss in sifted],
            )

    @staticmethod
    def _key() -> Tensor:
        return rank_key(keys.key(torch.initial_seed() % 2**64))
