"""Rules by their factory's name and numbers, as a command line gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args, get_type_hints

from puresift.errors import SiftError
from puresift.types import Rule

_LARGEST = 2**24  # losses that a rule may remember: more than a replay would ever fill


def parse_rule(text: str) -> Rule:
    """A rule from its factory's name and number arguments, such as "relative:keep=0.5,history=1000".

    Raises:
        SiftError: naming the valid choices.
    """
    name, _, rest = text.partition(":")
    factories = _factories()
    if name not in factories:
        raise SiftError(f"there is no rule {name!r}; there are {', '.join(sorted(factories))}")
    known, hints = inspect.signature(factories[name]).parameters, get_type_hints(factories[name])
    given: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        setting, equals, value = part.partition("=")
        if not equals or setting not in known:
            raise SiftError(f"{name} has no setting {setting!r}; it has {', '.join(known)}, each as NAME=NUMBER")
        if setting in given:
            raise SiftError(f"{name}:{setting} is given twice; leave one out")
        given[setting] = _number(f"{name}:{setting}", value, whole=_mentions(hints.get(setting), int))
    if missing := [n for n, p in known.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD and n not in given]:
        raise SiftError(f"{name} needs {', '.join(missing)}, such as {name}:{missing[0]}=0.5")
    return factories[name](**given)


def _factories() -> dict[str, Callable[..., Rule]]:
    """The public factories that make a rule from numbers alone."""
    package = import_module("puresift")
    public = {name: getattr(package, name) for name in package.__all__}
    return {name: thing for name, thing in public.items() if inspect.isfunction(thing) and _makes_a_rule(thing)}


def _makes_a_rule(factory: Callable[..., Any]) -> bool:
    hints = get_type_hints(factory)
    return hints.pop("return", None) is Rule and not any(_mentions(hint, Rule) for hint in hints.values())


def _mentions(hint: Any, kind: type) -> bool:
    """Whether a type hint has `kind` in it, at any depth."""
    parts = hint if isinstance(hint, list) else get_args(hint)
    return hint is kind or any(_mentions(part, kind) for part in parts)


def _number(name: str, text: str, *, whole: bool) -> float:
    """A number; `whole` ones fix the size of a state, so that an absurd one would take all memory."""
    value: float
    try:
        value = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            raise SiftError(f"{name} must be a number, got {text!r}") from None
    if whole and value > _LARGEST:
        raise SiftError(f"{name} must be at most {_LARGEST:,} in a replay, got {text:.40}; lower it")
    try:
        return value if abs(value) < 2**53 else float(value)
    except OverflowError:  # more digits than a float has
        return float("inf") if value > 0 else float("-inf")
