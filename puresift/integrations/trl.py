"""TRL's GRPOTrainer without the completions that have no gradient: the same update for less."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from puresift.errors import SiftError

if TYPE_CHECKING:
    from trl import GRPOTrainer

__all__ = ["sift"]

VERSION = "1.16"  # whose private _compute_loss this was written for and tested with
BY_ROWS = {"grpo", "sapo", "dr_grpo", "luspo"}  # losses that are divided by the rows of a micro-batch
BY_TOKENS = {"bnpo"}  # by its tokens
FIXED = {"dapo", "cispo", "vespo"}  # by the tokens of the generation batch, which TRL counts before


def sift(trainer: GRPOTrainer) -> GRPOTrainer:
    """Leave completions without a gradient out of the update: those of advantage 0, and those without a token.

    Where all of a group fail or all succeed, every advantage is 0, and forward and backward are spent for nothing. The
    rest goes through TRL's own loss, and what that is divided by stays as it was:

        grpo, sapo, dr_grpo, luspo:  loss of the rest * rows of the rest / rows
        bnpo:                        loss of the rest * tokens of the rest / tokens
        dapo, cispo, vespo:          loss of the rest, whose divisor is the generation batch's

    So the gradient is the plain trainer's up to the order of sums, with accumulated gradients, several iterations and
    clipped ratios too. Rollouts, rewards, seeds and checkpoints are untouched, and nothing is kept between steps. At
    least one row goes through the model, and on several ranks as many on each, so that none waits for another. Logs
    gain "sift/keep", the share of rows in the update; "entropy" and "clip_ratio/..." are means over these rows.

    A group's advantages are 0 exactly where the mean of equal rewards is that reward: for 0 and 1 always, for rewards
    such as 0.1 where the group has 2, 4, 8 or another power of 2 rollouts. Others stay in, and cost what they did.

    Args:
        trainer: a GRPOTrainer that has not begun to train. It is changed in place: its class gains a base class.

    Returns:
        The trainer.

    Raises:
        SiftError: the loss has a term that zero advantages do not silence (KL, entropy, a router's), or another cure
            is needed; the message names it. While training, if an advantage is NaN or infinite.

    Example:
        >>> sift(None)
        Traceback (most recent call last):
        puresift.errors.SiftError: sift takes a GRPOTrainer of TRL, got None; ...

    References:
        Qiying Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025.
    """
    kind = next((kind for kind in type(trainer).__mro__ if _own(kind)), None)  # whoever has one has imported TRL
    if kind is None:
        raise SiftError(
            f"sift takes a GRPOTrainer of TRL, got {trainer if trainer is None else type(trainer).__name__}; "
            "for a Trainer or an SFTTrainer there is puresift.integrations.huggingface.sift"
        )
    _check(trainer, kind)
    trainer.__class__ = type(f"Sifting{type(trainer).__name__}", (_Sifting, type(trainer)), {})
    return trainer


def _own(kind: type) -> bool:
    return kind.__name__ == "GRPOTrainer" and kind.__module__.partition(".")[0] == "trl"


class _Sifting:
    """What a sifting GRPOTrainer changes; comes before it among its bases."""

    def _compute_loss(self: Any, model: Any, inputs: dict[str, Any]) -> Tensor:
        if not self.model.training:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        alive, mask = _alive(inputs)
        rows = _together(self, alive)
        self._metrics["train"]["sift/keep"].append(len(rows) / len(alive))
        if len(rows) == len(alive):
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        loss = super()._compute_loss(model, _chosen(inputs, rows, len(alive)))  # type: ignore[misc]
        if self.loss_type in BY_TOKENS:
            return loss * (mask[rows].sum().clamp(min=1) / mask.sum().clamp(min=1))
        return loss * (len(rows) / len(alive)) if self.loss_type in BY_ROWS else loss


def _alive(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Bool[B], which rows may have a gradient; and the mask of their tokens, [B, T]."""
    advantages = inputs["advantages"]
    mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
    if not bool(advantages.isfinite().all()):
        raise SiftError(
            f"{int((~advantages.isfinite()).sum())} advantages of {advantages.numel()} are NaN or infinite; let the "
            "reward functions give finite numbers, or None for a completion that they cannot judge"
        )
    return (advantages != 0).view(len(mask), -1).any(1) & mask.bool().any(1), mask


def _together(trainer: Any, alive: Tensor) -> Tensor:
    """Int64[k], the rows that go through the model, in order: those alive, and others up to what another rank has."""
    count = alive.sum().clamp(min=1)
    if trainer.accelerator.num_processes > 1:
        count = trainer.accelerator.gather(count[None]).amax()
    return torch.argsort((~alive).to(torch.uint8), stable=True)[: int(count)].sort().values


def _chosen(inputs: dict[str, Any], rows: Tensor, size: int) -> dict[str, Any]:
    """These rows of what there is one of for each row; all else as it is."""
    return {
        name: leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == size else leaf
        for name, leaf in inputs.items()
    }


def _check(trainer: Any, kind: type[Any]) -> None:
    """Refuse a trainer whose update would be another one.

    Raises:
        SiftError: naming the cure.
    """
    if isinstance(trainer, _Sifting):
        raise SiftError("this trainer is sifted already")
    if not f"{version('trl')}.".startswith(f"{VERSION}."):
        raise SiftError(
            f"TRL {version('trl')} is installed, and its loss was not compared with the sifted one; this door knows "
            f"TRL {VERSION}: pip install 'trl=={VERSION}.*'"
        )
    for name in ("_compute_loss", "compute_loss"):
        if getattr(type(trainer), name) is not getattr(kind, name) or name in vars(trainer):
            raise SiftError(f"{type(trainer).__name__} overrides {name}, which may need all rows; sift a GRPOTrainer")
    for refused, words in _terms(trainer):
        if refused:
            raise SiftError(words)
    if trainer.loss_type not in BY_ROWS | BY_TOKENS | FIXED:
        known = ", ".join(sorted(BY_ROWS | BY_TOKENS | FIXED))
        raise SiftError(f"what loss_type={trainer.loss_type!r} is divided by is not known here; take one of {known}")


def _terms(trainer: Any) -> list[tuple[bool, str]]:
    args = trainer.args
    return [
        (
            trainer.beta != 0,
            f"with beta={trainer.beta} rows of advantage 0 have the gradient of the KL term, so that none can be left "
            "out; pass GRPOConfig(beta=0.0)",
        ),
        (
            trainer._entropy_bonus_enabled,
            "the entropy bonus has a gradient in rows of advantage 0 too, so that none can be left out; pass "
            "GRPOConfig(entropy_coef=0.0, use_adaptive_entropy=False)",
        ),
        (
            trainer.top_entropy_quantile < 1,
            "top_entropy_quantile takes a quantile over the tokens of all rows, those of advantage 0 too; pass "
            "GRPOConfig(top_entropy_quantile=1.0)",
        ),
        (
            trainer.aux_loss_enabled,
            "the router's auxiliary loss has a gradient in rows of advantage 0 too; pass "
            "GRPOConfig(router_aux_loss_coef=0.0)",
        ),
        (
            args.multi_objective_aggregation == "normalize_then_sum",
            "multi_objective_aggregation='normalize_then_sum' subtracts the mean over all groups, so that no advantage "
            "is exactly 0; pass GRPOConfig(multi_objective_aggregation='sum_then_normalize')",
        ),
        (
            trainer._is_vlm,
            "the patches of all images of a batch come as one tensor, without a dimension of rows; sift a model "
            "of text",
        ),
    ]
