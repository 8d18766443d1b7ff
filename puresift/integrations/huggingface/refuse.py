"""What is refused before a Trainer is changed."""

from __future__ import annotations

from typing import Any

from puresift.errors import SiftError

_FSDP2 = 'fsdp="full_shard", fsdp_config={"fsdp_version": 2}'


def neither(rule: Any, prioritizer: Any) -> None:
    """Refuse both, and none."""
    if (rule is None) == (prioritizer is None):
        raise SiftError("pass either a rule, sift(trainer, rule), or a prioritizer, sift(trainer, prioritizer=...)")


def changed(trainer: Any, kind: type[Any], loss: Any) -> None:
    """Refuse a trainer whose own changes would be lost, or would lose ours."""
    if tuned(trainer):
        joined(trainer)
    elif loss is None and type(trainer).compute_loss is not kind.compute_loss:
        raise SiftError(
            f"{type(trainer).__name__} overrides compute_loss, which gives one number per batch, and sifting needs "
            "one per row; pass it as loss(model, batch) -> Float[B]"
        )
    if replaced := sorted({"compute_loss", "get_train_dataloader", "train", "log"} & vars(trainer).keys()):
        raise SiftError(f"{', '.join(replaced)} was set on the trainer itself; define it in a subclass of Trainer")


def spread(trainer: Any) -> None:
    """Refuse a trainer whose parameters cannot be scored, or whose ranks would not go together; FSDP2 is taken.

    Raises:
        SiftError: naming the cure.
    """
    if trainer.is_deepspeed_enabled:
        raise SiftError(
            "DeepSpeed keeps the parameters that scores need inside of its engine; shard them by FSDP2, "
            f"TrainingArguments({_FSDP2}), or use DDP"
        )
    if getattr(trainer, "is_fsdp_xla_enabled", False):
        raise SiftError("FSDP of XLA shards the parameters that scores need; use one device, or data parallelism")
    if not trainer.is_fsdp_enabled:
        return
    if getattr(trainer.accelerator.state.fsdp_plugin, "fsdp_version", 1) != 2:
        raise SiftError(
            "the first version of FSDP shards the parameters into flat ones, which cannot be scored; use the second, "
            f"TrainingArguments({_FSDP2}), or DDP"
        )
    for name in ("eval_strategy", "save_strategy", "logging_strategy"):
        if trainer.args.world_size > 1 and getattr(trainer.args, name).value == "epoch":
            raise SiftError(
                f"{name}='epoch' follows the candidates that each rank has read, and ranks end their passes at "
                f"different steps, while all of them at once evaluate, save and log; pass {name}='steps'"
            )


def tuned(trainer: Any) -> bool:
    """Whether it is TRL's SFTTrainer, or one with its loss: that of a causal model, which is known."""
    for kind in type(trainer).__mro__:
        if "compute_loss" in vars(kind):
            return kind.__name__ == "SFTTrainer" and kind.__module__.partition(".")[0] == "trl"
    return False


def joined(trainer: Any) -> None:
    """Refuse options of an SFTTrainer under which a batch has no rows, or a loss that is not one of rows.

    Raises:
        SiftError: naming the option and the cure.
    """
    args = trainer.args
    if getattr(trainer, "padding_free", False):
        packed = 'packing_strategy="wrapped"' if args.packing else "padding_free=False"
        raise SiftError(
            f"padding_free joins the rows of a batch into one, and so does packing_strategy={args.packing_strategy!r}; "
            f"sifting keeps or leaves out rows: pass SFTConfig({packed})"
        )
    if getattr(trainer, "_is_vision_dataset", False):
        raise SiftError(
            "the patches of all images of a batch come as one tensor, without a dimension of rows; sift a dataset of "
            "text, or a Trainer of your own with a collator that gives every row its images"
        )
    if getattr(trainer, "aux_loss_enabled", False):
        raise SiftError(
            "the router's auxiliary loss is one number a batch, and sifting needs one a row; pass "
            "SFTConfig(router_aux_loss_coef=0.0)"
        )
    if args.label_smoothing_factor:
        raise SiftError("SFTTrainer's label_smoothing_factor needs another forward than its loss; leave it out")


def scoring(score: Any, batch_size: Any, governor: Any) -> None:
    """Refuse settings of a rule, for a prioritizer."""
    if any(setting is not None for setting in (score, batch_size, governor)):
        raise SiftError("score, batch_size and governor are for a rule; a prioritizer scores nothing: leave them out")
