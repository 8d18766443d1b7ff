"""Configurations: objects, or dicts with the same keys, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from puresift.integrations.smart_sifting.exceptions import SiftConfigValidationException

__all__ = ["LossConfig", "RelativeProbabilisticSiftConfig", "SiftConfigValidationException", "SiftingBaseConfig"]
Config = TypeVar("Config")


@dataclass(frozen=True)
class SiftingBaseConfig:
    """When sifting starts.

    Args:
        sift_delay: training steps before sifting starts, >= 0; their batches pass through unscored.
        repeat_delay_per_epoch: whether every epoch begins with such a delay.

    Raises:
        SiftConfigValidationException: a value is of the wrong type or out of range.

    Example:
        >>> SiftingBaseConfig(sift_delay=10)
        SiftingBaseConfig(sift_delay=10, repeat_delay_per_epoch=False)
    """

    sift_delay: int = 1000
    repeat_delay_per_epoch: bool = False

    def __post_init__(self) -> None:
        _set(self, "sift_delay", _whole("sift_delay", self.sift_delay, least=0))
        _set(self, "repeat_delay_per_epoch", _truth("repeat_delay_per_epoch", self.repeat_delay_per_epoch))


@dataclass(frozen=True)
class LossConfig:
    """The configuration of sifting by loss.

    Args:
        sift_config: a `SiftingBaseConfig`, or a dict of its keys.

    Raises:
        SiftConfigValidationException: it is neither.

    Example:
        >>> LossConfig({"sift_delay": 10}).sift_config.sift_delay
        10
    """

    sift_config: SiftingBaseConfig = field(default_factory=SiftingBaseConfig)

    def __post_init__(self) -> None:
        _set(self, "sift_config", read("sift_config", self.sift_config, SiftingBaseConfig))


@dataclass(frozen=True)
class RelativeProbabilisticSiftConfig:
    """Keep a sample with probability percentile(loss) ** beta_value: 1 / (1 + beta_value) of the data.

    Args:
        beta_value: > 0; larger keeps less.
        loss_history_length: losses to take the percentile over, >= 1. A batch longer than that is ranked among its
            own losses.
        loss_based_sift_config: a `LossConfig`, or a dict of its keys.
        gate: not in the published API: keep everything, scored, until the mean loss has fallen, as `ps.gate` does; a
            model that still guesses is the worse for being trained on its largest losses.
        classes: of a classifier whose losses are in nats, for the gate; without it the first scored batches tell what
            guessing costs.
        hold: not in the published API: keep the planned share of every batch, as `ps.hold` does, drawn by
            `ps.systematic`; ranks among older, larger losses keep less than planned while losses fall.

    Raises:
        SiftConfigValidationException: a value is of the wrong type or out of range.

    Example:
        >>> config = RelativeProbabilisticSiftConfig(0.5, 500, {"sift_config": {"sift_delay": 0}})
        >>> config.loss_based_sift_config.sift_config.sift_delay
        0
    """

    beta_value: float
    loss_history_length: int
    loss_based_sift_config: LossConfig = field(default_factory=LossConfig)
    gate: bool = False
    classes: int | None = None
    hold: bool = False

    def __post_init__(self) -> None:
        beta = _plain(self.beta_value)
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < math.inf:
            raise SiftConfigValidationException(
                f"beta_value must be a positive number, got {beta!r}; 1 / (1 + beta_value) of the data is kept"
            )
        _set(self, "beta_value", beta)
        _set(self, "loss_history_length", _whole("loss_history_length", self.loss_history_length, least=1))
        config = read("loss_based_sift_config", self.loss_based_sift_config, LossConfig)
        _set(self, "loss_based_sift_config", config)
        _set(self, "gate", _truth("gate", self.gate))
        _set(self, "hold", _truth("hold", self.hold))
        if self.classes is not None:
            _set(self, "classes", _whole("classes", self.classes, least=2))

    @property
    def keep(self) -> float:
        """The planned share of the data, 1 / (1 + beta_value)."""
        return 1 / (1 + self.beta_value)


def read(name: str, given: Any, kind: type[Config]) -> Config:
    """A configuration from itself, or from a dict of its keys.

    Raises:
        SiftConfigValidationException: it is neither, lacks a key, or has an unknown one.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise SiftConfigValidationException(
            f"{name} must be a {kind.__name__} or a dict of its keys, got {type(given).__name__}"
        )
    keys = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    known = ", ".join(keys)
    if unknown := [key for key in given if key not in keys]:
        raise SiftConfigValidationException(f"{name} has no key {unknown[0]!r}; a {kind.__name__} has {known}")
    needed = [key for key, each in keys.items() if each.default is MISSING and each.default_factory is MISSING]
    if missing := [key for key in needed if key not in given]:
        raise SiftConfigValidationException(f"{name} lacks the key {missing[0]!r}; a {kind.__name__} has {known}")
    return kind(**given)


def _whole(name: str, given: Any, *, least: int) -> int:
    value = _plain(given)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SiftConfigValidationException(f"{name} must be a whole number >= {least}, got {given!r}")
    return value


def _truth(name: str, given: Any) -> bool:
    value = _plain(given)
    if not isinstance(value, bool):
        raise SiftConfigValidationException(f"{name} must be True or False, got {given!r}")
    return value


def _plain(value: Any) -> Any:
    """A Python number for a scalar of numpy or torch; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _set(config: Any, name: str, value: Any) -> None:
    object.__setattr__(config, name, value)  # the configurations are frozen
