"""What is saved beside the Trainer's checkpoints, and when its epochs end."""

from __future__ import annotations

import os
from typing import Any

import torch

from puresift.integrations.huggingface.drawn import found
from puresift.integrations.huggingface.passes import file


class Saver:
    """Saves the state of what gives the batches with each checkpoint; a TrainerCallback gets it as a base."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found(kwargs["train_dataloader"], args, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_hyper_param_search:  # the search owns these folders, and trials are not resumed
            return
        folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        os.makedirs(folder, exist_ok=True)
        torch.save(self.state(kwargs["train_dataloader"]), os.path.join(folder, file(args)))

    def state(self, loader: Any) -> dict[str, Any]:
        return loader.batch_sampler.sampler.state_dict()


class Keeper(Saver):
    """Counts epochs by the candidates read."""

    _epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch = kwargs["train_dataloader"].epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        passes = kwargs["train_dataloader"]
        # For the Trainer all passes are one epoch, which never ends.
        state.epoch = passes.pools / passes.length if passes.length else state.global_step / state.max_steps
        if passes.epoch > self._epoch and state.global_step < state.max_steps:  # the Trainer itself handles the last
            self._epoch = passes.epoch
            control.should_log |= args.logging_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch" and args.eval_delay <= state.epoch
            control.should_save |= args.save_strategy == "epoch"

    def state(self, loader: Any) -> dict[str, Any]:
        return loader.loader.state_dict()
