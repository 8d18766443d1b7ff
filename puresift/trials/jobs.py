"""The job that `advise` is asked about: what is given, checked, and left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from puresift import settings, trees
from puresift.data import positions
from puresift.data.generators import untouched
from puresift.data.pools import size
from puresift.errors import ArgumentError, SiftError
from puresift.scores.copies import unwrap
from puresift.scores.sharding import sharded
from puresift.types import Batch, Pad


class Job(NamedTuple):
    """The full run."""

    rows: int | None
    batch_size: int
    batches: int  # in a pass
    steps: int
    passes: float
    visits: float
    assumed: bool  # whether one pass was assumed


class Ragged(NamedTuple):
    """What is ragged in a batch, and how long its rows are."""

    pad: Mapping[str, Pad] | None
    length: Callable[[Batch], Tensor] | None
    code: str  # that says so


def sane(model: Any, loss: Any) -> None:
    """Refuse what cannot be advised.

    Raises:
        SiftError: the model is none, in eval mode or spread over ranks, or the loss is no function.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not callable(loss):
        raise ArgumentError(f"loss must be a function loss(model, batch), got {type(loss).__name__}")
    if sharded(unwrap(model)):
        raise SiftError("the model is spread over ranks; advise a run of one process, with a model that fits in one")
    if not unwrap(model).training:
        raise SiftError(
            "the model is in eval mode, and the pilot trains a copy of it as it is, without dropout and with frozen "
            "statistics; call model.train() first"
        )


@contextmanager
def as_it_was(loader: Any) -> Iterator[None]:
    """The generators, and the position of a loader that tells one, are put back."""
    told = positions.teller(loader)
    place = positions.position(loader) if told is not None else None
    with untouched(loader):
        try:
            yield
        finally:
            if told is not None:
                positions.put(loader, place)


def job(loader: Any, passes: float | None, steps: int | None, batch_size: int) -> Job:
    """The full run: how long it is, and how often samples come again.

    Raises:
        SiftError: the loader has no length, and none was told.
    """
    batches, assumed = size(loader), passes is None and steps is None
    passes = 1.0 if passes is None else passes
    if steps is not None:
        steps = settings.count("steps", steps)
    elif batches is None:
        raise SiftError("the loader has no length, so the length of the run is not known; pass steps=, its batches")
    dataset: Any = getattr(loader, "dataset", None)
    rows = size(dataset) if hasattr(dataset, "__getitem__") else None
    total = steps if steps is not None else max(round(passes * (batches or 0)), 1)
    if steps is not None and batches:
        passes = steps / batches
    visits = total * batch_size / rows if rows else passes
    return Job(rows, batch_size, batches or total, total, passes, visits, assumed)


def ragged(first: Batch, pad: Mapping[str, Pad] | None, length: Any) -> Ragged:
    """As given, or by an "attention_mask"."""
    leaves = dict(trees.named(first))
    mask = leaves.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        given = bool(pad) and length is not None
        return Ragged(pad, length, "# pad and length as they were given to ps.advise" if given else "")
    lines = []
    if pad is None:
        same = [name for name, leaf in leaves.items() if isinstance(leaf, Tensor) and leaf.shape == mask.shape]
        pad = {name: Pad(0, mask.shape[1]) for name in same}
        says = ", ".join(f'"{name}": ps.Pad(0, {mask.shape[1]})' for name in same)
        lines.append(f"pad = {{{says}}}  # the longest row may be longer")
    if length is None:
        length = _masked
        lines.append('length = lambda batch: batch["attention_mask"].sum(1)')
    return Ragged(pad, length, "\n".join(lines) or "# pad and length as they were given to ps.advise")


def _masked(batch: Any) -> Tensor:
    return batch["attention_mask"].sum(1)
