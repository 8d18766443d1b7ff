"""Batches and states as trees of tensors with shared rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from puresift import listed
from puresift.errors import SiftError
from puresift.listed import Objects, Rows, RowSerial, Serial
from puresift.types import Batch, Pad

__all__ = ["Objects", "RowSerial", "Rows", "Serial"]


def plain(batch: Batch, first: Callable[[], Batch] | None = None) -> Batch:
    """The batch with every Mapping made a dict and every list of Python objects, or of one tree a row, made a leaf.

    Args:
        batch: any.
        first: gives the rows of a buffer, made from the first batch: lists are read as they were in it.

    Raises:
        SiftError: a leaf is neither such a list nor a dense tensor, whose rows can be indexed.
    """
    if not _flat(batch):  # else there is no list to read
        batch = listed.read(batch) if first is None else listed.read_as(batch, first())
    return _plain(batch)


def _plain(batch: Batch) -> Batch:
    if isinstance(batch, Objects):
        return batch
    if isinstance(batch, Tensor):
        return _dense(batch)
    if isinstance(batch, Mapping):
        return {key: _plain(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(_plain, batch))
    if isinstance(batch, list | tuple):
        if batch and not any(map(listed.tree, batch)):
            return Objects(batch)
        return type(batch)(map(_plain, batch))
    raise SiftError(
        f"a batch must be a tree of tensors with a shared leading dimension, got a {type(batch).__name__} in it; "
        "make it a tensor in the collate function, or a list with one object per row"
    )


def _dense(leaf: Tensor) -> Tensor:
    if leaf.is_nested:
        kind, cure = "nested", "make it torch.nested.to_padded_tensor(leaf, 0), and declare pad= for ragged rows"
    elif leaf.is_quantized:
        kind, cure = "quantized", "make it leaf.int_repr() or leaf.dequantize()"
    elif leaf.layout is not torch.strided:
        kind, cure = "sparse", "make it leaf.to_dense()"
    else:
        return leaf
    raise SiftError(f"a batch holds a {kind} tensor, whose rows cannot be kept; {cure} in the collate function")


def valued(batch: Batch) -> None:
    """Refuse a batch without values.

    Raises:
        SiftError: a leaf is on the meta device.
    """
    if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves(batch)):
        names = [name for name, leaf in named(batch) if isinstance(leaf, Tensor) and leaf.is_meta]
        raise SiftError(f"the leaves {names} are on the meta device, where tensors have no values; make them elsewhere")


def numbered(batch: Batch) -> Batch:
    """The batch with its `Objects` replaced by their serial numbers: tensors only."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Objects):
            return leaf
        return RowSerial(leaf.numbers) if isinstance(leaf, Rows) else Serial(leaf.numbers)

    return map_leaves(one, batch)


def serial(tree: Any, kinds: tuple[type, ...] = (Serial, RowSerial, Objects)) -> bool:
    """Whether the tree has Python objects, or the numbers of such."""
    is_serial = lambda node: isinstance(node, kinds)  # noqa: E731
    return not _flat(tree) and any(map(is_serial, pytree.tree_leaves(tree, is_leaf=is_serial)))


def map_leaves(
    function: Callable[..., Any], tree: Any, *rest: Any, whole: type | tuple[type, ...] | None = None
) -> Any:
    """`function` over the leaves of trees of one structure; nodes of the type `whole` in the first are leaves."""
    if _flat(tree) and all(type(other) is dict and other.keys() == tree.keys() for other in rest):
        return {name: function(leaf, *(other[name] for other in rest)) for name, leaf in tree.items()}
    return pytree.tree_map(function, tree, *rest, is_leaf=(lambda node: isinstance(node, whole)) if whole else None)


def leaves(tree: Any) -> list[Any]:
    """The leaves, in order."""
    return list(tree.values()) if _flat(tree) else pytree.tree_leaves(tree)


def _flat(tree: Any) -> bool:
    """Whether a tree is a dict of tensors, as most batches are: a fifth of the time to walk of what pytree takes."""
    return type(tree) is dict and all(type(leaf) is Tensor for leaf in tree.values())


def index(tree: Any, rows: Tensor | slice) -> Any:
    """Rows of every leaf: an Int64[n] gathers, a slice views."""
    if isinstance(rows, slice):
        return map_leaves(lambda leaf: type(leaf)(leaf[rows]) if isinstance(leaf, Objects) else leaf[rows], tree)

    def gather(leaf: Any) -> Any:
        if isinstance(leaf, Objects):
            return type(leaf)(leaf[row] for row in rows.tolist())
        return leaf.index_select(0, rows)

    return map_leaves(gather, tree)


def to(tree: Any, device: torch.device) -> Any:
    """Every tensor on `device`, those of `Rows` too; from pinned memory without waiting."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Rows):
            return listed.moved(leaf, device)
        if not isinstance(leaf, Tensor) or leaf.device == device:
            return leaf
        moved = leaf.to(device, non_blocking=True)
        moved.__dict__.update(leaf.__dict__)  # a Serial's objects
        return moved

    return map_leaves(move, tree)


def batch_size(batch: Batch) -> int:
    """The leading dimension that all leaves share.

    Raises:
        SiftError: there is no leaf, or the leaves disagree.
    """
    sizes = [
        len(leaf) if isinstance(leaf, Objects) else leaf.shape[0] if leaf.ndim else -1 for leaf in leaves(batch)
    ]  # compared, never hashed: hashing a symbolic size under compile would specialise it
    if not sizes:
        raise SiftError("the batch has no tensor in it")
    if sizes[0] < 0 or any(size != sizes[0] for size in sizes):
        shapes = ", ".join(f"{name} {_shape(leaf)}" for name, leaf in named(batch))
        raise SiftError(
            f"the leaves of a batch must share their leading dimension, got {shapes}; "
            "give every leaf one entry a row, and leave out what belongs to the whole batch"
        )
    return sizes[0]


def named(tree: Any) -> list[tuple[str, Any]]:
    """(name, leaf) pairs; a name joins keys, positions and field names with '/'."""
    if _flat(tree):
        return [(str(key) or "batch", leaf) for key, leaf in tree.items()]
    pairs, _ = pytree.tree_flatten_with_path(tree)
    return [(_joined(path) or "batch", leaf) for path, leaf in pairs]


def _joined(path: Any) -> str:
    return "/".join(_step(step) for step in path)


def like(batch: Batch, template: Batch) -> None:
    """Raise for a batch whose structure, trailing shapes or dtypes differ from the template's.

    Raises:
        SiftError: naming the leaf, both shapes and the fix.
    """
    if not _alike(batch, template):
        got, want = (f"{type(tree).__name__} of {[name for name, _ in named(tree)]}" for tree in (batch, template))
        raise SiftError(f"a batch must keep the structure of the first one, a {want}; this one is a {got}")
    for (name, leaf), first in zip(named(batch), leaves(template), strict=True):
        if leaf.dtype != first.dtype:
            raise SiftError(f"leaf {name!r} was {first.dtype} in the first batch and is {leaf.dtype} now; cast it")
        if leaf.shape[1:] != first.shape[1:]:
            cure = f"give ragged rows a final length with pad={{{name!r}: ps.Pad(value=0, length=...)}}"
            if leaf.ndim == first.ndim and leaf.shape[2:] != first.shape[2:]:  # not what pad= declares
                cure = "pad all batches to one shape in the collate function"
            raise SiftError(
                f"leaf {name!r} had rows of shape {list(first.shape[1:])} in the first batch and has "
                f"{list(leaf.shape[1:])} now; {cure}"
            )


def _alike(one: Any, other: Any) -> bool:
    """Whether two trees have the same structure."""
    if _flat(one) and _flat(other):
        return list(one) == list(other)
    return pytree.tree_structure(one) == pytree.tree_structure(other)


def pad(batch: Batch, pads: Mapping[str, Pad]) -> Batch:
    """Rows padded on the right to their declared length.

    Raises:
        SiftError: a row is longer than declared, or no leaf has the name.
    """
    if not pads:
        return batch
    done = set()

    def one(path: Any, leaf: Any) -> Any:
        name = _joined(path)
        if name not in pads:
            return leaf
        if name in done:
            raise SiftError(f"pad= names {name!r}, and two leaves of the batch have that name; rename one of them")
        done.add(name)
        value, length = pads[name]
        if leaf.ndim < 2 or leaf.shape[1] > length:
            raise SiftError(
                f"leaf {name!r} has shape {list(leaf.shape)}, but pad= declares rows of length {length}; "
                "truncate the rows or declare the longest length that occurs"
            )
        _holds(name, leaf.dtype, value)
        missing = length - leaf.shape[1]
        if not missing:
            return leaf
        return torch.cat([leaf, leaf.new_full((leaf.shape[0], missing, *leaf.shape[2:]), value)], 1)

    padded = pytree.tree_map_with_path(one, batch)
    if unknown := set(pads) - done:
        raise SiftError(f"pad= names {sorted(unknown)}, but the leaves are {[name for name, _ in named(batch)]}")
    return padded


def _holds(name: str, dtype: torch.dtype, value: float) -> None:
    """Refuse a padding value that a leaf's type would round or wrap to another one."""
    if dtype.is_floating_point or dtype.is_complex:
        return
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if not (low <= value <= high and value == int(value)):
        raise SiftError(
            f"leaf {name!r} is {dtype}, which cannot hold its padding value {value}; declare a whole number in "
            f"[{low}, {high}], or make the leaf float in the collate function"
        )


def trim(batch: Batch, pads: Mapping[str, Pad], width: int) -> Batch:
    """The padded leaves cut to `width`."""
    names = iter([name for name, _ in named(batch)])
    return map_leaves(lambda leaf: leaf[:, :width] if next(names) in pads else leaf, batch)


def _step(step: Any) -> str:
    for field in ("key", "idx", "name"):
        if hasattr(step, field):
            return str(getattr(step, field))
    return str(step)


def _shape(leaf: Any) -> list[int]:
    return [len(leaf)] if isinstance(leaf, Objects) else list(leaf.shape)


def unreadable(value: Tensor) -> bool:
    """Whether a value cannot be read now: under torch.compile, or batched by vmap."""
    if torch.compiler.is_compiling():
        return True
    try:
        bool(value)
    except RuntimeError:
        return True
    return False
