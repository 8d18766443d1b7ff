"""The guard of a first score: what scoring must leave alone, compared before and after, on the host alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from puresift import trees
from puresift.errors import SiftError
from puresift.listed import tensors as tensors_of
from puresift.scores.copies import Live, tensors, unwrap
from puresift.scores.hooks import judge
from puresift.scores.stamps import Same, version
from puresift.types import Batch, Params

_watching: ContextVar[bool] = ContextVar("watching", default=False)
_TWIN = "score an eval-mode copy with ps.batched(model, loss)"


class Guard:
    """Watches the first pool that a stream scores; a callable that gives the parameters, as `sifter.step` takes one."""

    def __init__(self, params: Params | Callable[[], Params]):
        self._params = params
        self._before: Before | None = None
        self._done = False

    def __call__(self) -> Params:
        params = self._params() if callable(self._params) else self._params
        if not self._done:
            self._before = Before(params, self._params)
        return params

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Raise if the score within, the first for which parameters were asked, has touched what it must not.

        Raises:
            SiftError: naming what was touched, the usual cause and the cure.
        """
        if self._done:
            yield
            return
        with watching():
            yield
        if self._before is not None:
            before, self._before, self._done = self._before, None, True
            before.compare()


class Before:
    """Parameters and their gradients as they are before a score, and the model's modes where `ps.live` gives them."""

    def __init__(self, params: Params, source: Any):
        self._model = source.model if isinstance(source, Live) else None
        self._tensors = [(name, leaf, _stamps(leaf)) for name, leaf in params.items() if isinstance(leaf, Tensor)]
        self._modes = _modes(self._model)

    def __enter__(self) -> Before:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.compare()

    def compare(self) -> None:
        """Raise for whatever is not as it was.

        Raises:
            SiftError: naming what was touched, the usual cause and the cure.
        """
        for name, tensor, before in self._tensors:
            for (what, old), (_, new) in zip(before.items(), _stamps(tensor).items(), strict=True):
                if new != old:
                    raise SiftError(_TOUCHED[what].format(name=f"params[{name!r}]"))
        if self._model is not None:
            now = tensors(unwrap(self._model))
            for name in (name for name, tensor, _ in self._tensors if now.get(name) is not tensor):
                raise SiftError(_TOUCHED["object"].format(name=f"params[{name!r}]"))
        _compare_modes(self._modes)


def _stamps(tensor: Tensor) -> dict[str, Any]:
    gradient = tensor.grad if tensor.is_leaf else None
    return {
        "values": version(tensor),
        "kind": tensor.requires_grad,
        "gradient": Same(gradient),
        "gradients": None if gradient is None else version(gradient),
    }


_GRADIENT = (
    "the score changes the gradient of {name}: zero_grad() or backward() in the loss are the usual causes; leave them "
    "to the training loop, and let the loss only compute"
)
_TOUCHED = {
    "values": "the score writes to {name}: a forward that counts up a buffer, BatchNorm in train mode and in-place "
    f"operations are the usual causes; count only `if self.training`, {_TWIN}, or work on a clone",
    "object": f"the score replaces {{name}} by another tensor; {_TWIN}, and count in a buffer only `if self.training`",
    "kind": "the score changes requires_grad of {name}; freeze parameters outside of the loss",
    "gradient": _GRADIENT,
    "gradients": _GRADIENT,
}


def detached(tree: Any) -> Any:
    """The tree with no graph at its tensors, so that a state made of it keeps none."""
    if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in trees.leaves(tree)):
        return tree
    return trees.map_leaves(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


class Frozen:
    """The leaves of a batch, which a score must not write to: the rows kept of it are trained on.

    Only the version counters are compared; under torch.compile nothing is.
    """

    def __init__(self, batch: Batch):
        leaves = [] if torch.compiler.is_compiling() else trees.named(batch)
        rows = [(name, leaf) for name, leaf in leaves if isinstance(leaf, trees.Rows)]
        inner = [(f"{name}/{part}", tensor) for name, leaf in rows for part, tensor in tensors_of(leaf)]
        whole = [(name, leaf) for name, leaf in leaves if isinstance(leaf, Tensor)]
        self._leaves = [(name, leaf, version(leaf)) for name, leaf in whole + inner]

    def compare(self) -> None:
        """Raise if a leaf was written to.

        Raises:
            SiftError: naming the leaf and the cure.
        """
        for name, leaf, before in self._leaves:
            if version(leaf) != before:
                raise SiftError(
                    f"the score writes to its input, leaf {name!r} of the batch, whose rows are then trained on; leave "
                    "out in-place operations on it in the forward and the loss, as in x = x / 255 instead of "
                    "x.div_(255), or work on x.clone()"
                )


def asked() -> bool:
    """Whether copies that are run now are to be watched."""
    return _watching.get()


@contextmanager
def watching() -> Iterator[None]:
    """Copies of models that are run within are `watched`."""
    token = _watching.set(True)
    try:
        yield
    finally:
        _watching.reset(token)


@contextmanager
def watched(model: nn.Module | None, image: nn.Module, hooks: set[int]) -> Iterator[None]:
    """Raise if a score, run on the copy of a model, runs the model itself or changes a mode; `hooks` were judged.

    Raises:
        SiftError: naming what was done, the usual cause and the cure.
    """
    if model is not None:
        judge(model, hooks)  # hooks may have come since the copy was made
    run: list[str] = []
    modes = [_modes(model), _modes(image)]
    handles = [
        module.register_forward_pre_hook(lambda module, _: run.append(type(module).__name__))
        for module in ([] if model is None else model.modules())
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if run:
        raise SiftError(
            f"scoring ran the {run[0]} of the model itself, not of its eval-mode copy: a forward replaced on the "
            "instance by a function that holds the old one, and a loss that uses another model than its argument, are "
            "the usual causes; put the change into a subclass or a module around it, and use the loss's argument"
        )
    for one in modes:
        _compare_modes(one)


def _modes(model: nn.Module | None) -> list[tuple[str, nn.Module, bool]]:
    return [] if model is None else [(name, module, module.training) for name, module in model.named_modules()]


def _compare_modes(modes: list[tuple[str, nn.Module, bool]]) -> None:
    """Raise if a module has changed its mode, after all are put back."""
    changed = [(name or type(module).__name__, module, mode) for name, module, mode in modes if module.training != mode]
    for _, module, mode in changed:
        module.training = mode
    if changed:
        name, _, mode = changed[0]
        raise SiftError(
            f"the score puts {name} into {'eval' if mode else 'train'} mode: train() or eval() in the loss or the "
            f"forward is the usual cause; leave them out, {_TWIN}: the copy is in eval mode always"
        )
