"""Cheaper scores: the same ranking for less. Each takes a score and gives one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.types import Batch, Losses, Pad, Params, ScoreFn


def autocast(score: ScoreFn, dtype: torch.dtype = torch.bfloat16) -> ScoreFn:
    """Score in lower precision, whatever the training step uses.

    The region is an inner one that caches no cast weights: an outer region that spans optimizer steps would score with
    stale ones. Ranks hardly move (bfloat16 on MiniLM: a rank correlation of .9999 with float32). `autocast(score,
    torch.float32)` switches an outer region off.

    Args:
        score: a batched score; under vmap, linear layers ignore autocast.
        dtype: torch.bfloat16, torch.float16, or torch.float32 for none.

    Returns:
        A score, Float32[B].

    Raises:
        ValueError: dtype is none of the three.

    Example:
        >>> half = autocast(lambda params, batch: batch @ batch.T @ torch.ones(2), torch.bfloat16)
        >>> half({}, torch.eye(2))
        tensor([1., 1.])
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, got {dtype!r}")

    def cast(params: Params, batch: Batch) -> Losses:
        device = trees.leaves(trees.plain(batch))[0].device.type
        enabled = dtype != torch.float32
        with torch.autocast(device, dtype if enabled else None, enabled=enabled, cache_enabled=False):
            return score(params, batch).float()

    return cast


def chunked(
    score: ScoreFn,
    size: int,
    *,
    length: Callable[[Batch], Tensor] | None = None,
    pad: Mapping[str, Pad] | None = None,
) -> ScoreFn:
    """Score a pool in pieces of at most `size` rows, to bound memory; sorted by length, to save padding.

    Args:
        score: a score whose rows do not meet.
        size: rows a piece, >= 1.
        length: `length(batch)`, Int[B]. With it, pieces hold rows of like length and are cut to their longest one,
            which reads the lengths once a pool.
        pad: the ragged leaves to cut, as in `ps.sifter`; only their names matter here.

    Returns:
        A score with the same numbers, in the batch's order.

    Raises:
        ValueError: size is out of range, or only one of length and pad is given.

    Example:
        >>> total = chunked(lambda params, batch: batch.sum(-1), 2)
        >>> total({}, torch.ones(5, 3))
        tensor([3., 3., 3., 3., 3.])
    """
    settings.count("size", size)
    if (length is None) != (pad is None):
        raise ValueError("give length= and pad= together: one says how long rows are, the other which leaves to cut")

    def pieces(params: Params, batch: Batch) -> Losses:
        batch = trees.plain(batch)
        rows = trees.batch_size(batch)
        starts = range(0, rows, size)
        if length is None or pad is None:
            if rows <= size:
                return score(params, batch)
            return torch.cat([score(params, trees.index(batch, slice(at, at + size))) for at in starts])
        lengths, order = length(batch).sort(stable=True)
        ordered = trees.index(batch, order)
        widest = lengths[[min(at + size, rows) - 1 for at in starts]].tolist()
        losses = [
            score(params, trees.trim(trees.index(ordered, slice(at, at + size)), pad, max(width, 1)))
            for at, width in zip(starts, widest, strict=True)
        ]
        return torch.cat(losses)[torch.argsort(order)]

    return pieces


def truncated(score: ScoreFn, width: int, *, pad: Mapping[str, Pad]) -> ScoreFn:
    """Score the beginning of each row alone: the first `width` tokens of the ragged leaves.

    Where texts are of very unlike length, a cut at about the mean one leaves most rows whole, and a pool then goes
    through in one piece without much padding, which `chunked` would have to save otherwise. What is learnt of a longer
    row is the loss of its beginning: weigh what is kept (`ps.importance`, `ps.unbiased`), so that a wrong guess costs
    noise, and nothing else.

    Args:
        score: a score of rows that make sense when cut, as texts do to which special tokens are added in front.
        width: tokens scored, >= 1.
        pad: the ragged leaves to cut, as in `ps.sifter`; only their names matter here.

    Returns:
        A score; the kept rows stay whole.

    Raises:
        ValueError: width is out of range, pad names nothing or, when called, a leaf that the batch has not.

    Example:
        >>> total = truncated(lambda params, batch: batch["x"].sum(-1), 2, pad={"x": Pad(0, 8)})
        >>> total({}, {"x": torch.ones(3, 5)})
        tensor([2., 2., 2.])

    References:
        Angela H. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019: cheaper selection.
    """
    settings.count("width", width)
    if not pad:
        raise ValueError('pad must name the leaves to cut, such as {"input_ids": ps.Pad(0, 64)}')

    def beginning(params: Params, batch: Batch) -> Losses:
        batch = trees.plain(batch)
        if missing := sorted(set(pad) - {name for name, _ in trees.named(batch)}):
            raise ValueError(f"pad names {', '.join(missing)}, which the batch has not; name its ragged leaves")
        return score(params, trees.trim(batch, pad, width))

    return beginning


_GRAPHS = ("reduce-overhead", "max-autotune")  # the modes that record CUDA graphs, one for each shape
_FRAMES = 64  # of one score, where torch would give up at 8 and quietly run the rest uncompiled


def compiled(
    score: ScoreFn,
    *,
    dynamic: bool = True,
    mode: str | None = None,
    backend: str | Callable[..., Any] = "inductor",
    pad: Mapping[str, Pad] | None = None,
    pad_to: int | None = None,
) -> ScoreFn:
    """Score by a compiled graph, compiled once for pools of all sizes.

    The first call compiles, which takes seconds to minutes: make it on a typical pool before anything is timed. The
    graph is handed the parameters anew each time and holds none. Rows and the width of the leaves in `pad` are symbols
    in it, so that a short last pool or a wider one finds it ready; a width that varies without being declared costs a
    second graph. A pool of one row is scored as two, for sizes of one would be graphs of their own.

    Compile around `autocast`, `compiled(autocast(score))`, so that the casts lie in the graph and are fused: the other
    way gives the same ranks, but the graph is compiled again for each region that it is called in. `chunked` and
    `remembered`, which read tensors, go around it: `chunked(compiled(score), 64)`. Compilers reorder sums: scores move
    by rounding errors.

    CUDA graphs (`mode="reduce-overhead"`) are recorded for each shape, so there shapes are rounded up to a ladder. The
    parameters are then copied into the graph's memory with every call, and the answer out of it.

    Args:
        score: a score whose rows do not meet.
        dynamic: False compiles a graph for each shape, at most 64; pools then climb the ladder of `pad_to`.
        mode: as `torch.compile` takes it.
        backend: as `torch.compile` takes it; "inductor" wants a C++ compiler, or Triton on a GPU.
        pad: the ragged leaves, as in `ps.sifter`: filled up on the right with their value, never beyond their length.
        pad_to: rows, and the widths of the leaves in `pad`, are rounded up to a multiple of it, by repeating the last
            row and by padding. By default 1, and 16 where each shape has its price: without `dynamic`, or in a mode
            with CUDA graphs.

    Returns:
        A score, Float[B]. Lists of Python objects in a batch do not enter the graph.

    Raises:
        ValueError: pad_to is out of range.

    Example:
        >>> import puresift as ps
        >>> model = torch.nn.Linear(3, 1)
        >>> score = compiled(ps.batched(model, lambda model, x: model(x).sum(-1)), backend="eager")
        >>> [score(ps.live(model), torch.ones(rows, 3)).shape for rows in (5, 4, 1)]
        [torch.Size([5]), torch.Size([4]), torch.Size([1])]
    """
    graphs = mode in _GRAPHS
    step = settings.count("pad_to", (1 if dynamic and not graphs else 16) if pad_to is None else pad_to)
    # By itself torch counts the frames of all scores together, by their shared code; newer ones can count them apart.
    apart = "isolate_recompiles" in inspect.signature(torch.compile).parameters  # Lightning wraps torch.compile
    limits: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": _FRAMES} if apart else {}
    shapes = None if dynamic else False  # not True, which would make symbols of the parameters' sizes too
    run: ScoreFn = torch.compile(score, dynamic=shapes, mode=mode, backend=backend, **limits)

    def rung(size: int) -> int:
        return max(2, -(-size // step) * step)

    def widened(batch: Batch) -> Batch:
        widths = {name: leaf.shape[1] for name, leaf in trees.named(batch) if pad and name in pad and leaf.ndim > 1}
        return trees.pad(
            batch,
            {
                name: Pad(value, max(widths[name], min(rung(widths[name]), length)) if name in widths else length)
                for name, (value, length) in (pad or {}).items()
            },
        )

    def ready(batch: Batch, rows: int) -> Batch:
        """The batch on its rung, its sizes marked on tensors that are not the caller's."""
        missing = rung(rows) - rows
        if missing:
            last = torch.arange(rows + missing, device=trees.leaves(batch)[0].device).clamp(max=rows - 1)
            batch = trees.index(batch, last)
        ragged = iter([pad is not None and name in pad for name, _ in trees.named(batch)])

        def mark(leaf: Tensor) -> Tensor:
            free = [0, 1] if next(ragged) else [0]
            leaf = (leaf.contiguous() if len(free) > 1 else leaf).detach()  # a cut leaf's strides would vary as well
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
        params = dict(params() if callable(params) else params)
        with torch.no_grad():
            if graphs:
                torch.compiler.cudagraph_mark_step_begin()  # what the last call gave may be written over
            losses = run(params, ready(widened(batch), rows))[:rows]
            return losses.clone() if graphs else losses

    return call
