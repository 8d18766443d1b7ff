"""What sifting requires of a Hugging Face Trainer, and the loss it then trains with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from puresift import sifters
from puresift.data.pools import size
from puresift.errors import SiftError
from puresift.integrations.huggingface import refuse
from puresift.integrations.huggingface.losses import Entropy
from puresift.stream.governors import Governor
from puresift.types import Batch, Losses, Rule, Score, ScoreFn

Loss = Callable[[Any, Batch], Losses]  # loss(model, batch) -> Float[B]


class Settings(NamedTuple):
    """How a trainer sifts."""

    rule: Rule
    loss: Loss
    score: ScoreFn | Score | None
    batch_size: int | None
    governor: Governor | None
    others: dict[str, Any]


def prepared(
    trainer: Any,
    rule: Rule,
    loss: Loss | None,
    score: ScoreFn | Score | None,
    batch_size: int | None,
    governor: Governor | None,
    settings: Mapping[str, Any],
) -> Settings:
    """The settings, checked against this trainer."""
    args, rows = trainer.args, trainer._train_batch_size if batch_size is None else batch_size
    checked = {name: value for name, value in settings.items() if (name, value) != ("pad", "auto")}
    sifters.sifter(score or (lambda params, batch: batch), rule, batch_size=rows, **checked)  # checks them
    per_sample = losses_of(trainer, loss)
    refuse.spread(trainer)
    if args.max_steps <= 0:
        raise SiftError(
            "max_steps must be set, because the number of batches in a sifted pass is not known ahead"
            + _suggestion(trainer, rule, rows)
        )
    return Settings(rule, per_sample, score, batch_size, governor, dict(settings))


def losses_of(trainer: Any, loss: Loss | None) -> Loss:
    """The per-sample loss that a trainer is to train with; by default that of its model."""
    if trainer.compute_loss_func is not None:
        raise SiftError(
            "compute_loss_func gives one number per batch, and sifting needs one per row; pass loss(model, batch) -> "
            "Float[B] instead"
        )
    if loss is not None and trainer.args.label_smoothing_factor:
        raise SiftError("label_smoothing_factor does not apply to a custom loss; smooth the labels in it instead")
    return loss or Entropy(trainer)


def _suggestion(trainer: Any, rule: Rule, rows: int) -> str:
    args = trainer.args
    candidates = args.num_train_epochs * (size(trainer.train_dataset) or 0)
    try:
        keep = float(rule.select(rule.init(), torch.arange(float(rows)))[1].probs.mean())
    except ValueError:  # the rule needs columns
        keep = 1.0
    steps = math.ceil(candidates * keep / (rows * args.gradient_accumulation_steps * args.world_size))
    return (
        f"; num_train_epochs={args.num_train_epochs:g} of these candidates, of which the rule starts by keeping "
        f"{keep:.0%}, make about {steps} steps: pass TrainingArguments(max_steps={steps})"
        if steps
        else "; pass TrainingArguments(max_steps=...)"
    )
