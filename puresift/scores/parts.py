"""What a score holds and calls: where the models that it runs are found."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

_MAKERS = [f"puresift.scores.{name}" for name in ("cheap", "combining", "compiling", "integers", "logits", "losses")]
_LONG = 64  # lists of more are data


def parts(score: Any) -> Iterator[Any]:
    """A score, and all that its functions hold and call, each once."""
    waiting, seen = [score], set()
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += _held(part)


def _held(part: Any) -> list[Any]:
    """What a callable or a list of them holds: where it may find a score."""
    if isinstance(part, types.FunctionType):
        empty = types.CellType()
        cells = [cell.cell_contents for cell in part.__closure__ or () if cell != empty]
        named = [part.__globals__.get(name) for name in part.__code__.co_names]
        ours = {part.__module__, *_MAKERS}  # to look into all that is named would lead through torch
        return cells + [value for value in named if getattr(value, "__module__", None) in ours]
    if isinstance(part, types.MethodType):
        return [part.__self__, part.__func__, *getattr(part.__self__, "__dict__", {}).values()]
    if isinstance(part, partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, tuple | list):
        return [*part] if len(part) < _LONG else []
    if callable(part) and not isinstance(part, (nn.Module, type)):
        return [*getattr(part, "__dict__", {}).values()]
    return []
