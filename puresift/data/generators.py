"""The random generators that the order of a loader depends on: reading their states, and restoring them."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler


@contextmanager
def restored() -> Iterator[list[str]]:
    """Restore the global generators of torch, Python and numpy; the list names, at the end, those that had moved."""
    numpy = sys.modules.get("numpy")
    python, array = random.getstate(), numpy.random.get_state() if numpy else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    moved: list[str] = []
    with torch.random.fork_rng(devices=devices):
        before = _torch_states(devices)
        try:
            yield moved
        finally:
            if not all(map(torch.equal, before, _torch_states(devices))):
                moved.append("torch")
            if random.getstate() != python:
                random.setstate(python)
                moved.append("random")
            if numpy and repr(numpy.random.get_state()) != repr(array):
                numpy.random.set_state(array)
                moved.append("numpy")


@contextmanager
def untouched(loader: Any) -> Iterator[None]:
    """Restore the global generators, and those of the loader and its samplers."""
    states = [(generator, generator.get_state()) for generator in _generators(loader)]
    with restored():
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


def generator_states(loader: Any) -> list[Tensor]:
    """The states of the global generator and of the loader's own: what the order of its next pass may depend on."""
    return [torch.get_rng_state(), *(generator.get_state() for generator in _generators(loader))]


def restore(loader: Any, states: Sequence[Tensor]) -> None:
    """Give a loader's own generators the states that `generator_states` gave; the global one stays."""
    for generator, state in zip(_generators(loader), states[1:], strict=False):
        generator.set_state(state)


def shufflers(loader: Any) -> list[Any]:
    """The samplers of torch's in a loader that draw another order for each pass."""
    kinds = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    return [part for part in parts(loader) if isinstance(part, kinds)]


def parts(loader: Any) -> list[Any]:
    """A loader, its samplers, and those that they wrap in turn."""
    found = [loader]
    for part in found:
        inner = [getattr(part, name, None) for name in ("sampler", "batch_sampler")]
        found += [one for one in inner if one is not None and not any(one is known for known in found)]
    return found


def _generators(loader: Any) -> list[torch.Generator]:
    found = {id(g): g for part in parts(loader) if isinstance(g := getattr(part, "generator", None), torch.Generator)}
    return list(found.values())


def _torch_states(devices: Sequence[int]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
