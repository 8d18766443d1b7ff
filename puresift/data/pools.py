"""Where pools come from: looking at the first, reading several epochs, finding the place of a saved state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from puresift import settings
from puresift.data.generators import parts, restore, restored, untouched
from puresift.errors import SiftError
from puresift.types import Batch


def peek(loader: Iterable[Batch]) -> Batch:
    """The first batch of a loader, with the global random generators and the samplers' own put back.

    Args:
        loader: an iterable that starts anew each time it is asked, such as a DataLoader.

    Returns:
        Its first batch.

    Raises:
        SiftError: the loader is empty, or is a one-shot iterator, whose first batch would be lost.

    Example:
        >>> peek([torch.zeros(2), torch.ones(2)])
        tensor([0., 0.])
    """
    with untouched(loader):
        try:
            return next(iter(_anew(loader)))
        except StopIteration:
            raise SiftError("the loader is empty: it gave no first batch") from None


class epochs(Iterable[Batch]):
    """Several epochs of a loader as one stream of pools; `set_epoch` is called where there is one.

    Args:
        loader: an iterable that starts anew each time it is asked.
        n: how many epochs.

    Raises:
        SiftError: n is out of range, or the loader is a one-shot iterator.

    Example:
        >>> [batch.tolist() for batch in epochs([torch.zeros(1), torch.ones(1)], 2)]
        [[0.0], [1.0], [0.0], [1.0]]
    """

    def __init__(self, loader: Iterable[Batch], n: int):
        self.loader, self.n = _anew(loader), settings.count("n", n)

    def __len__(self) -> int:
        return self.n * len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return read(self, 0)

    def after(self, skip: int) -> Iterator[Batch]:
        """The pools after the first `skip`: where a run that was broken off goes on."""
        return read(self, skip)


def read(loader: Iterable[Batch], skip: int) -> Iterator[Batch]:
    """The pools of a loader after the first `skip`; passing over them leaves the global generators alone."""
    if not isinstance(loader, epochs):
        yield from after(loader, skip)[0]
        return
    source = loader.loader
    for epoch in range(loader.n):
        set_epoch(source, epoch)
        length = size(source)  # samplers may make epochs of different lengths
        if length is not None and skip >= length:
            skip -= length
            continue
        pools, skip = after(source, skip)
        yield from pools


class Ahead(Iterator[Batch]):
    """An iterator whose next element can be fetched early, while a device is busy; an error waits for its turn."""

    def __init__(self, source: Iterator[Batch]):
        self._source = source
        self._fetched: list[tuple[Batch, Exception | None]] = []

    def fetch(self) -> None:
        """Ask the source for the next element now."""
        if not self._fetched:
            try:
                self._fetched.append((next(self._source), None))
            except Exception as error:
                self._fetched.append((None, error))

    def __next__(self) -> Batch:
        self.fetch()
        batch, error = self._fetched.pop()
        if error is not None:
            raise error
        return batch


def size(loader: Iterable[Batch]) -> int | None:
    """The loader's length; None where it has none, which a DataLoader over a stream only says when asked."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def after(loader: Iterable[Batch], skip: int, states: Sequence[Tensor] = ()) -> tuple[Iterator[Batch], int]:
    """An iterator after the first `skip` pools, and how many it was short of that.

    `states` are the `generator_states` when those pools were first read; without them the order must not depend on any.
    """
    restore(loader, states)
    if not skip:
        return begun(loader), 0
    end = object()
    with restored():
        if states:
            torch.set_rng_state(states[0].clone())  # which crashes on a view of a larger tensor
        pools = begun(loader)
        while skip and next(pools, end) is not end:
            skip -= 1
    return pools, skip


def begun(loader: Iterable[Batch]) -> Iterator[Batch]:
    """A pass that has started, which another `iter` does not start anew."""
    pools = iter(loader)
    return _steps(pools) if pools is loader else pools


def _steps(pools: Iterator[Batch]) -> Iterator[Batch]:
    end = object()
    while (batch := next(pools, end)) is not end:
        yield batch


def again(loader: Any) -> bool:
    """Whether `iter` starts it anew although it is its own iterator: so do the DataLoaders that Ray prepares."""
    return isinstance(loader, DataLoader)


def _anew(loader: Iterable[Batch]) -> Any:
    if iter(loader) is loader and not again(loader):
        raise SiftError(
            "this is a one-shot iterator: what is read from it is gone; pass an iterable that starts anew, "
            "such as the DataLoader or a list of batches"
        )
    return loader


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the epoch to whatever part of a loader asks for it: itself, its samplers, its dataset."""
    found = [*parts(loader), getattr(loader, "dataset", None)]
    for part in {id(part): part for part in found if hasattr(part, "set_epoch")}.values():
        part.set_epoch(epoch)
