"""Models whose parameters are spread over ranks: no copy of them can be scored, so the model itself is.

The forward of a `fully_shard`ed module gathers its own parameters and ignores those that are put in their place. It is
a collective as well: every rank must score as many pools as the others, at the same time. Streams score in `Company`.

References:
    Yanli Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from puresift.errors import SiftError
from puresift.scores.copies import tensors, unwrap
from puresift.types import Batch, Params

_OLD = (
    "the model is wrapped in FullyShardedDataParallel, whose flat parameters cannot be scored; shard it by "
    "torch.distributed.fsdp.fully_shard, which takes its place"
)
_ZERO = (
    "the model's parameters are DeepSpeed ZeRO-3's, which are gathered inside its engine alone; train with ZeRO-2, or "
    "shard the model by torch.distributed.fsdp.fully_shard"
)
_TENSOR = (
    "the model is split by tensor parallelism, whose ranks must all keep the same rows; score by a function of your "
    "own, (params, batch) -> Float[B], and give the ranks of a group one key"
)
_ALONE = (
    "{what} need the model's own parameters for each row, and a sharded model's forward gathers them for a whole "
    "batch; score by ps.batched(model, loss)"
)
_COMPILED = (
    "a sharded model is scored live, and its gathering of parameters is no part of a graph; compile the model itself "
    "before fully_shard, and leave ps.compiled out"
)
_FOREIGN = (
    "the model is sharded, so that its forward gathers its own parameters and would ignore those that are passed; pass "
    "ps.live(model) of the very model that is scored"
)


class Company(Protocol):
    """The ranks that score a model together."""

    def forward(self, run: Callable[[], Any]) -> Any:
        """What `run` gives, once all ranks take part in it."""


_company: ContextVar[Company | None] = ContextVar("company", default=None)


@contextmanager
def accompanied(company: Company | None) -> Iterator[None]:
    """Sharded models that are scored within are scored in this company; with None alone."""
    token = _company.set(company)
    try:
        yield
    finally:
        _company.reset(token)


def spread(model: nn.Module) -> bool:
    """Whether `fully_shard` was applied to a part of the model, whatever its parameters look like at the moment.

    Between a forward and the next step those of a root may stand gathered, as plain tensors.
    """
    return any(_ours(module) for module in model.modules())


def resharded(model: nn.Module) -> None:
    """Let go of what a forward has left gathered, so that the parameters are those which the optimizer changes."""
    for module in model.modules():
        if _ours(module):
            module.reshard()  # type: ignore[operator]


def _ours(module: nn.Module) -> bool:
    return any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__)


def sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` spread the model over ranks.

    Raises:
        SiftError: it is spread in another way, which cannot be scored.
    """
    kinds = [cls.__name__ for module in model.modules() for cls in type(module).__mro__]
    if "FullyShardedDataParallel" in kinds:
        raise SiftError(_OLD)
    if any(hasattr(tensor, "ds_id") for tensor in model.parameters()):
        raise SiftError(_ZERO)
    ours = "FSDPModule" in kinds
    spread: list[Any] = [tensor for tensor in model.parameters() if type(tensor).__name__ == "DTensor"]
    if any(sum(part.is_shard() for part in tensor.placements) > 1 or not ours for tensor in spread):
        raise SiftError(_TENSOR)
    return ours


def whole(model: nn.Module, what: str) -> None:
    """Refuse a sharded model where each row needs parameters of its own.

    Raises:
        SiftError: naming what can be had instead.
    """
    if sharded(unwrap(model)):
        raise SiftError(_ALONE.format(what=what))


class Sharded:
    """A sharded model as a score sees it: in eval mode for the length of a forward, and sharded again after it."""

    def __init__(self, model: nn.Module, function: Callable[[Any, Batch], Any]):
        self.function, self.source = function, weakref.ref(model)

    def compiled(self) -> None:
        """Refuse to be compiled.

        Raises:
            SiftError: always.
        """
        raise SiftError(_COMPILED)

    def call(self, params: Params, batch: Batch) -> Any:
        """The function's result with the model's own parameters, which these must be."""
        model = self.source()
        now = {} if model is None else tensors(model)
        if model is None or params.keys() != now.keys() or any(params[name] is not now[name] for name in now):
            raise SiftError(_FOREIGN)
        run, company = partial(self._run, model, batch), _company.get()
        return run() if company is None else company.forward(run)

    def _run(self, model: nn.Module, batch: Batch) -> Any:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                return self.function(model, batch)
        finally:
            for module, mode in modes:
                module.training = mode
            # What a forward leaves gathered (the root does) would miss the step that the optimizer makes meanwhile.
            resharded(model)
