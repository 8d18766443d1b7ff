"""What sifting cannot do inside of a Lightning Trainer, refused before the first batch."""

from __future__ import annotations

import inspect
from typing import Any

from puresift.data.sharing import shared_out
from puresift.errors import SiftError
from puresift.integrations.lightning.checking import unknown
from puresift.listed import RowSerial

_INSTEAD = (
    "use ModelParallelStrategy(data_parallel_size=n, tensor_parallel_size=1) and apply "
    "torch.distributed.fsdp.fully_shard in configure_model, or DDP"
)
_SHARDED = {
    "FSDPStrategy": "shards the parameters into flat ones, which cannot be scored",
    "DeepSpeedStrategy": "shards or moves the parameters inside of its engine, where a score cannot read them",
}
_TENSOR = (
    "ModelParallelStrategy splits the model over {size} ranks by tensor parallelism, whose ranks must all keep the "
    "same rows; pass ModelParallelStrategy(data_parallel_size={world}, tensor_parallel_size=1)"
)


def setup(trainer: Any, pl_module: Any, sized: bool = False) -> None:
    """Refuse a setup in which batches cannot be sifted; `sized` says that a pass may have a length.

    Raises:
        SiftError: naming the cure.
    """
    spread(trainer)
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


def spread(trainer: Any) -> None:
    """Refuse a strategy whose parameters cannot be scored; those of `fully_shard` can."""
    kinds = [kind.__name__ for kind in type(trainer.strategy).__mro__]
    for name in _SHARDED:
        if name in kinds:
            raise SiftError(f"{kinds[0]} {_SHARDED[name]}; {_INSTEAD}")
    if "ModelParallelStrategy" in kinds and (size := trainer.strategy.device_mesh["tensor_parallel"].size()) > 1:
        raise SiftError(_TENSOR.format(size=size, world=trainer.world_size))


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
    if shared_out(pools) is False:
        raise SiftError(
            "every rank would read the same rows, as Lightning cannot put a sampler into a sifted loader; "
            "give the DataLoader sampler=DistributedSampler(dataset)"
        )
