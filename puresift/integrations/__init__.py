"""Integrations with training frameworks: each module, and its framework, is imported on first use."""

from __future__ import annotations

from importlib import import_module, util
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_") or util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"puresift.integrations has no {name!r}")
    return import_module(f"{__name__}.{name}")
