"""The loader: it reads a script's own loader, and yields full batches of the kept samples."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from puresift import keys, trees
from puresift.buffers import example
from puresift.distributed.lockstep import in_step
from puresift.distributed.ranks import rank_key
from puresift.integrations.smart_sifting.dataloader import formats, given, hosted, ruling
from puresift.integrations.smart_sifting.dataloader.guessing import Guessing
from puresift.integrations.smart_sifting.dataloader.logs import Lines
from puresift.integrations.smart_sifting.loss.abstract_sift_loss_module import provided
from puresift.integrations.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig, read
from puresift.records.meters import Meter
from puresift.scores.losses import batched
from puresift.scores.model import live
from puresift.sifters import sifter
from puresift.stream.padding import collated
from puresift.stream.shares import Shares
from puresift.stream.stream import Stream
from puresift.stream.stream import stream as started
from puresift.types import Batch, Info, Losses, Sifted, Sifter, SiftState

__all__ = ["SiftingDataloader"]


class SiftingDataloader(given.Facade, Iterable[Any]):
    """Batches of the samples that a relative, loss-based rule keeps from another loader.

    Every batch of that loader is scored with the newest model and drawn from; kept samples accumulate until a batch is
    full. Samples left over wait for the next epoch; an epoch that kept less than a batch in all yields a short
    one. There is no length. Samples whose loss is not finite are kept. Draws follow `torch.manual_seed`, and
    differ between the ranks of a process group, which all end an epoch when the first one does.

    Entries of dict batches that tokenizers make (input_ids, labels and so on) may have another length in each batch;
    rows then leave cut to the longest of their batch. Entries of the whole batch, such as None or a flag, leave as they
    were in the newest batch read.

    Inside a Lightning trainer, the wrapped loader gets the distributed sampler that the trainer would have given it.

    Args:
        sift_config: a `RelativeProbabilisticSiftConfig`, or a dict of its keys.
        orig_dataloader: any loader; its batches are lists, tuples, dicts or tensors, unless there is a transform.
        batch_transforms: a `SiftingBatchTransform`, for batches of another kind.
        model: the model that trains; its train mode, buffers and gradients are unchanged.
        loss_impl: an object with a `loss`, see `Loss`.
        log_batch_data: log at level INFO each sample of each batch that is read, its loss and whether it was kept.
        batch_format_index: which dimension of a batch holds the samples: 0 for a list of samples, 1 for a list of
            features. Needed only where both have the same size.

    Attributes: `state`, the newest `SiftState` (None before the first batch); `meter`, a `ps.Meter` of what was kept.

    Raises:
        SiftConfigValidationException, LossImplementationNotProvidedException: at construction.
        UnsupportedDataFormatException: at the first batch that has no rows to tell apart or to accumulate.
        SiftError: at the first batch that is scored, when the loss is not one number per row.

    Warns:
        UserWarning: once, where the model still guesses while samples are ranked, and `gate` is off; once, where far
            less or more is kept than planned, and `hold` is off.

    Example:
        >>> class Squares:
        ...     def loss(self, model, transformed_batch, original_batch=None):
        ...         return model(original_batch).square().sum(1)
        >>> config = {"beta_value": 1, "loss_history_length": 8, "loss_based_sift_config": {"sift_config": {}}}
        >>> loader = SiftingDataloader(config, torch.zeros(8, 1).split(4), model=nn.Linear(1, 1), loss_impl=Squares())
        >>> [batch.shape for batch in loader]
        [torch.Size([4, 1]), torch.Size([4, 1])]
    """

    _sifter: Sifter  # these are made from the first batch
    _format: formats.Format
    _rows: int  # in a batch
    _stream: Stream

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
        given.check(model, orig_dataloader, batch_transforms, batch_format_index)
        assert model is not None
        self.model, self.orig_dataloader, self.batch_transforms = model, orig_dataloader, batch_transforms
        self.log_batch_data, self.batch_format_index = log_batch_data, batch_format_index
        self.state: SiftState | None = None
        self.meter = Meter()
        self.left: int | None = None  # batches that may still be read from the wrapped loader; None for any number
        self._ended = False
        self._seen: tuple[Any, Any] = (None, None)  # the batch being scored, transformed and original
        self._sizes: list[int] = []  # of the batches read since the last record
        self._ragged = collated(orig_dataloader)
        self._lines, self._guessing = Lines(log_batch_data), Guessing(self.sift_config.classes)
        self._shares = Shares(self.sift_config.keep, cure=ruling.HOLD)

    def __iter__(self) -> Iterator[Any]:
        self.orig_dataloader = hosted.prepared(self.orig_dataloader, self.model)
        most = hosted.limit(self.orig_dataloader, self.model, self.sift_config.keep)
        return iter(in_step(self._epoch(most), cure=ruling.RANKS))

    def _epoch(self, most: int | None) -> Iterator[Any]:
        pools, self._sizes = self._pools(most), []
        first = next(pools, None)
        if first is None:
            return
        start = self._sifter.init(self._key(), first) if self.state is None else self._delayed(self.state)
        read = self._fitting(chain([first], pools))
        stream = started(self._sifter, start, live(self.model), read, skip=0, ahead=False)
        self._stream, stream.shares = stream, self._shares
        self.state, any_given = start, False
        begun = time.perf_counter()
        while (sifted := self._next(stream, any_given)) is not None:
            self.state, any_given = sifted.state, True
            yield self._ready(sifted.batch, len(sifted.weights), sifted.info, begun)
            begun = time.perf_counter()
        self.state = stream.state
        if not any_given and int(self.state.buffer.fill[0]):
            self.state, ((rows, weights), *_) = self._sifter.flush(self.state)
            yield self._ready(rows, len(weights), stream.info, begun)
        else:
            self._lines.pools(stream.info, self._record(stream.info))

    def _ready(self, rows: Batch, size: int, info: Info, begun: float) -> Any:
        """Rows as a batch, logged."""
        with self._lines.timed("reverse_transform"):
            batch = self._format.batch(rows)
        self._lines.batch(size, info, self._record(info), time.perf_counter() - begun)
        return batch

    def _pools(self, most: int | None) -> Iterator[Batch]:
        """The batches as trees of rows; each is scored right after it is read, while `_seen` holds its source."""
        self._ended = False
        if self.left is not None:
            most = self.left if most is None else min(most, self.left)
        for batch in islice(self.orig_dataloader, most):
            if self.left is not None:
                self.left -= 1
            if self.batch_transforms is not None:
                with self._lines.timed("transform"):
                    shown = self.batch_transforms.transform(batch)
            else:
                device = next(iter(live(self.model).values()), torch.empty(0)).device
                shown = batch = trees.to(batch, device)
            if self.state is None:
                self._format = self._formatted(shown)
            rows = self._format.rows(shown)
            if self.state is None:
                self._rows = trees.batch_size(rows)
                self._sifter = self._sifted()
            self._sizes.append(trees.batch_size(rows))
            self._seen = shown, batch
            yield rows
        self._ended = True

    def _fitting(self, pools: Iterator[Batch]) -> Iterator[Batch]:
        """The pools, if they fit into the buffer, which is made wider for longer rows."""
        for rows in pools:
            if self._ragged.wider(rows, example(self._stream.state.buffer)):
                self._sifter = self._sifted()
                self._stream.change(self._sifter, self._ragged.widened(self._stream.state))
            formats.fits(rows, self._stream.state.buffer, self._ragged.pads)
            yield rows

    def _formatted(self, first: Any) -> formats.Format:
        if self.batch_transforms is not None:
            return formats.transformed(self.batch_transforms, first)
        return formats.plain(first, self.batch_size, self.batch_format_index)

    def _sifted(self) -> Sifter:
        def loss(model: nn.Module, rows: Batch) -> Losses:
            with self._lines.timed("loss"):
                losses: Losses = self.loss_impl.loss(model, *self._seen)
            return losses.squeeze(1) if isinstance(losses, Tensor) and losses.shape[1:] == (1,) else losses

        rule, draw = ruling.ruled(self.sift_config, self._rows)
        settings = self._ragged.settings({})
        return sifter(batched(self.model, loss), rule, batch_size=self._rows, draw=draw, nonfinite="keep", **settings)

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

    def _record(self, info: Info) -> list[int]:
        """Count the pools of an info; returns their sizes."""
        self.meter.update(info)
        sizes, self._sizes = self._sizes, []
        if not self.sift_config.gate:
            for losses in info.losses.split(sizes):
                self._guessing.see(losses)
        return sizes

    @staticmethod
    def _key() -> Tensor:
        return rank_key(keys.key(torch.initial_seed() % 2**64))
