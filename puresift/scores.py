"""Scores: (params, batch) -> one number a row, from an eval-mode twin of the model that shares no state with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from puresift import trees
from puresift.types import Batch, Losses, Params, Score, ScoreFn

Loss = Callable[[Any, Batch], Losses]  # loss(model, batch) -> Float[B]: the one thing a user writes

_HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "_hooks" in name and isinstance(value, dict))


class Stateless(NamedTuple):
    """Nothing to remember."""


def batched(model: nn.Module, loss: Loss) -> ScoreFn:
    """The per-sample loss by one batched forward: the default score.

    It runs an eval-mode twin of the model, whose tensors are those that are passed in: the model stays in train mode,
    BatchNorm statistics, hooks and the global RNG are untouched, and no gradient is recorded.

    Args:
        model: any module; DDP and compile wrappers are taken off.
        loss: `loss(model, batch)`, Float[B], one number a row. It may call the model twice, its methods or submodules.

    Returns:
        `score(params, batch)`, Float[B]; params are all parameters and buffers by name, as `ps.live(model)` gives them.

    Raises:
        ValueError: the model cannot be copied or computes its weights in hooks; when called, parameters are missing or
            unknown, or the loss does not give one floating-point number a row.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> score = batched(model, lambda model, x: model(x).square().sum(-1))
        >>> score(dict(model.named_parameters()), torch.ones(3, 2)).shape
        torch.Size([3])
    """
    twin = _Twin(model, loss)

    def score(params: Params, batch: Batch) -> Losses:
        with torch.no_grad():
            return per_row(twin.call(params, batch), trees.batch_size(trees.plain(batch)))

    return score


def per_sample(model: nn.Module, loss: Loss) -> ScoreFn:
    """The same loss, vmapped over rows, each a batch of one.

    For losses that cannot be written per row, and the base of per-sample gradients; slower than `batched`, which it
    equals wherever rows do not meet. Data-dependent control flow in the model cannot be vmapped: Hugging Face models
    want their padding mask as a 4-D additive float mask.

    Args:
        model: any module.
        loss: `loss(model, batch)` for a batch of one row; a scalar or Float[1].

    Returns:
        `score(params, batch)`, Float[B].

    Raises:
        ValueError: as `batched`.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> score = per_sample(model, lambda model, x: model(x).square().mean())
        >>> score(dict(model.named_parameters()), torch.ones(3, 2)).shape
        torch.Size([3])
    """
    twin = _Twin(model, loss)

    def score(params: Params, batch: Batch) -> Losses:
        rows = trees.plain(batch)

        def one(row: Batch) -> Tensor:
            single = twin.call(params, trees.map_leaves(lambda leaf: leaf[None], row))
            if single.numel() != 1:
                raise ValueError(f"the loss of one row must be one number, got shape {list(single.shape)}")
            return single.reshape(())

        with torch.no_grad():
            return per_row(vmap(one)(rows), trees.batch_size(rows))

    return score


def lift(score: ScoreFn | Score) -> Score:
    """A plain score as one that remembers nothing."""
    if isinstance(score, Score):
        return score

    def apply(state: Stateless, params: Params, batch: Batch) -> tuple[Stateless, Losses]:
        return state, score(params, batch)

    return Score(Stateless, apply)


def per_row(losses: Losses, rows: int) -> Losses:
    """The losses, if they are one floating-point number a row.

    Raises:
        ValueError: naming what came instead, and the cure.
    """
    if not isinstance(losses, Tensor):
        raise ValueError(f"the loss must be a tensor of {rows} numbers, got {type(losses).__name__}")
    if losses.ndim == 0:
        raise ValueError(
            f"the loss is already reduced to one number, but sifting needs one for each of the {rows} rows; "
            'pass reduction="none" and do not call .mean()'
        )
    if losses.shape != (rows,):
        raise ValueError(
            f"the loss must have shape [{rows}], one number a row, got {list(losses.shape)}; "
            "reduce every dimension but the first"
        )
    if not losses.is_floating_point():
        raise ValueError(f"the loss must be floating point, got {losses.dtype}; call .float()")
    return losses


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel and compile wrappers."""
    inner: Any = getattr(model, "_orig_mod", None)
    if type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
        inner = model.module
    return model if inner is None else unwrap(inner)


class _Twin(nn.Module):
    """An eval-mode copy of a model on the meta device; its forward is the loss."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model = _copy(unwrap(model)).eval()
        self.losses = (loss,)  # a tuple, so that a loss which is itself a module is not registered as a part
        self.names = {name for name, _ in _tensors(self.model, remove_duplicate=False)}
        self.needed = {name for name, _ in _tensors(self.model, remove_duplicate=True)}

    def forward(self, batch: Batch) -> Losses:
        return self.losses[0](self.model, batch)

    def call(self, params: Params, batch: Batch) -> Losses:
        if not self.needed <= params.keys() <= self.names:
            missing, unknown = sorted(self.needed - params.keys()), sorted(params.keys() - self.names)
            raise ValueError(
                f"params must be all parameters and buffers of the model: missing {missing}, unknown {unknown}; "
                "pass ps.live(model)"
            )
        tensors = {f"model.{name}": tensor for name, tensor in params.items()}
        return functional_call(self, tensors, (batch,), tie_weights=True)


def _tensors(model: nn.Module, *, remove_duplicate: bool) -> list[tuple[str, Tensor]]:
    return [
        *model.named_parameters(remove_duplicate=remove_duplicate),
        *model.named_buffers(remove_duplicate=remove_duplicate),
    ]


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy without tensors or hooks: ties are kept and no memory is spent."""
    memo: dict[int, Any] = {}
    for _, tensor in _tensors(model, remove_duplicate=True):
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, False) if isinstance(tensor, nn.Parameter) else meta
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                raise ValueError(
                    f"{name or 'the model'} computes its weight in a hook ({type(hook).__name__}), which a pure score "
                    "cannot see; use torch.nn.utils.parametrizations instead, or remove it before sifting"
                )
        memo |= {id(getattr(module, hooks)): type(getattr(module, hooks))() for hooks in _HOOKS}
    try:
        return copy.deepcopy(model, memo)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot be copied for scoring ({error}); a module that caches a computed tensor is the usual "
            "cause: clear the cache before sifting, or compute it in forward"
        ) from error
