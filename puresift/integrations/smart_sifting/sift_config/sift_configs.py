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
        _whole("sift_delay", self.sift_delay, least=0)
        if not isinstance(self.repeat_delay_per_epoch, bool):
            raise SiftConfigValidationException(
                f"repeat_delay_per_epoch must be True or False, got {self.repeat_delay_per_epoch!r}"
            )


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
        object.__setattr__(self, "sift_config", read("sift_config", self.sift_config, SiftingBaseConfig))


@dataclass(frozen=True)
class RelativeProbabilisticSiftConfig:
    """Keep a sample with probability percentile(loss) ** beta_value: 1 / (1 + beta_value) of the data.

    Args:
        beta_value: > 0; larger keeps less.
        loss_history_length: losses to take the percentile over, >= 1. A batch longer than that is ranked among its
            own losses.
        loss_based_sift_config: a `LossConfig`, or a dict of its keys.

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

    def __post_init__(self) -> None:
        beta = self.beta_value
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < math.inf:
            raise SiftConfigValidationException(
                f"beta_value must be a positive number, got {beta!r}; 1 / (1 + beta_value) of the data is kept"
            )
        _whole("loss_history_length", self.loss_history_length, least=1)
        config = read("loss_based_sift_config", self.loss_based_sift_config, LossConfig)
        object.__setattr__(self, "loss_based_sift_config", config)


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


def _whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SiftConfigValidationException(f"{name} must be a whole number >= {least}, got {value!r}")
