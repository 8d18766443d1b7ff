"""The Hugging Face Trainer."""

from __future__ import annotations

import math
import sys
from typing import Any

from puresift.data.pools import size
from puresift.errors import SiftError
from puresift.integrations.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from puresift.integrations.smart_sifting.loss.abstract_sift_loss_module import provided
from puresift.integrations.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig, read

__all__ = ["enable_sifting"]


def enable_sifting(trainer: Any, sift_config: Any, loss: Any = None, set_epochs: bool = False) -> None:
    """Let a Trainer train on the batches of a `SiftingDataloader` around its own loader, with its own training loss.

    Args:
        trainer: a `transformers.Trainer` that has not begun to train.
        sift_config: a `RelativeProbabilisticSiftConfig`, or a dict of its keys.
        loss: an object with a `loss`, see `Loss`.
        set_epochs: train for `num_train_epochs` passes over the data, also one and a half, and ignore `max_steps`. It
            is set to the steps without sifting, which the learning-rate schedule follows; training stops before it is
            reached.

    Raises:
        SiftConfigValidationException, LossImplementationNotProvidedException: as `SiftingDataloader`.
        SiftError: neither `max_steps` nor `set_epochs` says when to stop, or a part of a loader without a length does.
    """
    config, loss, args = read("sift_config", sift_config, RelativeProbabilisticSiftConfig), provided(loss), trainer.args
    if args.max_steps <= 0 and not set_epochs:
        raise SiftError(
            "args.max_steps must be set to a positive value, as the number of sifted batches is not known ahead; "
            "or pass set_epochs=True to train for num_train_epochs"
        )
    inner, epochs = trainer.get_train_dataloader, float(args.num_train_epochs)
    stop = _stop_after(epochs) if set_epochs else None

    def sifted() -> SiftingDataloader:
        loader = inner()
        ours = SiftingDataloader(config, loader, model=trainer.model, loss_impl=loss)
        if stop is not None:
            stop.loader, steps = ours, size(loader)
            if steps is None and epochs != int(epochs):
                raise SiftError(
                    f"num_train_epochs={epochs:g} ends within a pass over a loader whose length is not known; pass a "
                    "whole number, or max_steps without set_epochs"
                )
            updates = sys.maxsize if steps is None else -(-steps // args.gradient_accumulation_steps) * epochs
            args.max_steps = math.ceil(updates)
        return ours

    trainer.get_train_dataloader = sifted
    args.ignore_data_skip = True  # positions count sifted batches, not the loader's
    if stop is not None:
        trainer.add_callback(stop)


def _stop_after(epochs: float) -> Any:
    from transformers import TrainerCallback

    class StopAfter(TrainerCallback):
        """The Trainer treats a loader without a length as one epoch of `max_steps` steps."""

        done = 0
        loader: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.done = int(state.epoch or 0)
            pools = size(self.loader.orig_dataloader)
            if pools is not None:
                self.loader.left = max(math.ceil(epochs * pools) - self.done * pools, 0)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.done += 1
            state.epoch = min(float(self.done), epochs)
            control.should_training_stop |= self.done >= epochs

    return StopAfter()
