"""States to flat dicts of tensors and back: what a checkpoint stores, with `weights_only=True` and per tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from puresift import listed, paths, tables, trees
from puresift.buffers import ring
from puresift.errors import SiftError
from puresift.prioritizers import PrioritizerState, TableState
from puresift.types import SiftState

VERSION = 1
_VERSION = "version"
_NUMBER = f":{trees.RowSerial.__name__}/number"  # ends the name of the numbers of rows that are trees of tensors
_ROWS = f":{trees.RowSerial.__name__}/rows"  # and this the name of the rows themselves
_REFUSED = (
    "the buffer holds rows with Python objects, which cannot be saved; keep them out of the batch, "
    "or carry an id tensor and look the objects up by it"
)
State = TypeVar("State", bound=SiftState | PrioritizerState | TableState)


def state_dict(state: SiftState | PrioritizerState | TableState) -> dict[str, Tensor]:
    """A flat `{path: tensor}` with a version; the paths name the kinds of rule and score.

    Save it with `torch.save` and load it with `weights_only=True`, or hand it to torch.distributed.checkpoint.

    Args:
        state: any `SiftState`, `PrioritizerState` or `TableState`.

    Returns:
        Detached tensors that share memory with the state.

    Raises:
        SiftError: the rows carry Python objects, which a file of tensors cannot hold; lists of one tree of tensors,
            numbers and words a row can be saved.

    Example:
        >>> import puresift as ps
        >>> state = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2).init(ps.key(0), torch.zeros(2))
        >>> list(state_dict(state))[:3]
        [':SiftState/score:Stateless', ':SiftState/rule:UniformState', ':SiftState/buffer:Buffer/rows']
    """
    if trees.serial(state, (trees.Serial,)):
        raise SiftError(_REFUSED)
    leaves = paths.flat(state)
    flat = {name: tensor.detach() for name, tensor in leaves.items()}
    for name, number in leaves.items():
        if isinstance(state, SiftState) and name.endswith(_NUMBER):
            flat |= _packed(name.removesuffix(_NUMBER) + _ROWS, number, state)
    return {**flat, _VERSION: torch.tensor(VERSION)}


def load_state_dict(template: State, flat: Mapping[str, Tensor]) -> State:
    """A new state with the values of `flat`, which must come from a sifter or prioritizer built the same way.

    Args:
        template: a state of it, such as `sifter.init(key, batch)` or `prioritizer.init(key)`; its values do not matter.
        flat: from `state_dict`.

    Returns:
        A state on the template's device; neither argument is changed.

    Raises:
        SiftError: version, kinds, sizes or shapes differ, or entries are missing.

    Example:
        >>> import puresift as ps
        >>> state = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2).init(ps.key(7), torch.zeros(2))
        >>> load_state_dict(state, state_dict(state)).key
        tensor([7, 0])
    """
    version = flat.get(_VERSION)
    if version is None or int(version) != VERSION:
        found = "none" if version is None else int(version)
        raise SiftError(f"this state has version {found}, and this puresift reads version {VERSION}; start a new run")
    built, kind, shape = _words(template)
    wanted = paths.flat(template)
    rows = {name: tensor for name, tensor in flat.items() if _ROWS in name}
    ours = {name: tensor for name, tensor in flat.items() if name != _VERSION and name not in rows}
    ours = tables.opened(wanted, ours)
    if wanted.keys() != ours.keys():  # the names may be those of before keys with a "/" were told from nested ones
        former = paths.former(template)
        if len(set(former)) == len(wanted) and set(former) == ours.keys():
            ours = {name: ours[old] for name, old in zip(wanted, former, strict=True)}
    if wanted.keys() != ours.keys():
        missing, extra = sorted(wanted.keys() - ours.keys()), sorted(ours.keys() - wanted.keys())
        raise SiftError(
            f"the state is of another kind: the {built} has {missing}, the saved state {extra}; "
            f"build the {built} with the same {kind} as when it was saved"
        )
    for name, tensor in wanted.items():
        if tensor.shape != ours[name].shape or tensor.dtype != ours[name].dtype:
            raise SiftError(
                f"{name} was saved as {ours[name].dtype}{list(ours[name].shape)} and is "
                f"{tensor.dtype}{list(tensor.shape)} in this {built}; build it with the same {shape} as when it was "
                "saved"
            )
    values = {name: ours[name].to(tensor.device, copy=True) for name, tensor in wanted.items()}
    state: State = paths.unflat(template, values)
    if isinstance(template, SiftState) and isinstance(state, SiftState):
        _same_batch_size(template, state)
        for name, number in paths.flat(state).items():
            if name.endswith(_NUMBER):
                _unpack(name.removesuffix(_NUMBER) + _ROWS, rows, number, state)
    return state


def _words(template: SiftState | PrioritizerState | TableState) -> tuple[str, str, str]:
    """What was built, and the settings that fix the kind and the shapes of its state."""
    if isinstance(template, SiftState):
        return "sifter", "score, rule and columns", "batch_size, pool, window, history and pad"
    if isinstance(template, TableState):
        return "table", "kind", "size"
    return "prioritizer", "rule", "size, batch_size, every, dtype and history"


def _same_batch_size(template: SiftState, state: SiftState) -> None:
    """Buffers of one shape may still differ in batch size; only a full buffer may have fewer rows due."""
    span = int(template.buffer.fill[1])
    held, due, _ = state.buffer.fill.tolist()
    if due > span or (due < span and held < due):
        raise SiftError(
            f"the state was saved with batches of {due} rows due, and this sifter's have {span}; "
            "build it with the same batch_size and window as when it was saved"
        )


def _packed(name: str, number: Tensor, state: SiftState) -> dict[str, Tensor]:
    """The rows held, in order: their tensors, and what joins them as the bytes of a text."""
    owned = number.__dict__.get("objects", {})
    held = [owned[key] for key in number[ring.held_slots(state.buffer)].tolist()]
    found: list[Tensor] = []
    text = json.dumps([_described(row, found) for row in held])
    tensors = {f"{name}/{place}": tensor.detach() for place, tensor in enumerate(found)}
    return {name: torch.tensor(list(text.encode()), dtype=torch.uint8), **tensors}


def _unpack(name: str, rows: Mapping[str, Tensor], number: Tensor, state: SiftState) -> None:
    """Let a loaded number tensor own the rows that were saved, under numbers of their own."""
    slots = ring.held_slots(state.buffer)
    saved = json.loads(bytes(rows[name].tolist())) if name in rows else []
    if len(saved) != len(slots):
        raise SiftError(f"{len(slots)} rows are held, and {len(saved)} were saved as {name}; start a new run")
    built = [_built(row, name, rows, number.device) for row in saved]
    numbers = listed.fresh(len(built))
    number[slots] = numbers.to(number.device)
    number.__dict__["objects"] = dict(zip(numbers.tolist(), built, strict=True))


def _described(value: Any, found: list[Tensor]) -> Any:
    """A value as a text can hold it, with its tensors counted and put aside."""
    if isinstance(value, Tensor):
        found.append(value)
        return {"tensor": len(found) - 1}
    if isinstance(value, Mapping):
        return {"dict": [[_described(part, found) for part in pair] for pair in value.items()]}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [_described(part, found) for part in value]}
    if isinstance(value, list):
        return {"list": [_described(part, found) for part in value]}
    if value is None or type(value) in (bool, int, float, str):
        return {"plain": value}
    raise SiftError(f"a row holds a {type(value).__name__}: {_REFUSED}")


def _built(value: Mapping[str, Any], name: str, rows: Mapping[str, Tensor], device: torch.device) -> Any:
    """The inverse of `_described`."""
    ((kind, content),) = value.items()
    if kind == "tensor":
        return rows[f"{name}/{content}"].to(device, copy=True)
    if kind == "plain":
        return content
    if kind == "dict":
        return {_built(key, name, rows, device): _built(part, name, rows, device) for key, part in content}
    built = [_built(part, name, rows, device) for part in content]
    return tuple(built) if kind == "tuple" else built
