"""The model as a score sees it: its live tensors, its eval-mode copy, and the checks of its losses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from puresift.errors import SiftError
from puresift.types import Batch, Losses, Params


class Live(Mapping[str, Tensor]):
    """A model's parameters and buffers by name, read again at each use."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self) -> dict[str, Tensor]:
        return tensors(unwrap(self.model))

    def __getitem__(self, name: str) -> Tensor:
        return self()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self())

    def __len__(self) -> int:
        return len(self())


def live(model: nn.Module) -> Live:
    """The model's parameters and buffers, read again at each use, so that every score uses the newest ones.

    Args:
        model: any module; DDP and compile wrappers are removed.

    Returns:
        A mapping from names to tensors; calling it returns a plain dict.

    Example:
        >>> sorted(live(nn.Linear(1, 1)))
        ['bias', 'weight']
    """
    return Live(model)


_HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "_hooks" in name and isinstance(value, dict))

# A LightningModule's links to its trainer: not needed to score, and the optimizers hold twice the model's memory.
_SURROUNDINGS = ("_trainer", "_fabric", "_fabric_optimizers")


def per_row(losses: Losses, rows: int) -> Losses:
    """The losses, checked to be one floating-point number per row.

    Raises:
        SiftError: naming what was returned instead, and the fix.
    """
    if not isinstance(losses, Tensor):
        raise SiftError(f"the loss must be a tensor of {rows} numbers, got {type(losses).__name__}")
    if losses.ndim == 0:
        raise SiftError(
            f"the loss is already reduced to one number, but sifting needs one for each of the {rows} rows; "
            'pass reduction="none" and do not call .mean()'
        )
    if losses.shape != (rows,):
        raise SiftError(
            f"the loss must have shape [{rows}], one number a row, got {list(losses.shape)}; "
            "reduce every dimension but the first"
        )
    if not losses.is_floating_point():
        raise SiftError(f"the loss must be floating point, got {losses.dtype}; call .float()")
    return losses


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel and compile wrappers."""
    inner: Any = getattr(model, "_orig_mod", None)
    if type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
        inner = model.module
    return model if inner is None else unwrap(inner)


class Twin(nn.Module):
    """An eval-mode copy of a model on the meta device; its forward is `function(model, batch)`."""

    def __init__(self, model: nn.Module, function: Callable[[Any, Batch], Any]):
        super().__init__()
        self.model = _copy(unwrap(model)).eval()
        self.functions = (function,)  # a tuple, so that a loss which is itself a module is not registered as a part
        self.slots = _slots(self.model)
        self.names, self.needed = set(self.slots), set(tensors(self.model))

    def forward(self, batch: Batch) -> Any:
        return self.functions[0](self.model, batch)

    def check(self, params: Params) -> None:
        """Raise unless the parameters are exactly the model's."""
        if not self.needed <= params.keys() <= self.names:
            missing, unknown = sorted(self.needed - params.keys()), sorted(params.keys() - self.names)
            raise SiftError(
                f"params must be all parameters and buffers of the model: missing {missing}, unknown {unknown}; "
                "pass ps.live(model)"
            )

    def call(self, params: Params, batch: Batch) -> Any:
        """The function's result with these tensors in place of the model's."""
        self.check(params)
        if torch.compiler.is_compiling():
            tensors = {f"model.{name}": tensor for name, tensor in params.items()}
            return functional_call(self, tensors, (batch,), tie_weights=True)
        # As functional_call, but with slots looked up in advance: .04 ms instead of .64 ms for a hundred tensors.
        empty = [(slots, key, slots[key]) for places in self.slots.values() for slots, key in places]
        try:
            for name, tensor in params.items():
                for slots, key in self.slots[name]:
                    slots[key] = tensor
            return self(batch)
        finally:
            for slots, key, tensor in empty:
                slots[key] = tensor


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as `named_parameters` and `named_buffers` give them, in one walk, not two."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for slots in (module._parameters, module._buffers):
            for key, tensor in slots.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[f"{prefix}.{key}" if prefix else key] = tensor
    return found


def _slots(model: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Where each name's tensor is stored: its own slot, and those of tied tensors."""
    held: dict[int, list[tuple[dict[str, Any], str]]] = {}
    names: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for slots in (module._parameters, module._buffers):
            for key, tensor in slots.items():
                if tensor is not None:
                    names[f"{prefix}.{key}" if prefix else key] = id(tensor)
                    places = held.setdefault(id(tensor), [])
                    if not any(slots is other and key == name for other, name in places):
                        places.append((slots, key))
    return {name: held[identity] for name, identity in names.items()}


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy without tensors or hooks: ties are kept and no memory is used."""
    memo: dict[int, Any] = {}
    for tensor in tensors(model).values():
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, False) if isinstance(tensor, nn.Parameter) else meta
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                raise SiftError(
                    f"{name or 'the model'} computes its weight in a hook ({type(hook).__name__}), which a pure score "
                    "cannot see; use torch.nn.utils.parametrizations instead, or remove it before sifting"
                )
        memo |= {id(getattr(module, hooks)): type(getattr(module, hooks))() for hooks in _HOOKS}
        memo |= {id(vars(module)[name]): None for name in _SURROUNDINGS if vars(module).get(name) is not None}
    try:
        return copy.deepcopy(model, memo)
    except RuntimeError as error:
        raise SiftError(
            f"the model cannot be copied for scoring ({error}); a module that caches a computed tensor is the usual "
            "cause: clear the cache before sifting, or compute it in forward"
        ) from error
