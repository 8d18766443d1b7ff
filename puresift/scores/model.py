"""The model as a score sees it: its live tensors, its eval-mode copy, and the checks of its losses."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from puresift.errors import ArgumentError, SiftError
from puresift.scores.copies import Live, copied, places, tensors, ties, unwrap
from puresift.scores.following import Follower, OtherModules
from puresift.scores.guarding import asked, watched
from puresift.scores.hooks import judge
from puresift.scores.sharding import Sharded, sharded, spread
from puresift.types import Batch, Losses, Params


def live(model: nn.Module) -> Live:
    """The model's parameters and buffers, read again at each use, so that every score uses the newest ones.

    Args:
        model: any module; DDP and compile wrappers are removed.

    Returns:
        A mapping from names to tensors; calling it returns a plain dict.

    Example:
        >>> sorted(live(nn.Linear(1, 1)))
        ['bias', 'weight']
    """
    return Live(model)


def per_row(losses: Losses, rows: int) -> Losses:
    """The losses, checked to be one floating-point number per row; [B, 1] is read as [B].

    Raises:
        SiftError: naming what was returned instead, and the fix.
    """
    if not isinstance(losses, Tensor):
        raise SiftError(f"the loss must be a tensor of {rows} numbers, got {type(losses).__name__}")
    if losses.ndim == 0:
        raise SiftError(
            f"the loss is already reduced to one number, but sifting needs one for each of the {rows} rows; "
            'pass reduction="none" and do not call .mean()'
        )
    if losses.shape == (rows, 1):  # a column: the head of a regression gives one
        losses = losses[:, 0]
    if losses.shape != (rows,):
        raise SiftError(
            f"the loss must have shape [{rows}], one number a row, got {list(losses.shape)}; "
            "reduce every dimension but the first"
        )
    if not losses.is_floating_point():
        raise SiftError(f"the loss must be floating point, got {losses.dtype}; call .float()")
    return losses


def given(params: Any) -> None:
    """Refuse parameters that are the model itself, or a list of them.

    Raises:
        ArgumentError: naming what was passed, and the cure.
    """
    if isinstance(params, nn.Module):
        raise ArgumentError("params is a model; pass ps.live(model), which reads its parameters at each use")
    if not isinstance(params, Mapping) and not callable(params):
        raise ArgumentError(f"params is a {type(params).__name__}; pass ps.live(model), a callable or a mapping")


class Scored:
    """Runs `function(model, batch)` to score: on a copy of the model, or on the model itself where it is sharded."""

    def __init__(self, model: nn.Module, function: Callable[[Any, Batch], Any]):
        self.model, self.function = weakref.ref(unwrap(model)), function
        self.image = self._image()

    def call(self, params: Params, batch: Batch) -> Any:
        """The function's result with these parameters."""
        if isinstance(self.image, Twin) and self._spread(params):  # since the score was made
            self.image = self._image()
        return self.image.call(params, batch)

    def _image(self) -> Twin | Sharded:
        model = self.model()
        assert model is not None
        return Sharded(model, self.function) if sharded(model) else Twin(model, self.function)

    def _spread(self, params: Params) -> bool:
        first, model = next(iter(params.values()), None) if isinstance(params, Mapping) else None, self.model()
        if model is None or type(first).__name__ == "DTensor":
            return model is not None
        return not torch.compiler.is_compiling() and asked() and spread(model)  # a stream's first pool is watched


class Twin(nn.Module):
    """An eval-mode copy of a model on the meta device; its forward is `function(model, batch)`.

    Before each score it takes over what has changed in the live model: modules, ties and plain attributes.
    """

    def __init__(self, model: nn.Module, function: Callable[[Any, Batch], Any]):
        super().__init__()
        model = unwrap(model)
        self.functions = (function,)  # a tuple, so that a loss which is itself a module is not registered as a part
        # Weak, as the model may be a pattern that is given up; the follower, which holds its tensors, then goes too.
        self.source = weakref.ref(model, lambda _: vars(self).pop("follower", None))
        self.hooks: set[int] = set()  # those judged
        self.copy(model)

    def copy(self, model: nn.Module, *, again: bool = False) -> None:
        """Copy the model, or copy it again."""
        judge(model, self.hooks)
        self.model = copied(model, again=again)
        self.slots = places(self.model)
        self.names, self.needed, self.ties = set(self.slots), set(tensors(self.model)), ties(self.slots)
        self.empty = [(slots, key, slots[key]) for places in self.slots.values() for slots, key in places]
        self.fitting: list[str] = []  # names that fitted last, in their order
        self.follower = Follower(model, self.model)
        self.fresh = True  # its first score is watched

    def forward(self, batch: Batch) -> Any:
        return self.functions[0](self.model, batch)

    def follow(self, params: Params) -> None:
        """Take over what has changed in the live model since the last score; host work alone."""
        model = None if torch.compiler.is_compiling() else self.source()
        if model is None:
            return
        try:
            self.follower.follow()
        except OtherModules:
            self.copy(model, again=True)
        untied = any(len({id(params[name]) for name in tie if name in params}) > 1 for tie in self.ties)
        if untied or not self._fits(params):
            now = places(model)
            if (now.keys(), ties(now)) != (self.slots.keys(), self.ties):
                self.copy(model, again=True)

    def check(self, params: Params) -> None:
        """Follow the live model, and raise unless the parameters are exactly its own."""
        given(params)
        self.follow(params)
        if not self._fits(params):
            missing, unknown = sorted(self.needed - params.keys()), sorted(params.keys() - self.names)
            raise SiftError(
                f"params must be all parameters and buffers of the model: missing {missing}, unknown {unknown}; "
                "pass ps.live(model)"
            )

    def _fits(self, params: Params) -> bool:
        if torch.compiler.is_compiling():  # what is remembered would be guarded, and compiled for anew
            return self.needed <= params.keys() <= self.names
        if (names := [*params]) != self.fitting and self.needed <= params.keys() <= self.names:
            self.fitting = names
        return names == self.fitting

    def call(self, params: Params, batch: Batch) -> Any:
        """The function's result with these tensors in place of the model's."""
        self.check(params)
        return self.run(params, batch)

    def run(self, params: Params, batch: Batch) -> Any:
        """The same for parameters that were checked: all that may run under vmap and grad."""
        if torch.compiler.is_compiling():
            tensors = {f"model.{name}": tensor for name, tensor in params.items()}
            return functional_call(self, tensors, (batch,), tie_weights=True)
        if not (self.fresh or asked()):
            return self._run(params, batch)
        with watched(self.source(), self.model, self.hooks):
            answer = self._run(params, batch)
        self.fresh = False
        return answer

    def _run(self, params: Params, batch: Batch) -> Any:
        # As functional_call, but with slots looked up in advance: .03 ms instead of .64 ms for a hundred tensors.
        try:
            for name, tensor in params.items():
                for slots, key in self.slots[name]:
                    slots[key] = tensor
            return self(batch)
        finally:
            for slots, key, tensor in self.empty:
                slots[key] = tensor
