"""What a sifter on one rank must share with those on the others, in words that can be compared."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from puresift import trees
from puresift.buffers import example
from puresift.steps import Parts
from puresift.types import Rule, SiftState

_DEPTH = 6  # of rules in rules


def described(parts: Parts, state: SiftState) -> dict[str, str]:
    """The settings of a sifter and the form of its rows, by name."""
    rows = [(name, str(leaf.dtype), list(leaf.shape[1:])) for name, leaf in trees.named(example(state.buffer))]
    windows = parts.windows
    return {
        "rule": told(parts.rule.select),
        "draw": told(parts.draw),
        "score": "none" if parts.score is None else "some",
        "setting": f"columns {sorted(parts.columns)}, nonfinite={parts.nonfinite!r}, window={windows.batches}, "
        f"pad={dict(windows.pads)}, ranks={'global' if parts.shared else 'own'}",
        "batch_size": str(windows.batch_size),
        "form of rows": ", ".join(f"{name} {dtype}{shape}" for name, dtype, shape in rows),
    }


def told(value: Any, depth: int = _DEPTH) -> str:
    """A function by its name and what it holds: numbers, words and functions, and the kinds of all else."""
    if isinstance(value, bool | int | float | str) or value is None:
        return repr(value)
    if isinstance(value, Tensor):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Rule):
        return told(value.select, depth)
    if isinstance(value, list | tuple) and depth:
        return f"({', '.join(told(item, depth - 1) for item in value)})"
    if not hasattr(value, "__qualname__"):
        return type(value).__name__
    if not depth:
        return value.__qualname__
    cells = zip(getattr(value, "__code__", _NONE).co_freevars, getattr(value, "__closure__", None) or (), strict=False)
    held = [f"{name}={told(_content(cell), depth - 1)}" for name, cell in cells]
    return f"{value.__qualname__.removesuffix('.<locals>.select')}({', '.join(held)})"


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


class _NONE:
    co_freevars = ()
