"""Python objects stored beside the rows of a buffer."""

from __future__ import annotations

from typing import Any

from puresift import trees
from puresift.buffers import ring
from puresift.trees import RowSerial, Serial
from puresift.types import Batch, Buffer

_KINDS = (Serial, RowSerial)


def carry(buffer: Buffer, old: Buffer, batch: Batch) -> None:
    """Let the serial numbers in a refilled buffer own the objects of the rows held: the old buffer's and the batch's.

    Objects then live as long as a state that holds them. Reads the numbers, so it synchronises; without objects it
    does nothing.
    """
    if not trees.serial(batch):
        return
    held = ring.held_slots(buffer)

    def one(fresh: Any, stale: Any, leaf: Any) -> None:
        if isinstance(fresh, _KINDS):
            known = {**_owned(stale), **dict(zip(leaf.numbers.tolist(), leaf, strict=True))}
            owned = {number: known[number] for number in fresh.number[held].tolist()}
            fresh.number.__dict__["objects"] = owned

    trees.map_leaves(one, ring.example(buffer), ring.example(old), batch, whole=_KINDS)


def resolved(batch: Batch, buffer: Buffer) -> Batch:
    """The batch with its serial numbers replaced by their objects, from the buffer it came from."""
    if not trees.serial(batch):
        return batch

    def one(leaf: Any, owner: Any) -> Any:
        return [_owned(owner)[number] for number in leaf.number.tolist()] if isinstance(leaf, _KINDS) else leaf

    return trees.map_leaves(one, batch, ring.example(buffer), whole=_KINDS)


def _owned(leaf: Serial | RowSerial) -> dict[int, Any]:
    return getattr(leaf.number, "objects", {})
