"""The Lightning that is in use, and its callback's base class."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import Any

_OLDEST = (2, 5)
_TAKES_ANY = (2, 6)  # the first Trainer that takes a callback of the other package
_PACKAGES = {"lightning.pytorch": "lightning", "pytorch_lightning": "pytorch-lightning"}


def _lightnings() -> list[Any]:
    """`lightning.pytorch` or `pytorch_lightning`: the one in use, else the one installed; where it matters, both."""
    families: list[Any] = []
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        if families and _either_will_do():
            break
        try:
            family: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        _new_enough(name, family.__version__)
        families.append(family)
    if not families:
        raise ModuleNotFoundError('Lightning is not installed; pip install "puresift[lightning]"')
    return families


def _either_will_do() -> bool:
    """Whether each package takes the other's callbacks: 2.5 does not, and a script may import the other one later."""
    versions = []
    for package in _PACKAGES.values():
        try:
            versions.append(_release(metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return min(versions, default=_TAKES_ANY) >= _TAKES_ANY


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _new_enough(name: str, version: str) -> None:
    if _release(version) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ImportError(f'{name} {version} is too old, puresift needs {oldest}; pip install -U "puresift[lightning]"')


def _base() -> Any:
    first, *others = (family.Callback for family in _lightnings())
    return type("Callback", (first, *others), {}) if others else first


_Callback: Any = _base()
