"""Forward hooks, which scores leave out, since they belong to the training forward: that is said once of each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from puresift.errors import SiftError

_STILL = ("make_inputs_require_grads",)  # of transformers and PEFT under checkpointing: it changes no value
_CURE = "compute it in a module's forward instead, or remove it before sifting"


def judge(model: nn.Module, known: set[int]) -> None:
    """Warn of forward hooks, by the numbers of their handles, which are added to those `known`.

    Raises:
        SiftError: a hook computes a weight.
    """
    found = list(_hooks(model))
    fresh = [(owner, hook) for number, owner, hook in found if number not in known]
    known.update(number for number, _, _ in found)
    for owner, hook in fresh:
        if type(hook).__module__.startswith("torch.nn.utils."):
            raise SiftError(
                f"{owner} computes its weight in a hook ({type(hook).__name__}), which a pure score "
                "cannot see; use torch.nn.utils.parametrizations instead, or remove it before sifting"
            )
    if fresh:
        owner, hook = fresh[0]
        label = getattr(hook, "__qualname__", type(hook).__name__)
        more = f" and {len(fresh) - 1} more" if len(fresh) > 1 else ""
        warnings.warn(
            f"{owner} has a forward hook ({label}{more}), and scores leave hooks out; one that only looks on may stay, "
            f"but if it changes what passes, {_CURE}",
            stacklevel=5,
        )


def _hooks(model: nn.Module) -> Iterator[tuple[int, str, Any]]:
    for name, module in model.named_modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            found = ((number, name or "the model", hook) for number, hook in hooks.items())
            yield from (one for one in found if getattr(one[2], "__name__", "") not in _STILL)
