"""Settings, checked when a factory is called, and given back as Python's numbers where they were numpy's.

A 0-d tensor passes unread, so that a setting can be vmapped.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

from torch import Tensor

from puresift.errors import ArgumentError, SiftError

Number = float | Tensor
Value = TypeVar("Value", bound=float | Tensor)


def fraction(name: str, value: Value, *, cure: str = "") -> Value:
    """A number in (0, 1]."""
    return _within(name, value, "(0, 1]", lambda v: 0 < v <= 1, cure)


def nonnegative(name: str, value: Value, *, cure: str = "") -> Value:
    """A finite number >= 0."""
    return _within(name, value, "[0, inf)", lambda v: 0 <= v < math.inf, cure)


def positive(name: str, value: Value, *, cure: str = "") -> Value:
    """A finite number > 0."""
    return _within(name, value, "(0, inf)", lambda v: 0 < v < math.inf, cure)


def share(name: str, value: Value, *, cure: str = "") -> Value:
    """A number in [0, 1)."""
    return _within(name, value, "[0, 1)", lambda v: 0 <= v < 1, cure)


def level(name: str, value: Value, *, cure: str = "") -> Value:
    """A number in [0, 1]."""
    return _within(name, value, "[0, 1]", lambda v: 0 <= v <= 1, cure)


def finite(name: str, value: Value, *, cure: str = "") -> Value:
    """Any finite number."""
    return _within(name, value, "(-inf, inf)", lambda v: -math.inf < v < math.inf, cure)


def ordered(low: tuple[str, Number], high: tuple[str, Number]) -> None:
    """Two settings of which the first must lie below the second; tensors pass unread."""
    (low_name, least), (high_name, most) = low, high
    if not isinstance(least, Tensor) and not isinstance(most, Tensor) and not least < most:
        raise SiftError(f"{low_name} must lie below {high_name}, got {low_name}={least!r} and {high_name}={most!r}")


def count(name: str, value: int, *, least: int = 1) -> int:
    """A whole number that fixes a shape, so never a tensor."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SiftError(f"{name} must be a whole number >= {least}, got {value!r}")
    return value


def called(kind: str, value: Any, member: str) -> None:
    """Refuse what is no rule, governor or the like: a factory that was not called, or a stand-in for one.

    Args:
        kind: what is wanted, in a word.
        value: what was given.
        member: an attribute that each of the kind has.

    Raises:
        SiftError: which is a TypeError too, naming the call that is missing.
    """
    if hasattr(value, member):
        return
    name = getattr(value, "__name__", None)
    if name and callable(value):
        call = f"ps.{name}" if str(value.__module__).startswith("puresift.") else name
        raise ArgumentError(f"the {kind} is the function {name} itself; call it, as in {call}(...)")
    example = {"rule": "ps.relative(keep=0.5)", "governor": "ps.governor()"}[kind]
    raise ArgumentError(f"the {kind} is {value!r}; pass one, such as {example}")


def plain(value: Any) -> Any:
    """A numpy scalar as Python's own number; anything else as it is."""
    scalar = not isinstance(value, Tensor) and getattr(value, "shape", None) == () and hasattr(value, "tolist")
    return value.tolist() if scalar else value


def _within(name: str, value: Value, interval: str, holds: object, cure: str) -> Value:
    value = plain(value)
    if isinstance(value, Tensor):
        if value.ndim or not value.is_floating_point():
            raise SiftError(f"{name} must be a number or a 0-d float tensor, got {value.dtype}{list(value.shape)}")
        return value
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not holds(value):  # type: ignore[operator]
        raise SiftError(f"{name} must be in {interval}, got {value!r}" + (f"; {cure}" if cure else ""))
    return value
