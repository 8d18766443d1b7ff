"""What sifting cannot do inside of a Lightning Trainer, refused before the first batch."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from puresift.errors import SiftError
from puresift.integrations.lightning.checking import unknown
from puresift.listed import RowSerial

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


def setup(trainer: Any, pl_module: Any, sized: bool = False) -> None:
    """Refuse a setup in which batches cannot be sifted; `sized` says that a pass may have a length.

    Raises:
        SiftError: naming the cure.
    """
    strategy = type(trainer.strategy).__name__
    if strategy.startswith(_SHARDED):
        raise SiftError(f"{strategy} shards or moves the parameters, so a score cannot read them; use DDP")
    if trainer.overfit_batches:
        raise SiftError("overfit_batches repeats batches and sifting does not; give wrap() a loader of few rows")
    if trainer.world_size > 1 and not isinstance(trainer.limit_train_batches, int):
        raise SiftError(
            "ranks keep different numbers of rows, so an epoch has to be counted in batches for them to end it "
            "together; pass Trainer(limit_train_batches=n), with n an int"
        )
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise SiftError("training_step takes dataloader_iter; sifting hands out batches, so take (batch, batch_idx)")
    shares(trainer, sized)


def ragged(trainer: Any, pad: Any) -> None:
    """Refuse buffers whose widths differ between ranks: a checkpoint gathers them, and would wait for ever."""
    if isinstance(pad, str) and trainer.world_size > 1:
        raise SiftError(
            f"pad={pad!r} gives each rank rows of a length of its own, and ranks save theirs together; declare the "
            "lengths, pad={name: ps.Pad(value, length)}"
        )


def listed(flat: Any) -> None:
    """Refuse to save rows of different shapes where ranks save theirs together, as above."""
    if any(f":{RowSerial.__name__}/" in name for name in flat):
        raise SiftError(
            "rows that are dicts or lists of tensors have other shapes on each rank, and ranks save theirs together; "
            "pad them to tensors of one shape in the collate function, or train without checkpoints"
        )


def shares(trainer: Any, sized: bool = False) -> None:
    """Refuse shares of an epoch, whose number of sifted batches is not known ahead."""
    limit, interval = trainer.limit_train_batches, getattr(trainer, "val_check_interval", 1.0)
    if isinstance(limit, float) and limit < 1:
        raise SiftError(
            f"limit_train_batches={limit} is a share of an epoch, whose number of sifted batches is not known ahead; "
            "pass a number of sifted batches, Trainer(limit_train_batches=n), or wrap a loader of fewer rows"
        )
    if isinstance(interval, float) and interval < 1 and not (sized or isinstance(limit, int)):
        raise SiftError(unknown(interval))


def distributed(pools: Any) -> None:
    """Refuse a loader that gives every rank the same rows."""
    if isinstance(pools, torch.utils.data.DataLoader) and not isinstance(
        pools.dataset, torch.utils.data.IterableDataset
    ):
        samplers = (pools.sampler, getattr(pools.batch_sampler, "sampler", None))
        if not any(isinstance(sampler, torch.utils.data.DistributedSampler) for sampler in samplers):
            raise SiftError(
                "every rank would read the same rows, as Lightning cannot put a sampler into a sifted loader; "
                "give the DataLoader sampler=DistributedSampler(dataset)"
            )
