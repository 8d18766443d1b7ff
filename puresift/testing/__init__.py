"""The laws of puresift's own tests, for a user's rules, scores and streams; only `strategies` needs Hypothesis."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from puresift.testing.purity import assert_pure
from puresift.testing.resuming import assert_resumes
from puresift.testing.ruling import assert_rule

__all__ = ["assert_pure", "assert_resumes", "assert_rule", "strategies"]


def __getattr__(name: str) -> ModuleType:
    if name != "strategies":
        raise AttributeError(f"puresift.testing has no {name!r}")
    return import_module("puresift.testing.strategies")
