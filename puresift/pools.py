"""Where pools come from: looking at the first, reading several epochs, finding the place of a saved state."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from puresift import settings
from puresift.types import Batch


def peek(loader: Iterable[Batch]) -> Batch:
    """The first batch of a loader, with the global random generators and the samplers' own put back.

    Args:
        loader: an iterable that starts anew each time it is asked, such as a DataLoader.

    Returns:
        Its first batch.

    Raises:
        ValueError: the loader is empty, or is a one-shot iterator, whose first batch would be lost.

    Example:
        >>> peek([torch.zeros(2), torch.ones(2)])
        tensor([0., 0.])
    """
    with _untouched(loader):
        try:
            return next(iter(_again(loader)))
        except StopIteration:
            raise ValueError("the loader is empty: it gave no first batch") from None


class epochs(Iterable[Batch]):
    """Several epochs of a loader as one stream of pools; `set_epoch` is called where there is one.

    Args:
        loader: an iterable that starts anew each time it is asked.
        n: how many epochs.

    Raises:
        ValueError: n is out of range, or the loader is a one-shot iterator.

    Example:
        >>> [batch.tolist() for batch in epochs([torch.zeros(1), torch.ones(1)], 2)]
        [[0.0], [1.0], [0.0], [1.0]]
    """

    def __init__(self, loader: Iterable[Batch], n: int):
        self.loader, self.n = _again(loader), settings.count("n", n)

    def __len__(self) -> int:
        return self.n * len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return read(self, 0)


def read(loader: Iterable[Batch], skip: int) -> Iterator[Batch]:
    """The pools of a loader behind the first `skip`; passing over them leaves the global generators alone."""
    if not isinstance(loader, epochs):
        yield from behind(loader, skip)[0]
        return
    source = loader.loader
    for epoch in range(loader.n):
        set_epoch(source, epoch)
        length = size(source)  # samplers may make epochs of different lengths
        if length is not None and skip >= length:
            skip -= length
            continue
        pools, skip = behind(source, skip)
        yield from pools


def size(loader: Iterable[Batch]) -> int | None:
    """The loader's length; None where it has none, which a DataLoader over a stream only says when asked."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def behind(loader: Iterable[Batch], skip: int, chance: Sequence[Tensor] = ()) -> tuple[Iterator[Batch], int]:
    """An iterator behind the first `skip` pools, and how many it was short of that.

    `chance` is what `randomness` gave when those pools were first read; without it the order must not hang on it.
    """
    put_back(loader, chance)
    if not skip:
        return iter(loader), 0
    end = object()
    with _untouched(loader, samplers=False):
        if chance:
            torch.set_rng_state(chance[0])
        pools = iter(loader)
        while skip and next(pools, end) is not end:
            skip -= 1
    return pools, skip


def _again(loader: Iterable[Batch]) -> Any:
    if iter(loader) is loader:
        raise ValueError(
            "this is a one-shot iterator: what is read from it is gone; pass an iterable that starts anew, "
            "such as the DataLoader or a list of batches"
        )
    return loader


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the epoch to whatever part of a loader asks for it: itself, its samplers, its dataset."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    parts = [loader, sampler, batches, getattr(batches, "sampler", None), getattr(loader, "dataset", None)]
    for part in {id(part): part for part in parts if hasattr(part, "set_epoch")}.values():
        part.set_epoch(epoch)


def randomness(loader: Any) -> list[Tensor]:
    """The states of the global generator and of the loader's own: what the order of its next pass may hang on."""
    return [torch.get_rng_state(), *(generator.get_state() for generator in _generators(loader))]


def put_back(loader: Any, chance: Sequence[Tensor]) -> None:
    """Give a loader's own generators the states that `randomness` gave; the global one stays."""
    for generator, state in zip(_generators(loader), chance[1:], strict=False):
        generator.set_state(state)


def _generators(loader: Any) -> list[torch.Generator]:
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = [loader, sampler, batches, getattr(batches, "sampler", None)]
    found = {id(g): g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)}
    return list(found.values())


@contextmanager
def _untouched(loader: Any, *, samplers: bool = True) -> Iterator[None]:
    """Put the global random generators back, and those of the loader and its samplers."""
    states = [(generator, generator.get_state()) for generator in _generators(loader) if samplers]
    numpy = sys.modules.get("numpy")
    python, array = random.getstate(), numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(array)
            for generator, state in states:
                generator.set_state(state)
