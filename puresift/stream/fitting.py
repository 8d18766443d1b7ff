"""The state of a loader, made to the shapes of the pools that it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from puresift import trees
from puresift.buffers import example
from puresift.sifters import parts_of
from puresift.steps import Parts
from puresift.stream.padding import Ragged
from puresift.stream.places import Place
from puresift.stream.stream import Stream
from puresift.types import Batch, Key, Sifter, SiftState


class Fitted:
    """What a sifting loader knows of its state: it is made of the first pool, and wider ones make it wider."""

    batch_size: int | None
    _build: Callable[[int], Sifter]
    _key: Key
    _place: Place
    _ragged: Ragged | None
    _sifter: Sifter
    _state: SiftState | None
    _stream: Stream | None

    @property
    def _parts(self) -> Parts:
        return parts_of(self._sifter)  # type: ignore[return-value]  # it is always one of ours

    @property
    def state(self) -> SiftState:
        """The newest state."""
        return self._ready() if self._stream is None else self._stream.state

    def _ready(self) -> SiftState:
        """The state; before the first pass, initialised from the first batch."""
        if self._state is None:
            self._state = self._init(self._place.peek())
        return self._state

    def _init(self, first: Batch) -> SiftState:
        if self.batch_size is None:
            self.batch_size = trees.batch_size(trees.plain(first))
            self._sifter = self._build(self.batch_size)
        return self._sifter.init(self._key, first)

    def _fitting(self, pools: Iterator[Batch]) -> Iterator[Batch]:
        """The pools; before one of longer rows, the state is made to hold them."""
        for batch in pools:
            if self._ragged is not None:
                batch = trees.plain(batch, lambda: example(self.state.buffer))
                if self._ragged.wider(batch, example(self.state.buffer)):
                    assert self._stream is not None and self.batch_size is not None
                    self._sifter = self._build(self.batch_size)
                    self._stream.change(self._sifter, self._ragged.widened(self.state))
            yield batch
