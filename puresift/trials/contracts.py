"""The contract of a score, checked on the first batch: what it breaks, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.data.generators import restored
from puresift.errors import SiftError
from puresift.scores.guarding import Before, watching
from puresift.scores.losses import lift
from puresift.scores.model import given, per_row
from puresift.scores.stamps import version
from puresift.types import Batch, Losses, Params, Score, ScoreFn

_ROWS = 16  # enough for rows to interact, and under a second for a small language model
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Report(NamedTuple):
    """The result of `check`. The differences are the largest ones, as a share of the mean absolute loss."""

    losses: Losses  # Float[rows], of the rows that were checked
    repeated: float  # between two calls
    permuted: float  # after the rows were reversed
    dropped: float  # after half of the rows were dropped


def check(
    score: ScoreFn | Score, params: Params | Callable[[], Params], batch: Batch, *, tolerance: float = 0.02
) -> Report:
    """Check that a score keeps its contract, on the first rows of a batch: four short forwards, nothing changed.

    A score gives one finite number per row, the same each time; rows are independent, so reversing them reverses the
    losses and dropping half leaves the rest (BatchNorm in train mode and contrastive losses fail here); and it leaves
    gradient mode, parameters, their gradients, the modes of the model, batch and the global generator states unchanged.

    Args:
        score: `score(params, batch)`, or a stateful `Score`.
        params: as in `ps.sift`.
        batch: any with two rows or more; the first 16 are used.
        tolerance: how far losses may move, as a share of their mean absolute value. The default leaves room for
            bfloat16, where the kernel depends on the number of rows.

    Returns:
        A `Report` of the losses and how far they moved.

    Raises:
        SiftError: naming what is broken, the usual cause and the fix.

    Example:
        >>> check(lambda params, batch: batch.square().sum(1), {}, torch.ones(4, 3)).losses
        tensor([3., 3., 3., 3.])
    """
    tolerance = settings.nonnegative("tolerance", tolerance)
    given(params)
    source, params = params, dict(params() if callable(params) else params)
    batch = _first(trees.plain(batch), _ROWS)
    rows = trees.batch_size(batch)
    if rows < 2:
        raise SiftError(f"independence of rows cannot be checked in a batch of {rows}; pass one with two rows or more")
    memory = lift(score)
    state = trees.to(memory.init(), next(leaf for leaf in trees.leaves(batch) if isinstance(leaf, Tensor)).device)

    def ask(batch: Batch) -> Losses:
        losses = memory.apply(state, params, batch)[1]
        # A copy, as the score may write its next answer over this one: it would then differ from itself nowhere.
        return per_row(losses, trees.batch_size(batch)).clone()

    watched = {"params": params, "batch": batch, "the score's state": state}
    with Before(params, source), _gradients_as_they_were(), _generators_unmoved(), _unchanged(watched), watching():
        losses = ask(batch)
    if losses.requires_grad:
        raise SiftError(
            "the score records gradients, which costs the memory of a training step; compute it under "
            "torch.no_grad(), as ps.batched does"
        )
    if not bool(losses.isfinite().all()):
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        raise SiftError(
            f"the loss of {len(bad)} of {rows} rows is NaN or infinite, the first in row {bad[0]}; look for padding "
            "that is not masked, a division by zero or float16 overflow, or score in float32 or bfloat16"
        )
    flipped = trees.map_leaves(_reversed, batch)
    half = rows // 2
    report = Report(
        losses,
        _moved(ask(batch), losses),
        _moved(ask(flipped).flip(0), losses),
        _moved(ask(_first(batch, half)), losses[:half]),
    )
    for moved, words in zip(report[1:], _CULPRITS, strict=True):
        if not moved <= tolerance:
            raise SiftError(f"{words[0]} moves the losses by {moved:.1%} of their mean: {words[1]}")
    return report


_TWIN = "score an eval-mode copy with ps.batched(model, loss)"
_CULPRITS = (
    ("calling the score again", f"it draws random numbers, or keeps state; {_TWIN}, or make it a ps.Score"),
    (
        "reversing the rows",
        "a loss depends on the position of its row; compute it from the row alone, and reduce every dimension but the "
        "first",
    ),
    (
        "dropping half of the rows",
        "rows meet, as in BatchNorm in train mode, a contrastive loss or a mean over the batch; "
        f"{_TWIN}, or ps.per_sample(model, loss), where each row is a batch of one",
    ),
)


@contextmanager
def _gradients_as_they_were() -> Iterator[None]:
    before = torch.is_grad_enabled()
    try:
        yield
        if torch.is_grad_enabled() != before:
            raise SiftError(
                f"the score leaves gradients {'on' if not before else 'off'}, and training would "
                f"{'record what it should not' if not before else 'learn nothing'}; use `with torch.no_grad():` "
                "instead of torch.set_grad_enabled"
            )
    finally:
        torch.set_grad_enabled(before)


@contextmanager
def _generators_unmoved() -> Iterator[None]:
    with restored() as moved:
        yield
    if moved:
        raise SiftError(
            f"the score moves the global random generator of {' and '.join(moved)}: dropout in train mode is the usual "
            f"cause; {_TWIN}, or draw from its own torch.Generator"
        )


@contextmanager
def _unchanged(watched: dict[str, Any]) -> Iterator[None]:
    tensors = [
        (f"{name}[{leaf!r}]", tensor)
        for name, tree in watched.items()
        for leaf, tensor in trees.named(tree)
        if isinstance(tensor, Tensor)
    ]
    before = [(version(tensor), _fingerprint(tensor)) for _, tensor in tensors]
    yield
    for (name, tensor), stamp in zip(tensors, before, strict=True):
        if (version(tensor), _fingerprint(tensor)) != stamp:
            raise SiftError(
                f"the score writes to {name}: BatchNorm in train mode and in-place operations are the usual causes; "
                f"{_TWIN}, or work on a clone; count in a buffer only `if self.training`"
            )


def _fingerprint(tensor: Tensor) -> int:
    """A sum of the bytes, as whole numbers of the element's size: no copy of the model is made."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return 0
    kind = _WHOLE[tensor.element_size()]
    return int(tensor.view(kind).sum(dtype=torch.int64)) if tensor.numel() else 0


def _first(batch: Batch, rows: int) -> Batch:
    return trees.map_leaves(lambda leaf: _sliced(leaf, slice(rows)), batch)


def _reversed(leaf: Any) -> Any:
    return leaf.flip(0) if isinstance(leaf, Tensor) else _sliced(leaf, slice(None, None, -1))


def _sliced(leaf: Any, rows: slice) -> Any:
    return leaf[rows] if isinstance(leaf, Tensor) else trees.Objects(list.__getitem__(leaf, rows))


def _moved(one: Losses, other: Losses) -> float:
    scale = other.abs().mean().clamp(min=torch.finfo(other.dtype).tiny)
    return float(((one - other).abs().max() / scale).nan_to_num(torch.inf))
