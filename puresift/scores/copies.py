"""A model's tensors by name, where they are stored and which are tied, and an eval-mode copy that holds none."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from puresift.errors import SiftError

Place = tuple[dict[str, Any], str]  # a slot of a module, and the key in it

HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "_hooks" in name and isinstance(value, dict))

# A LightningModule's links to its trainer: not needed to score, and the optimizers hold twice the model's memory.
SURROUNDINGS = ("_trainer", "_fabric", "_fabric_optimizers")

_SLOTS = itemgetter("_parameters", "_buffers")


class Live(Mapping[str, Tensor]):
    """A model's parameters and buffers by name, read again at each use."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._walk: Walk | None = None

    def __call__(self) -> dict[str, Tensor]:
        model = unwrap(self.model)
        if self._walk is None or not self._walk.holds(model):
            self._walk = Walk(model)
        return self._walk.tensors()

    def __getitem__(self, name: str) -> Tensor:
        return self()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self())

    def __len__(self) -> int:
        return len(self())


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel and compile wrappers."""
    inner: Any = getattr(model, "_orig_mod", None)
    if type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
        inner = model.module
    return model if inner is None else unwrap(inner)


class Walk:
    """The modules of a model by name, which take longer to find than what they hold, and what they held last."""

    def __init__(self, model: nn.Module):
        named = list(model.named_modules())
        self.names, self.modules = [name for name, _ in named], [module for _, module in named]
        self.children = [dict(module._modules) for module in self.modules]
        plain = all(type(module).named_modules is nn.Module.named_modules for module in self.modules)
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in self.modules)
        self.model = model if plain and not scripted else None  # others are walked each time
        self.spaces = [] if self.model is None else [vars(module) for module in self.modules]
        self.last: tuple[list[int], list[str], list[Any]] = ([], [], [])
        self.found: dict[str, Tensor] = {}

    def holds(self, model: nn.Module) -> bool:
        """Whether it is the walk of this model, and none of its modules was added, removed or replaced."""
        return self.model is model and [space["_modules"] for space in self.spaces] == self.children

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, as `named_parameters` and `named_buffers` give them, together."""
        if self.model is None:
            slots = [held for module in self.modules for held in (module._parameters, module._buffers)]
            return dict(self._named(slots))
        slots = [*chain.from_iterable(map(_SLOTS, self.spaces))]  # attributes of modules take twice as long to read
        some = [*filter(None, slots)]
        sizes, keys = [*map(len, slots)], [*chain.from_iterable(some)]
        values = [*chain.from_iterable([held.values() for held in some])]
        if sizes != self.last[0] or keys != self.last[1] or not all(map(is_, values, self.last[2])):
            self.last, self.found = (sizes, keys, values), dict(self._named(slots))
        return self.found.copy()

    def _named(self, slots: list[Any]) -> Iterator[tuple[str, Tensor]]:
        """Each tensor once, by its first name."""
        seen: set[int] = set()
        for number, held in enumerate(slots):
            name = self.names[number // 2]
            for key, tensor in held.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{name}.{key}" if name else key, tensor


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return Walk(model).tensors()


def places(model: nn.Module) -> dict[str, list[Place]]:
    """Where each name's tensor is stored: its own slot, and those of tied tensors."""
    held: dict[int, list[Place]] = {}
    names: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for slots in (module._parameters, module._buffers):
            for key, tensor in slots.items():
                if tensor is not None:
                    names[f"{prefix}.{key}" if prefix else key] = id(tensor)
                    found = held.setdefault(id(tensor), [])
                    if not any(slots is other and key == name for other, name in found):
                        found.append((slots, key))
    return {name: held[identity] for name, identity in names.items()}


def ties(slots: dict[str, list[Place]]) -> list[list[str]]:
    """The names that share one tensor, where several do."""
    groups: dict[int, list[str]] = {}
    for name, found in slots.items():
        groups.setdefault(id(found), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def copied(model: nn.Module, *, again: bool = False) -> nn.Module:
    """A deep copy without tensors or hooks: ties are kept and no memory is used.

    Made `again`, once training has begun, it takes over the values of tensors that a forward has set, with a graph.
    """
    memo: dict[int, Any] = {}
    for tensor in tensors(model).values():
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, False) if isinstance(tensor, nn.Parameter) else meta
    for module in model.modules():
        memo |= {id(getattr(module, hooks)): type(getattr(module, hooks))() for hooks in HOOKS}
        memo |= {id(vars(module)[name]): None for name in SURROUNDINGS if vars(module).get(name) is not None}
        if again:
            held = [value for value in vars(module).values() if isinstance(value, Tensor) and value.grad_fn is not None]
            memo |= {id(value): value.detach() for value in held}
    try:
        return copy.deepcopy(model, memo).eval()
    except RuntimeError as error:
        raise SiftError(
            f"the model cannot be copied for scoring ({error}); a module that caches a computed tensor is the usual "
            "cause: clear the cache before sifting, or compute it in forward"
        ) from error
