"""What a Lightning trainer would have done to the loader if it were not wrapped."""

from __future__ import annotations

import math
import warnings
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.data import DataLoader

from puresift.data.pools import size
from puresift.errors import SiftError

_shares: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # limit_train_batches, of each trainer that gave a share


def prepared(loader: Any, model: nn.Module) -> Any:
    """The loader with the trainer's distributed sampler, where the model is a LightningModule that is being trained."""
    trainer = _trainer(model)
    if trainer is None:
        return loader
    if isinstance(loader, DataLoader) and trainer.training:
        loader = trainer._data_connector._prepare_dataloader(loader, shuffle=True, mode=trainer.state.stage)
    _tell_steps(trainer, size(loader))
    return loader


def limit(loader: Any, model: nn.Module, keep: float) -> int | None:
    """How many batches of a prepared loader make an epoch, where the trainer takes a share of them; else None.

    Lightning takes shares only of loaders with a length, which a sifted one has not. So this takes over
    `limit_train_batches`, which then is 1.0, and makes `val_check_interval` a number of batches, of which the rule is
    expected to keep a share `keep`.

    Raises:
        SiftError: the loader has no length.
    """
    trainer = _trainer(model)
    if trainer is None or not trainer.training:
        return None
    pools, share, interval = size(loader), trainer.limit_train_batches, trainer.val_check_interval
    fractions = {"limit_train_batches": share, "val_check_interval": interval}
    for name, given in fractions.items():
        if pools is None and isinstance(given, float) and given < 1:
            raise SiftError(f"{name}={given} is a share of a loader without a length; pass a number of batches")
    if isinstance(share, float) and share < 1:
        _shares[trainer], trainer.limit_train_batches = share, 1.0
    if isinstance(share, int):
        _shares.pop(trainer, None)
    share = _shares.get(trainer, 1.0)
    if pools is not None and isinstance(interval, float) and interval < 1:
        trainer.val_check_interval = max(1, round(interval * share * keep * pools))
    return None if pools is None or share == 1 else max(1, int(share * pools))


def _trainer(model: nn.Module) -> Any:
    """Lightning's trainer, where the model is a LightningModule that has one."""
    trainer = getattr(model, "_trainer", None)  # `model.trainer` raises outside of a trainer
    return trainer if hasattr(trainer, "fit_loop") else None


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
