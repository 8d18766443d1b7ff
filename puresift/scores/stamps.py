"""Stamps: whether a value has changed since it was stamped, told on the host and without reading a tensor."""

from __future__ import annotations

import enum
import types
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Stamp = Any  # compared by ==; None for what holds too much to be stamped

# Values that never change and are their own copies.
PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), range, slice, type, enum.Enum),
    *(types.FunctionType, types.BuiltinFunctionType, torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_WHOLE = (*PLAIN, Tensor)  # not looked into
_MANY, _DEEP = 1024, 8  # values in a container, and levels of it: larger ones are records or vocabularies, no settings
_HEAVY = 2**28  # bytes of tensors: more is data, no setting


class Same:
    """Equal to the stamp of the very same object."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value


class Stamped:
    """A value with its stamp. Whether it has changed is told by the objects it holds or, if need be, by a new stamp."""

    def __init__(self, value: Any):
        self.value, self.stamp = value, stamp(value)
        parts = [] if self.stamp is None else list(_walk(value))
        readers = [(part, None if isinstance(part, _WHOLE) or _array(part) else _reader(part)) for part in parts]
        self._held = [(part, type(part), read, read(part)) for part, read in readers if read is not None]
        self._written = [(part, _mark(part)) for part in parts if isinstance(part, Tensor) or _array(part)]

    def changed(self) -> bool:
        """Whether the value, or something in it, is another one now."""
        for part, kind, read, held in self._held:
            now = read(part)
            if len(now) != len(held) or not all(map(is_, now, held)) or type(part) is not kind:
                return bool(stamp(self.value) != self.stamp)
        # Most have none, and to begin a generator takes longer than to ask.
        return bool(self._written) and any(_mark(part) != before for part, before in self._written)


def constant(value: Any) -> bool:
    """Whether a value never changes: a number, a name, or a tuple of such."""
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(constant, value)))


def version(value: Tensor) -> int:
    """A tensor's version counter, which goes up with each write in place; tensors of inference mode have none."""
    return 0 if value.is_inference() else value._version


def stamp(value: Any) -> Stamp:
    """A stamp of a value and of what it holds, or None where that is too much."""
    try:
        return [_mark(part) for part in _walk(value)]
    except OverflowError:
        return None


def copyable(value: Any, modules: dict[int, nn.Module]) -> bool | None:
    """Whether a value is plain throughout: numbers, names, tensors, what holds them; None if it holds other modules."""
    try:
        parts = list(_walk(value))
    except OverflowError:
        return False
    if any(isinstance(part, nn.Module) and id(part) not in modules for part in parts):
        return None
    heavy = sum(part.nbytes for part in parts if isinstance(part, Tensor)) > _HEAVY
    return not heavy and all(
        isinstance(part, (*PLAIN, Tensor, nn.Module)) or _array(part) or _parts(part) is not None for part in parts
    )


def trained(value: Any) -> bool:
    """Whether a value is or holds a parameter, a tensor with a graph or a hook's handle: training's, no setting."""
    try:
        parts = _walk(value)
        return any(
            isinstance(part, (nn.Parameter, RemovableHandle)) or (isinstance(part, Tensor) and part.grad_fn)
            for part in parts
        )
    except OverflowError:
        return False


def _walk(value: Any) -> Iterator[Any]:
    """The value and all that it holds, in order.

    Raises:
        OverflowError: it holds too much.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        yield value
        if isinstance(value, _WHOLE):
            continue
        parts = _parts(value) or ()
        count += len(parts)
        if count > _MANY or depth > _DEEP:
            raise OverflowError
        waiting += [(part, depth + 1) for part in parts]


def _parts(value: Any) -> list[Any] | None:
    """What a container or a plain object holds; None for others."""
    read = _reader(value)
    return None if read is None else read(value)


def _reader(value: Any) -> Callable[[Any], list[Any]] | None:
    """What gives the parts of such a container or object; None for what is not looked into."""
    if isinstance(value, (nn.Module, types.ModuleType)):
        return None
    if isinstance(value, types.MethodType):
        return lambda method: [method.__self__, method.__func__]
    if isinstance(value, partial):
        return lambda bound: [bound.func, *bound.args, *bound.keywords.values()]
    if isinstance(value, dict):
        return _entries
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list
    return _attributes if isinstance(getattr(value, "__dict__", None), dict) else None


def _entries(held: dict[Any, Any]) -> list[Any]:
    return [*held, *held.values()]


def _attributes(value: Any) -> list[Any]:
    return _entries(value.__dict__)


def _mark(part: Any) -> Any:
    if isinstance(part, PLAIN):  # first, as most are, and to ask for a parameter is slow
        return type(part), part
    if isinstance(part, nn.Parameter):  # training writes to it
        return Same(part)
    if isinstance(part, Tensor):
        return Same(part), version(part)
    if _array(part):
        return part.dtype.str, part.shape, part.tobytes()
    parts = _parts(part)
    return Same(part) if parts is None else (type(part), len(parts))


def _array(value: Any) -> bool:
    """A numpy array or number, of a few values."""
    return type(value).__module__ == "numpy" and hasattr(value, "tobytes") and value.nbytes <= 8 * _MANY
