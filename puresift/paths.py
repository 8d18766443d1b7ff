"""A state as a flat dict of tensors by path, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from puresift.errors import SiftError


def flat(tree: Any, name: str = "") -> dict[str, Tensor]:
    """A flat `{path: tensor}`; NamedTuples add their type to the path, so that types can be compared.

    A "/" within a key is written "%2F", so that keys which hold the separator are told from nested ones.

    Raises:
        SiftError: a leaf is no tensor, or two leaves have one path.
    """
    pairs = _paths(tree, name)
    values = dict(pairs)
    if len(values) < len(pairs):
        paths = [path for path, _ in pairs]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise SiftError(f"two tensors of the state would both be named {twice[0]!r}; rename a key of the batch")
    return values


def former(tree: Any) -> list[str]:
    """The paths of `flat`, in its order, as they were before keys with a "/" were told from nested ones."""
    return [path for path, _ in _paths(tree, "", str)]


def _escaped(key: Any) -> str:
    return str(key).replace("/", "%2F")


def _paths(tree: Any, name: str, word: Callable[[Any], str] = _escaped) -> list[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        return [(name, tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        name = f"{name}:{type(tree).__name__}"
        if not tree._fields:
            return [(name, torch.empty(0))]
        pairs = [(f"{name}/{field}", value) for field, value in zip(tree._fields, tree, strict=True)]
    elif isinstance(tree, Mapping):
        pairs = [(f"{name}/{word(key)}", value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        pairs = [(f"{name}/{position}", value) for position, value in enumerate(tree)]
    else:
        raise SiftError(f"{name} is a {type(tree).__name__}; a state holds tensors only")
    return [pair for key, value in pairs for pair in _paths(value, key, word)]


def unflat(template: Any, values: Mapping[str, Tensor]) -> Any:
    """The inverse of `flat`, into the template's structure."""
    paths = iter(flat(template))

    def one(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return values[next(paths)]
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            if not tree._fields:
                next(paths)
            return type(tree)(*map(one, tree))
        if isinstance(tree, Mapping):
            return {key: one(value) for key, value in tree.items()}
        return type(tree)(map(one, tree))

    return one(template)
