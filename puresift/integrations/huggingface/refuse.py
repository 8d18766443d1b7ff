"""What is refused before a Trainer is changed."""

from __future__ import annotations

from typing import Any

from puresift.errors import SiftError


def neither(rule: Any, prioritizer: Any) -> None:
    """Refuse both, and none."""
    if (rule is None) == (prioritizer is None):
        raise SiftError("pass either a rule, sift(trainer, rule), or a prioritizer, sift(trainer, prioritizer=...)")


def changed(trainer: Any, kind: type[Any], loss: Any) -> None:
    """Refuse a trainer whose own changes would be lost, or would lose ours."""
    if loss is None and type(trainer).compute_loss is not kind.compute_loss:
        raise SiftError(
            f"{type(trainer).__name__} overrides compute_loss, which gives one number per batch, and sifting needs "
            "one per row; pass it as loss(model, batch) -> Float[B]"
        )
    if replaced := sorted({"compute_loss", "get_train_dataloader", "train", "log"} & vars(trainer).keys()):
        raise SiftError(f"{', '.join(replaced)} was set on the trainer itself; define it in a subclass of Trainer")


def scoring(score: Any, batch_size: Any, governor: Any) -> None:
    """Refuse settings of a rule, for a prioritizer."""
    if any(setting is not None for setting in (score, batch_size, governor)):
        raise SiftError("score, batch_size and governor are for a rule; a prioritizer scores nothing: leave them out")
