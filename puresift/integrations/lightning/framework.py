"""The Lightning that is in use, and its callback's base class."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_OLDEST = (2, 5)


def _lightning() -> Any:
    """`lightning.pytorch` or `pytorch_lightning`: the one in use, else the one installed."""
    names = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    for name in names:
        try:
            family: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        _new_enough(name, family.__version__)
        return family
    raise ModuleNotFoundError('Lightning is not installed; pip install "puresift[lightning]"')


def _new_enough(name: str, version: str) -> None:
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ImportError(f'{name} {version} is too old, puresift needs {oldest}; pip install -U "puresift[lightning]"')


_Callback: Any = _lightning().Callback
