"""What a Lightning trainer would have done to the loader if it were not wrapped."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from puresift.data.pools import size


def prepared(loader: Any, model: nn.Module) -> Any:
    """The loader with the trainer's distributed sampler, where the model is a LightningModule that is being trained."""
    trainer = getattr(model, "_trainer", None)  # `model.trainer` raises outside of a trainer
    if trainer is None or not hasattr(trainer, "fit_loop"):
        return loader
    if isinstance(loader, DataLoader) and trainer.training:
        loader = trainer._data_connector._prepare_dataloader(loader, shuffle=True, mode=trainer.state.stage)
    _tell_steps(trainer, size(loader))
    return loader


def _tell_steps(trainer: Any, pools: int | None) -> None:
    """Give a schedule under construction the steps of the run without sifting.

    For a loader without a length, `estimated_stepping_batches` is `max_steps`, and so -1 where that is not set: a
    linear schedule is then zero from the first step on. Sifting never takes more steps than this many.
    """
    building = not trainer.optimizers  # without optimizers, only this estimate asks for the loader
    if pools is None or not building or trainer.max_steps != -1 or trainer.max_epochs in (None, -1):
        return
    if not trainer.lightning_module.automatic_optimization:  # where a batch may take several steps
        return
    steps = math.ceil(pools / trainer.accumulate_grad_batches) * trainer.max_epochs
    trainer.fit_loop.epoch_loop.max_steps = steps
    if trainer.is_global_zero:
        warnings.warn(
            f"trainer.estimated_stepping_batches is {steps}, the steps of a run without sifting; sifting takes fewer, "
            "so a schedule made from it stops before its end; pass max_steps= to the trainer to set another number",
            stacklevel=2,
        )
