"""Settings, checked when a factory is called. A 0-d tensor passes unread, so that a setting can be vmapped."""

from __future__ import annotations

import math

from torch import Tensor

from puresift.errors import SiftError

Number = float | Tensor


def fraction(name: str, value: Number, *, cure: str = "") -> Number:
    """A number in (0, 1]."""
    return _within(name, value, "(0, 1]", lambda v: 0 < v <= 1, cure)


def nonnegative(name: str, value: Number, *, cure: str = "") -> Number:
    """A finite number >= 0."""
    return _within(name, value, "[0, inf)", lambda v: 0 <= v < math.inf, cure)


def positive(name: str, value: Number, *, cure: str = "") -> Number:
    """A finite number > 0."""
    return _within(name, value, "(0, inf)", lambda v: 0 < v < math.inf, cure)


def share(name: str, value: Number, *, cure: str = "") -> Number:
    """A number in [0, 1)."""
    return _within(name, value, "[0, 1)", lambda v: 0 <= v < 1, cure)


def level(name: str, value: Number, *, cure: str = "") -> Number:
    """A number in [0, 1]."""
    return _within(name, value, "[0, 1]", lambda v: 0 <= v <= 1, cure)


def finite(name: str, value: Number, *, cure: str = "") -> Number:
    """Any finite number."""
    return _within(name, value, "(-inf, inf)", lambda v: -math.inf < v < math.inf, cure)


def ordered(low: tuple[str, Number], high: tuple[str, Number]) -> None:
    """Two settings of which the first must lie below the second; tensors pass unread."""
    (low_name, least), (high_name, most) = low, high
    if not isinstance(least, Tensor) and not isinstance(most, Tensor) and not least < most:
        raise SiftError(f"{low_name} must lie below {high_name}, got {low_name}={least!r} and {high_name}={most!r}")


def count(name: str, value: int, *, least: int = 1) -> int:
    """A whole number that fixes a shape, so never a tensor."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SiftError(f"{name} must be a whole number >= {least}, got {value!r}")
    return value


def _within(name: str, value: Number, interval: str, holds: object, cure: str) -> Number:
    if isinstance(value, Tensor):
        if value.ndim or not value.is_floating_point():
            raise SiftError(f"{name} must be a number or a 0-d float tensor, got {value.dtype}{list(value.shape)}")
        return value
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not holds(value):  # type: ignore[operator]
        raise SiftError(f"{name} must be in {interval}, got {value!r}" + (f"; {cure}" if cure else ""))
    return value
