"""Scores compiled by torch.compile."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.scores.guarding import asked, watched
from puresift.scores.model import Scored, Twin, given
from puresift.scores.parts import parts
from puresift.scores.sharding import Sharded
from puresift.types import Batch, Losses, Pad, Params, ScoreFn

_GRAPHS = ("reduce-overhead", "max-autotune")  # the modes that record CUDA graphs, one for each shape
_FRAMES = 64  # recompile limit per score; torch's own is 8, after which it silently runs uncompiled


def compiled(
    score: ScoreFn,
    *,
    dynamic: bool = True,
    mode: str | None = None,
    backend: str | Callable[..., Any] = "inductor",
    pad: Mapping[str, Pad] | None = None,
    pad_to: int | None = None,
) -> ScoreFn:
    """Score with torch.compile, compiled once for pools of all sizes.

    The first call compiles, which takes seconds to minutes: make it on a typical pool before anything is timed. The
    parameters are inputs of the graph, which holds none. Rows and the widths of the leaves in `pad` are dynamic sizes,
    so that a short last pool or a wider one needs no recompilation; a varying width that is not declared costs a second
    graph. A pool of one row is scored as two, because sizes of one would be specialised.

    Compile around `autocast`, `compiled(autocast(score))`, so that the casts are in the graph and are fused: the other
    way gives the same ranks, but recompiles for each autocast region that it is called in. `chunked` and `remembered`,
    which read tensors, wrap it: `chunked(compiled(score), 64)`. Compilers reorder sums: scores change by rounding
    errors.

    CUDA graphs (`mode="reduce-overhead"`) are recorded for each shape, so shapes are rounded up as `pad_to` says. The
    parameters are then copied into the graph's memory with every call, and the result out of it.

    Args:
        score: a score that treats rows independently.
        dynamic: False compiles a graph for each shape, at most 64; shapes are then rounded up as `pad_to` says.
        mode: as `torch.compile` takes it.
        backend: as `torch.compile` takes it; "inductor" needs a C++ compiler, or Triton on a GPU.
        pad: the ragged leaves, as in `ps.sifter`: padded on the right with their value, never beyond their length.
        pad_to: rows, and the widths of the leaves in `pad`, are rounded up to a multiple of it, by repeating the last
            row and by padding. By default 1, and 16 where each shape costs a graph: without `dynamic`, or in a mode
            with CUDA graphs.

    Returns:
        A score, Float[B]. Lists of Python objects in a batch are not passed to the graph.

    Raises:
        SiftError: pad_to is out of range.

    Example:
        >>> import puresift as ps
        >>> model = torch.nn.Linear(3, 1)
        >>> score = compiled(ps.batched(model, lambda model, x: model(x).sum(-1)), backend="eager")
        >>> [score(ps.live(model), torch.ones(rows, 3)).shape for rows in (5, 4, 1)]
        [torch.Size([5]), torch.Size([4]), torch.Size([1])]
    """
    graphs = mode in _GRAPHS
    step = settings.count("pad_to", (1 if dynamic and not graphs else 16) if pad_to is None else pad_to)
    shapes = None if dynamic else False  # not True, which would make the parameters' sizes dynamic too
    run: ScoreFn = torch.compile(score, dynamic=shapes, mode=mode, backend=backend, **limits())
    twins = _twins(score)

    def rung(size: int) -> int:
        return max(2, -(-size // step) * step)

    def ready(batch: Batch, rows: int) -> Batch:
        """The batch rounded up, with its dynamic sizes marked on tensors that are not the caller's."""
        missing = rung(rows) - rows
        if missing:
            last = torch.arange(rows + missing, device=trees.leaves(batch)[0].device).clamp(max=rows - 1)
            batch = trees.index(batch, last)
        ragged = iter([pad is not None and name in pad for name, _ in trees.named(batch)])

        def mark(leaf: Tensor) -> Tensor:
            free = [0, 1] if next(ragged) else [0]
            leaf = (leaf.contiguous() if len(free) > 1 else leaf).detach()  # a slice's strides would vary as well
            if dynamic:
                torch._dynamo.maybe_mark_dynamic(leaf, free)
            return leaf

        return trees.map_leaves(mark, batch)

    def call(params: Params, batch: Batch) -> Losses:
        batch = trees.numbered(trees.plain(batch))
        if torch.compiler.is_compiling():
            return score(params, batch)
        rows = trees.batch_size(batch)
        if rows == 0:
            return score(params, batch)
        given(params)
        params = dict(params() if callable(params) else params)
        with torch.no_grad(), ExitStack() as watch:
            for twin in twins:  # here, as a graph cannot
                twin.follow(params)
                if asked():
                    watch.enter_context(watched(twin.source(), twin.model, twin.hooks))
            if graphs:
                torch.compiler.cudagraph_mark_step_begin()  # the last call's output may be overwritten
            losses = run(params, ready(_widened(batch, pad or {}, rung), rows))[:rows]
            return losses.clone() if graphs else losses

    return call


def limits() -> dict[str, Any]:
    """Arguments of torch.compile by which each function has a limit of recompilations of its own.

    By default torch counts those of all functions together, by shared code; newer versions can separate them.
    """
    apart = "isolate_recompiles" in inspect.signature(torch.compile).parameters  # Lightning wraps torch.compile
    return {"isolate_recompiles": True, "recompile_limit": _FRAMES} if apart else {}


def _twins(score: Any) -> list[Twin]:
    """The copies of models that a score runs."""
    found = [part.image if isinstance(part, Scored) else part for part in parts(score)]
    for part in found:
        if isinstance(part, Sharded):
            part.compiled()
    return list({id(part): part for part in found if isinstance(part, Twin)}.values())


def _widened(batch: Batch, pads: Mapping[str, Pad], rung: Callable[[int], int]) -> Batch:
    """The batch with its ragged leaves padded to the next rung, never beyond their length."""
    widths = {name: leaf.shape[1] for name, leaf in trees.named(batch) if name in pads and leaf.ndim > 1}
    wider = {
        name: Pad(value, max(widths[name], min(rung(widths[name]), length)) if name in widths else length)
        for name, (value, length) in pads.items()
    }
    return trees.pad(batch, wider)
