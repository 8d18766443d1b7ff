"""What sifting cannot do inside of a Lightning Trainer, refused before the first batch."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from puresift.errors import SiftError

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


def setup(trainer: Any, pl_module: Any) -> None:
    """Refuse a setup in which batches cannot be sifted.

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
    shares(trainer)


def ragged(trainer: Any, pad: Any) -> None:
    """Refuse buffers whose widths differ between ranks: a checkpoint gathers them, and would wait for ever."""
    if isinstance(pad, str) and trainer.world_size > 1:
        raise SiftError(
            f"pad={pad!r} gives each rank rows of a length of its own, and ranks save theirs together; declare the "
            "lengths, pad={name: ps.Pad(value, length)}"
        )


def shares(trainer: Any) -> None:
    """Refuse shares of an epoch, whose number of sifted batches is not known ahead."""
    limit, interval = trainer.limit_train_batches, getattr(trainer, "val_check_interval", 1.0)
    if isinstance(limit, float) and limit < 1:
        raise SiftError(
            f"limit_train_batches={limit} is a share of an epoch, whose number of sifted batches is not known ahead; "
            "pass a number of sifted batches, Trainer(limit_train_batches=n), or wrap a loader of fewer rows"
        )
    if isinstance(interval, float) and interval < 1:
        raise SiftError(
            f"val_check_interval={interval} is a share of an epoch, whose number of sifted batches is not known ahead; "
            "pass a number of sifted batches, Trainer(val_check_interval=n)"
        )


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
