"""A sifted loader cut into epochs that know their last batch, for trainers that must know it in advance.

An epoch ends with the batch that takes in the last pool of a pass; where its rows do not fill a batch, pools of the
next pass do. So once a batch is full it is known whether it is the last, and nothing was sifted ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from puresift.buffers import example, full
from puresift.data.pools import size
from puresift.errors import SiftError
from puresift.listed import RowSerial
from puresift.stream.loader import SiftingDataLoader

_PATIENCE = 8  # empty passes before an error
_END = object()
_HANDED = {
    False: "SiftingCallback(weights=True), which is [batch, weights]: begin training_step by `batch, weights = batch`",
    True: "SiftingCallback(weights={0!r}), a dict with one entry more: take the weights out by batch.pop({0!r})",
}


class Epochs:
    """Batches of a sifted loader, pass after pass, each with whether it is the last of its epoch.

    Args:
        loader: the sifting loader.
        read: called at the end of a pass, to read infos that no batch carries.
    """

    def __init__(self, loader: SiftingDataLoader, read: Callable[[], None]):
        self.loader, self._read = loader, read
        self._pass: Iterator[Any] | None = None
        self._began = 0  # pools read before this pass
        self._closed = False  # whether this pass has ended an epoch already

    @property
    def share(self) -> float:
        """The share of this pass that was read; 0 where its length is not known."""
        pools = size(self.loader.loader)
        return (int(self.loader.state.step) - self._began) / pools if pools else 0.0

    def next(self) -> tuple[Any, bool]:
        """The next batch, of this pass or a later one, and whether it is the last of its epoch."""
        if self._pass is None:
            self._pass = iter(self.loader)
        passes, crossed = 0, False
        while (batch := next(self._pass, _END)) is _END:
            passes, crossed, self._closed = passes + 1, crossed or not self._closed, False
            if passes > _PATIENCE:
                error = SiftError(f"{passes} passes over the loader fill no batch; lower batch_size or raise keep")
                self.loader.fail(error)
                raise error
            self._read()
            self._began, self._pass = int(self.loader.state.step), iter(self.loader)
        state, pools = self.loader.state, size(self.loader.loader)
        ended = pools is not None and int(state.step) - self._began >= pools and not bool(full(state.buffer))
        self._closed = self._closed or ended
        return batch, crossed or ended

    def ahead(self, weights: str | bool | None) -> Iterator[Any]:
        """One epoch, each batch yielded as an empty container, and filled when the next one is requested."""
        last = False
        while not last:
            box = _box(self.loader, weights)
            yield box
            batch, last = self.next()
            if isinstance(box, dict):
                box.update(batch)
            else:
                box.extend(batch)

    def state_dict(self) -> dict[str, Any]:
        """The loader's, and whether this pass has ended an epoch."""
        return {"closed": self._closed, **self.loader.state_dict()}

    def load_state_dict(self, flat: Mapping[str, Any]) -> None:
        """Resume where `flat` was taken."""
        self.loader.load_state_dict({name: value for name, value in flat.items() if name != "closed"})
        self._began = int(self.loader.state.step) - int(flat["loader/pools"])
        self._pass, self._closed = None, bool(flat["closed"])


def _box(loader: SiftingDataLoader, weights: str | bool | None) -> dict[str, Any] | list[Any]:
    """An empty container of the kind the batches are."""
    if weights:
        return {} if isinstance(weights, str) else []
    rows = example(loader.state.buffer)
    if isinstance(rows, dict):
        return {}
    if type(rows) in (list, tuple, RowSerial):
        return []
    raise SiftError(
        f"a batch that is a {type(rows).__name__} cannot be handed out before it is full; pass weights=True to get "
        "[batch, weights], or let the loader give dicts, lists or tuples"
    )


class Probe:
    """Checks whether a loss uses the weights: they require a gradient until a backward has shown it."""

    def __init__(self, weights: str | bool | None):
        self._mode, self._open = weights, bool(weights)
        self._first: bool | None = None  # whether a first batch is in training; None before it
        self._weights: Tensor | None = None  # those of the batch in training, which may take them out of it

    def before(self, batch: Any) -> None:
        """Before the forward."""
        self._first = self._first is None
        weights = self._weights = self._find(batch)
        if self._open and weights is not None:
            weights.requires_grad_()

    def after(self) -> None:
        """After the backward.

        Raises:
            SiftError: weights are not all 1, and have no gradient.
        """
        self._first = False
        weights, self._weights = self._weights, None
        if not self._open or weights is None:
            return
        self._open = weights.grad is None
        weights.requires_grad_(False).grad = None
        if self._open and bool((weights != 1).any()):
            where = f"batch[{self._mode!r}]" if isinstance(self._mode, str) else "those of `batch, weights = batch`"
            raise SiftError(
                "this rule gives weights, and no gradient reached them, so the loss leaves them out; in training_step, "
                f"multiply the per-sample losses by {where}, not detached"
            )

    def explain(self, error: BaseException) -> None:
        """Add to an error of the first batch what that batch was: a training_step that was left as it was trips on it.

        The error stays what it is, for it may be about something else.
        """
        if self._mode and self._first and isinstance(error, Exception) and not isinstance(error, SiftError):
            error.add_note(
                f"puresift: this was the first batch of {_HANDED[isinstance(self._mode, str)].format(self._mode)}; "
                "where all weights of the rule are 1, leave weights= out and training_step as it was"
            )

    def _find(self, batch: Any) -> Tensor | None:
        """The weights in a batch; None where the user's hooks have replaced it."""
        if isinstance(self._mode, str):
            weights = batch.get(self._mode) if isinstance(batch, Mapping) else None
        else:
            weights = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
        return weights if isinstance(weights, Tensor) and weights.is_leaf else None
