"""Two trees bit for bit: what differs, in words, and whether anything was written to meanwhile."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from puresift import paths, trees
from puresift.checkpoint import load_state_dict, state_dict
from puresift.errors import SiftError


def flat(tree: Any) -> dict[str, Any]:
    """`{path: leaf}` with the types of NamedTuples in the paths; of anything but tensors, by its pytree."""
    try:
        return paths.flat(tree)
    except SiftError:
        return dict(trees.named(tree))


def layout(one: Any, other: Any) -> str:
    """How the leaves of two trees differ in names, shapes and dtypes; empty where they do not."""
    a, b = flat(one), flat(other)
    if a.keys() != b.keys():
        return f"only the first has {sorted(a.keys() - b.keys())}, only the second {sorted(b.keys() - a.keys())}"
    for name, leaf in a.items():
        if not _alike(leaf, b[name]):
            return f"{_named(name)} is {_kind(a[name])} in the first and {_kind(b[name])} in the second"
    return ""


def difference(one: Any, other: Any) -> str:
    """The first leaf in which two trees differ, and where; empty where they are the same bit for bit, NaN included."""
    if found := layout(one, other):
        return found
    b = flat(other)
    for name, leaf in flat(one).items():
        if not isinstance(leaf, Tensor):
            if leaf != b[name]:
                return f"{_named(name)} is {leaf!r} in the first and {b[name]!r} in the second"
        elif not same(leaf, b[name]):
            return f"{_named(name)} {_place(leaf, b[name].to(leaf.device))}"
    return ""


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape, one dtype and the same values, NaN equal to NaN."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one, other.to(one.device)) or not bool(_unequal(one, other.to(one.device)).any())


@contextmanager
def untouched(**inputs: Any) -> Iterator[None]:
    """No tensor of these trees is written to, by version and by bits, and no global generator moves.

    Raises:
        AssertionError: naming the tensor, or the generator.
    """
    leaves = [(f"{name}: {path or 'it'}", leaf) for name, tree in inputs.items() for path, leaf in flat(tree).items()]
    before = [(name, leaf, leaf.clone(), leaf._version) for name, leaf in leaves if isinstance(leaf, Tensor)]
    gradients, generators = torch.is_grad_enabled(), _generators()
    yield
    for name, leaf, kept, version in before:
        if not same(leaf, kept):
            raise AssertionError(f"an input tensor changed, {name} {_place(kept, leaf)}; work on a clone")
        if leaf._version != version:
            raise AssertionError(f"an input tensor was written to, {name}, if only with what it held; work on a clone")
    moved = [name for name, state in _generators().items() if generators.get(name, state) != state]
    if moved:
        raise AssertionError(
            f"the global RNG moved, that of {' and '.join(moved)}; draw from a ps.key, or score in eval mode"
        )
    if torch.is_grad_enabled() != gradients:
        torch.set_grad_enabled(gradients)
        raise AssertionError("the gradient mode changed; use `with torch.no_grad():` instead of torch.set_grad_enabled")


def _generators() -> dict[str, Any]:
    """The states of the global generators of torch, Python and numpy."""
    states: dict[str, Any] = {"torch": [torch.get_rng_state().numpy().tobytes()], "random": random.getstate()}
    if torch.cuda.is_initialized():
        states["torch"] += [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    if numpy := sys.modules.get("numpy"):
        kind, words, *rest = numpy.random.get_state()
        states["numpy"] = (kind, words.tobytes(), *rest)
    return states


def through_bytes(flat: Any) -> Any:
    """What a file gives back: saved by torch.save, and loaded with weights_only=True."""
    file = io.BytesIO()
    torch.save(flat, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_file(state: Any) -> Any:
    """A sifter's or a prioritizer's state, saved and loaded into one like it."""
    return load_state_dict(state, through_bytes(state_dict(state)))


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)


def _kind(leaf: Any) -> str:
    return (
        f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}"
        if isinstance(leaf, Tensor)
        else type(leaf).__name__
    )


def _named(name: str) -> str:
    return f"the leaf {name!r}" if name else "it"


def _unequal(one: Tensor, other: Tensor) -> Tensor:
    return (one != other) & ~((one != one) & (other != other))


def _place(one: Tensor, other: Tensor) -> str:
    places = _unequal(one, other).nonzero()
    where, count = tuple(places[0].tolist()), f"in {len(places)} of {one.numel()} places"
    return f"differs {count}, first at {list(where)}: {one[where].item()!r} and {other[where].item()!r}"
