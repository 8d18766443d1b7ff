"""The loss that a Trainer's model is known to train with, one number a row: a classifier's, or a language model's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from puresift.errors import SiftError
from puresift.scores.copies import unwrap
from puresift.types import Batch, Losses

_IGNORED = -100  # the label of a token that has no loss
_KINDS = {"CAUSAL_LM": True, "MASKED_LM": False, "TOKEN_CLASSIFICATION": False}  # whether logits are of the next token


class Entropy:
    """The cross entropy of each row; of a language model, the mean over the tokens that have a label.

    As the Trainer averages over the tokens of a batch, not over its rows, `share` says how much of the batch a row is.
    """

    def __init__(self, trainer: Any):
        trainer._set_signature_columns_if_needed()
        named = inspect.signature(unwrap(trainer.model).forward).parameters  # TRL's columns are not all that it takes
        self._accepted = {*trainer._signature_columns, *named} - {"labels"}
        self._args = trainer.args

    def __call__(self, model: Any, batch: Batch) -> Losses:
        shift = shifted(model)
        inputs = {name: leaf for name, leaf in batch.items() if name in self._accepted}
        labels: Any = batch.get("labels")
        if shift is not None and fused(model) and isinstance(labels, Tensor):
            return self._fused(model, inputs, labels)
        outputs = model(**inputs)
        logits: Any = outputs.get("logits") if isinstance(outputs, Mapping) else None
        smoothing = self._args.label_smoothing_factor
        if shift is not None and _tokens(logits, labels):
            here, there = _aligned(logits, labels, shift)
            losses = cross_entropy(here.flatten(0, 1), there.flatten(), reduction="none", label_smoothing=smoothing)
            return _mean(losses.view(there.shape), there != _IGNORED)
        if shift is not None or not _rows(logits, labels):
            found = {"logits": logits, "labels": labels}
            shapes = {name: list(leaf.shape) if isinstance(leaf, Tensor) else None for name, leaf in found.items()}
            raise SiftError(
                f"the default loss is a classifier's, for logits [B, C] and integer labels [B], but found {shapes}"
                "; pass loss(model, batch) -> Float[B]"
            )
        return cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def tokens(self, model: Any, batch: Batch) -> Tensor | None:
        """Int64[B]: the tokens of each row that have a loss; None where rows count as one each."""
        shift, labels = shifted(model), batch.get("labels")
        if shift is None or not isinstance(labels, Tensor) or labels.ndim != 2:
            return None
        return (labels[:, int(shift) :] != _IGNORED).sum(1)

    def _fused(self, model: Any, inputs: Mapping[str, Any], labels: Tensor) -> Losses:
        """By TRL's head, which makes no logits; the plain forward of its models would run the live one, not a copy."""
        outputs = model(**inputs, labels=labels, fused_lm_head=True)
        losses: Tensor = -outputs.log_probs
        if getattr(self._args, "loss_type", "nll") == "dft":
            losses = losses * outputs.log_probs.detach().exp()
        return _mean(losses, outputs.label_mask)


def weighed(loss: Any, model: Any, batch: Batch, losses: Losses, mean: Tensor | None = None) -> Losses:
    """The losses of rows as the Trainer weighs them among each other: by their number of tokens, if it counts those.

    `mean` is how many tokens a batch has; by default, how many this one has.
    """
    tokens = loss.tokens(model, batch) if isinstance(loss, Entropy) else None
    if tokens is None:
        return losses
    return losses * (tokens * len(tokens) / (tokens.sum() if mean is None else mean).clamp(min=1)).to(losses.dtype)


def shifted(model: Any) -> bool | None:
    """Whether a language model's logits are those of the next token; None for other models."""
    known = _known()
    return next((known[kind.__name__] for kind in type(_base(model)).__mro__ if kind.__name__ in known), None)


def fused(model: Any) -> bool:
    """Whether TRL gave the model a head that scores labels without logits."""
    forward = vars(_base(model)).get("forward")
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    return code is not None and "fused_lm_head" in code.co_varnames


@cache
def _known() -> dict[str, bool]:
    """Whether logits are those of the next token, by the names of the language models of transformers.

    A class that is listed as two kinds, as XLM's, says nothing about its loss.
    """
    auto = import_module("transformers.models.auto.modeling_auto")
    found: dict[str, set[bool]] = {}
    for kind, shift in _KINDS.items():
        for names in getattr(auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").values():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(name, set()).add(shift)
    return {name: shifts.pop() for name, shifts in found.items() if len(shifts) == 1}


def _base(model: Any) -> Any:
    """The model itself, without wrappers and PEFT's."""
    inner: Any = unwrap(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def _rows(logits: Any, labels: Any) -> bool:
    """Whether they are a classifier's."""
    return (
        isinstance(logits, Tensor)
        and isinstance(labels, Tensor)
        and logits.shape[:-1] == labels.shape == (len(labels),)
        and logits.shape[-1] > 1
        and not labels.is_floating_point()
    )


def _tokens(logits: Any, labels: Any) -> bool:
    """Whether they are one a token."""
    both = isinstance(logits, Tensor) and isinstance(labels, Tensor)
    return both and logits.ndim == 3 and logits.shape[:2] == labels.shape and not labels.is_floating_point()


def _aligned(logits: Tensor, labels: Tensor, shift: bool) -> tuple[Tensor, Tensor]:
    """Logits, in float32 as the models' own losses take them, and the labels that they are to give."""
    return (logits[:, :-1].float(), labels[:, 1:]) if shift else (logits.float(), labels)


def _mean(losses: Tensor, counted: Tensor) -> Losses:
    """Float[B]: the mean over the tokens that count; 0 where none does."""
    return torch.where(counted, losses, 0.0).sum(1) / counted.sum(1).clamp(min=1)
