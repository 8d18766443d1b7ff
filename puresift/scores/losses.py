"""Scores: (params, batch) -> one number per row, from an eval-mode copy of the model that shares no state with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from puresift import settings, trees
from puresift.errors import SiftError
from puresift.scores.copies import unwrap
from puresift.scores.model import Scored, Twin, per_row
from puresift.scores.sharding import whole
from puresift.types import Batch, Losses, Params, Score, ScoreFn

Loss = Callable[[Any, Batch], Losses]  # loss(model, batch) -> Float[B]: the one thing a user writes


class Stateless(NamedTuple):
    """Nothing to remember."""


def batched(model: nn.Module, loss: Loss) -> ScoreFn:
    """The per-sample loss from one batched forward: the default score.

    It runs an eval-mode copy of the model on the tensors that are passed in: the model stays in train mode, BatchNorm
    statistics, hooks and the global RNG are unchanged, and no gradient is recorded. The copy follows the model: modules
    that are replaced, ties, and plain attributes (numbers, tensors, containers of them) are taken over before each
    score, unless the forward itself sets them; under a torch.compile other than `ps.compiled` they stay as traced.

    Forward hooks are left out, with a warning: they belong to the training forward.

    A model that `torch.distributed.fsdp.fully_shard` spread over ranks is scored itself, in eval mode for the length of
    the forward and hooks included, and sharded again after it. That forward is a collective, which all ranks run at
    once: `ps.sift` and `ps.SiftingDataLoader` see to it, or refuse; a loop of one's own must.

    Args:
        model: any module; DDP and compile wrappers are removed.
        loss: `loss(model, batch)`, Float[B] or Float[B, 1], one per row. It may call the model twice, its methods or
            submodules, but those of its argument alone. The first score, and the first of each stream, refuses a loss
            that runs the live model, changes a mode or a gradient, or writes to what it is given.

    Returns:
        `score(params, batch)`, Float[B]; params are all parameters and buffers by name, as `ps.live(model)` gives them.

    Raises:
        SiftError: the model cannot be copied, computes its weights in hooks, or is sharded in another way; when called,
            parameters are missing, unknown or, of a sharded model, not its own, or the loss does not give one
            floating-point number per row. A hook that may change what passes, as far as its code tells, is warned of.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> score = batched(model, lambda model, x: model(x).square().sum(-1))
        >>> score(dict(model.named_parameters()), torch.ones(3, 2)).shape
        torch.Size([3])
    """
    image = Scored(model, loss)

    def score(params: Params, batch: Batch) -> Losses:
        with torch.no_grad():
            return per_row(image.call(params, batch), trees.batch_size(trees.plain(batch)))

    return score


def per_sample(model: nn.Module, loss: Loss) -> ScoreFn:
    """The same loss, vmapped over rows, each a batch of one.

    For losses that cannot be written per row, and the base of per-sample gradients; slower than `batched`, and equal to
    it if the model treats rows independently. Data-dependent control flow cannot be vmapped: Hugging Face models need
    their padding mask as a 4-D additive float mask.

    Args:
        model: any module.
        loss: `loss(model, batch)` for a batch of one row; a scalar or Float[1].

    Returns:
        `score(params, batch)`, Float[B].

    Raises:
        SiftError: as `batched`.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> score = per_sample(model, lambda model, x: model(x).square().mean())
        >>> score(dict(model.named_parameters()), torch.ones(3, 2)).shape
        torch.Size([3])
    """
    whole(model, "per-sample losses")
    twin = Twin(model, loss)

    def score(params: Params, batch: Batch) -> Losses:
        rows = trees.plain(batch)

        def one(row: Batch) -> Tensor:
            return _single(twin.run(params, trees.map_leaves(lambda leaf: leaf[None], row)))

        twin.check(params)
        with torch.no_grad():
            return per_row(vmap(one)(rows), trees.batch_size(rows))

    return score


def grad_norm(model: nn.Module, loss: Loss, *, only: Callable[[str], bool] | None = None, chunk: int = 16) -> ScoreFn:
    """The norm of each row's gradient: ||d loss_i / d params||, over all parameters. Exact, and expensive.

    A reference for cheaper scores: a forward and a backward for each row (about nine times a batched forward), and
    `chunk` gradients in memory at once. `head_grad_norm` is the closed form for a linear head. Fused attention has
    no per-row backward: build Hugging Face models with attn_implementation="eager".

    Args:
        model: any module that `per_sample` takes.
        loss: `loss(model, batch)` for a batch of one row; a scalar or Float[1].
        only: `only(name)` says which parameters count; by default those that require a gradient now.
        chunk: rows per piece, >= 1.

    Returns:
        `score(params, batch)`, Float[B], in the loss's unit divided by the parameters'.

    Raises:
        SiftError: no parameter is selected, or chunk is out of range; when called, as `batched`.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> score = grad_norm(model, lambda model, x: model(x))
        >>> score(dict(model.named_parameters()), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([5., 1.])

    References:
        Mansheej Paul, Surya Ganguli, Gintare Karolina Dziugaite, "Deep Learning on a Data Diet: Finding Important
        Examples Early in Training", 2021.
    """
    chunk = settings.count("chunk", chunk)
    whole(model, "per-sample gradients")
    parameters = dict(unwrap(model).named_parameters())
    learnt = [name for name, p in parameters.items() if (only(name) if only else p.requires_grad)]
    if not learnt:
        raise SiftError(f"no parameter counts: choose by only= among {sorted(parameters)}, or unfreeze some")
    twin = Twin(model, loss)

    def score(params: Params, batch: Batch) -> Losses:
        rows = trees.plain(batch)

        def one(some: Params, row: Batch) -> Tensor:
            return _single(twin.run({**params, **some}, trees.map_leaves(lambda leaf: leaf[None], row)))

        twin.check(params)
        with torch.no_grad():
            gradients = vmap(grad(one), (None, 0), chunk_size=chunk)({name: params[name] for name in learnt}, rows)
            squares = [gradient.float().flatten(1).square().sum(1) for gradient in gradients.values()]
            return per_row(torch.stack(squares).sum(0).sqrt(), trees.batch_size(rows))

    return score


def lift(score: ScoreFn | Score) -> Score:
    """A plain score as a `Score` without state."""
    if isinstance(score, Score):
        return score

    def apply(state: Stateless, params: Params, batch: Batch) -> tuple[Stateless, Losses]:
        return state, score(params, batch)

    return Score(Stateless, apply)


def _single(loss: Losses) -> Tensor:
    if loss.numel() != 1:
        raise SiftError(f"the loss of one row must be one number, got shape {list(loss.shape)}")
    return loss.reshape(())
