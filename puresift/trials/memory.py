"""How many rows are scored at once, so that scoring fits in memory: measured."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from puresift import settings, trees
from puresift.errors import SiftError
from puresift.types import Batch, Params, ScoreFn


def peak(run: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes that a call allocates above what was held before; a first call warms up and is not counted.

    On CUDA by the allocator's own peak, which is reset. On the CPU by the profiler, which sees each allocation that
    tensors and kernels make, compiled ones too; what a library allocates itself with malloc is not seen.
    """
    run()  # workspaces, compilation
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise SiftError(f"memory is measured on CUDA and on the CPU, not on {device.type}; pass a size to ps.chunked")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(steps, initial=0))


def fitting(score: ScoreFn, params: Params, batch: Batch, *, budget: int | Callable[[], Any]) -> int:
    """The most rows, a power of two, that can be scored at once within a budget of memory: for `ps.chunked`.

    A forward without gradients holds few layers at a time, but a pool may be many batches large. Pieces of 1, 2, 4, ...
    rows are scored, twice each, until one needs more than the budget; so at most about twice the budget is ever
    used. With a training step as the budget, scoring never needs more memory than training does:

        size = ps.fitting(score, ps.live(model), pool, budget=lambda: loss(model, batch).mean().backward())

    Parameters and inputs are not counted. Measure on the machine of the run: kernels and workspaces differ between
    machines. With a compiled score, use a size that it was measured at.

    Args:
        score: a score that treats rows independently.
        params: as the score takes them.
        batch: the largest pool, with its longest rows.
        budget: bytes, or a function whose peak is measured. It is run twice: leave the optimizer out of it, and zero
            the gradients afterwards.

    Returns:
        Rows per piece, at most the first power of two that holds the batch.

    Raises:
        SiftError: not even one row fits, or the device cannot be measured.

    Example:
        >>> score = lambda params, batch: (batch @ batch.T).sum(1)
        >>> fitting(score, {}, torch.ones(64, 8), budget=lambda: torch.ones(64, 64))
        32
    """
    batch = trees.plain(batch)
    device = next(leaf.device for leaf in trees.leaves(batch) if isinstance(leaf, torch.Tensor))
    allowed = peak(budget, device) if callable(budget) else settings.count("budget", budget)
    rows, size, need = trees.batch_size(batch), 0, 0
    while size < rows:
        piece = trees.index(batch, slice(0, max(2 * size, 1)))
        need = peak(functools.partial(score, params, piece), device)
        if need > allowed:
            break
        size = max(2 * size, 1)
    if size == 0:
        raise SiftError(f"one row needs {need:,} bytes and the budget is {allowed:,}; score a smaller part of a row")
    return size
