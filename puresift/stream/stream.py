"""The stream: the only loop over data, and the only place where a pool's tensors are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

import torch

from puresift import settings, signals, trees
from puresift.buffers.ring import full
from puresift.data.pools import Ahead, epochs, read, size
from puresift.errors import MomentError, SiftError
from puresift.infos import join
from puresift.scores.guarding import Guard
from puresift.scores.model import given
from puresift.stream.governors import Governor
from puresift.stream.runs import Run
from puresift.stream.shares import Shares
from puresift.stream.timing import Watch
from puresift.types import Batch, Info, Losses, Params, Sifted, Sifter, SiftState


def sift(
    sifter: Sifter,
    state: SiftState,
    params: Params | Callable[[], Params],
    loader: Iterable[Batch],
    *,
    skip: int | None = None,
    governor: Governor | None = None,
    clock: Callable[[], float] | None = None,
    ahead: bool = True,
) -> Stream:
    """Read pools, keep what the sifter keeps, and yield it in full batches.

    Full batches still in the buffer leave first; then pools are read from `state.step` on, so that a saved state
    resumes where it stopped. The loader must then give the same pools again: let the shuffle depend only on a seed and
    the epoch (`DistributedSampler`, with `set_epoch`), not on a generator whose state has changed.

    Args:
        sifter: from `ps.sifter`.
        state: from `sifter.init`, a yielded one, or the `state` of a stream that ended.
        params: `ps.live(model)`, or a zero-argument callable that gives the newest parameters, or a fixed mapping.
        loader: an iterable of batches, moved to the device of the parameters as they come.
        skip: pools to skip first. By default `state.step`, modulo the loader's length unless it is `ps.epochs`: a state
            that has read the whole of a plain loader begins its next pass. For a loader that is read once, pass
            skip=int(state.step) or wrap it as `ps.epochs(loader, 1)`; such a state then has nothing left to read.
        governor: `ps.governor()`, to keep whole pools unscored while sifting does not pay. What is kept then depends
            on the clock, and a resumed stream measures again; infos have "sifting", "phi" and "reading", per pool.
        clock: the governor's clock, in seconds; by default CUDA events on CUDA, and `time.perf_counter` elsewhere.
        ahead: on a GPU, fetch the next pool from the loader while it scores this one; False where the loader's own
            position is saved with the state. On other devices pools are fetched when needed.

    Returns:
        An iterator of `Sifted(batch, weights, state, info)` with the newest `state`, and `observe(losses)`.

    Raises:
        SiftError: here, when the place in an unsized loader is unknown; while running, when a loss is not
            finite (with nonfinite="raise"), a batch does not fit, or the loader ends before it gave a batch. After an
            error, in the loader or a score too, each further call raises; `stream.state` holds what was read before.

    Example:
        >>> import puresift as ps
        >>> loader = torch.arange(8.0).split(4)
        >>> sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2)
        >>> stream = sift(sifter, sifter.init(ps.key(0), ps.peek(loader)), {}, loader)
        >>> [batch.tolist() for batch, weights, state, info in stream]
        [[2.0, 3.0], [6.0, 7.0]]
    """
    if skip is None:
        begun = int(state.step)
        length = None if isinstance(loader, epochs) else size(loader)
        if begun and length is None and not isinstance(loader, epochs):
            raise SiftError(
                f"the state has read {begun} pools, but the loader has no length to find its place by; pass skip=0 "
                f"if it already stands where it should, or skip={begun} to pass over what was read"
            )
        skip = begun % length if length else begun
    if governor is not None:
        settings.called("governor", governor, "decide")
    given(params)
    if clock is not None and governor is None:
        raise SiftError("clock= is read by a governor alone; pass governor=ps.governor() with it")
    return Stream(sifter, state, params, loader, settings.count("skip", skip, least=0), governor, clock, ahead)


class Stream(Iterator[Sifted]):
    """What `sift` returns: an iterator whose `state` is always the newest, after exhaustion too."""

    state: SiftState

    def __init__(
        self,
        sifter: Sifter,
        state: SiftState,
        params: Params | Callable[[], Params],
        loader: Iterable[Batch],
        skip: int,
        governor: Governor | None,
        clock: Callable[[], float] | None,
        ahead: bool,
    ):
        self.state = state
        self._sifter, self._loader, self._skip = sifter, loader, skip
        self._governor, self._clock, self._ahead = governor, clock, ahead
        self._params = params if callable(params) else lambda: params
        self._guard = Guard(params)  # of the first pool that is scored
        self._batch: Batch = None
        self._infos: list[Info] = []
        self.shares = Shares()  # a loop of several streams replaces it by one for all
        self._like: Info | None = None  # the last pool's, or one of its form
        self._run = Run(self._generate(), _WAY_ON)

    def __next__(self) -> Sifted:
        return next(self._run)

    @property
    def info(self) -> Info:
        """The pools read since the last yield; after exhaustion, those whose rows wait in the state."""
        return join(self._infos, self.state.step.device, self._like)

    def change(self, sifter: Sifter, state: SiftState) -> None:
        """Go on with another sifter, and this state made to its shapes; the loader may ask for it between two pools."""
        self._sifter, self.state = sifter, state

    def observe(self, losses: Losses, batch: Batch = None) -> None:
        """Feed training losses, Float[B], to a stateful score: those of the batch last yielded, or of `batch`."""
        if self._batch is None:
            raise SiftError("observe takes the losses of the batch last yielded, but none was yielded yet")
        self.state = self._sifter.observe(self.state, self._batch if batch is None else batch, losses)

    def _generate(self) -> Iterator[Sifted]:
        self.state = trees.to(self.state, self._device())
        device = self.state.step.device
        if device.type == "meta":
            raise MomentError(
                "the parameters are on the meta device, where tensors have no values to score by; give the model its "
                "values first, as by model.to_empty(device=...) and load_state_dict"
            )
        watch = Watch(self._governor, self._clock or time.perf_counter, device, events=self._clock is None)
        began = pools = int(self.state.step)
        self.shares.begin(self.state)
        while bool(full(self.state.buffer)):  # the state was saved while full batches waited in it
            yield from self._leave(None, [], watch)
        wants: bool | None = None  # whether the rule wants scores; unknown before the first pool
        loader = Ahead(read(self._loader, self._skip))
        for batch in loader:
            batch = trees.plain(batch)
            trees.valued(batch)
            batch = trees.to(batch, device)
            handling = self._handling(wants, watch)
            start, before = watch.mark(), self.state
            with self._guard.watch():
                after, info = handling.step(self._sifter, before, batch)
            self.state = after
            if self._ahead and device.type != "cpu":
                loader.fetch()
            signal, info = watch.read(info, start)  # the only synchronisation per pool
            if signal.refused or signal.cut:
                self.state = before  # which holds nothing of this pool
                signals.uncut(signal.cut)
                raise SiftError(
                    f"{signal.refused} of {len(info.losses)} losses in pool {pools} are NaN or infinite; look for a "
                    'diverging run, or choose ps.sifter(..., nonfinite="drop") or "keep"'
                )
            pools, wants, self._like = pools + 1, signal.wants, info
            self._infos.append(info)
            self.shares.see(info)
            held, due, widths = signal.held, signal.due, iter(signal.widths)
            while held >= due:
                rows = yield from self._leave(next(widths, None) if signal.widths else 0, self._infos, watch)
                held, due = held - rows, due - rows or signal.due
        if not began and self._batch is None:
            raise SiftError(_NOTHING if not pools else _TOO_LITTLE.format(pools, int(self.state.buffer.fill[0])))

    def _handling(self, wants: bool | None, watch: Watch) -> Handling:
        """How the next pool is handled; until it is known whether the rule wants scores, the sifter's step decides."""
        if watch.through(wants):
            return Handling(None, through=True)
        return Handling(self._guard if wants is None else self._guard() if wants else None, through=False)

    def _leave(self, width: int | None, infos: list[Info], watch: Watch) -> Generator[Sifted, None, int]:
        """Yield one batch; returns its number of rows."""
        self.state, (self._batch, weights) = self._sifter.take(self.state, width)
        if self._like is None:  # a row of the batch is asked as a pool, for the names and types that infos have
            row = trees.index(trees.plain(self._batch), slice(0, 1))
            self._like = watch.like(self._sifter.step(self.state, None, row)[1])
        sifted = Sifted(self._batch, weights, self.state, join(infos, weights.device, self._like))
        infos.clear()
        start = watch.mark()
        yield sifted
        watch.trained(start, len(weights))
        return len(weights)

    def _device(self) -> torch.device:
        return next((tensor.device for tensor in self._params().values()), self.state.step.device)


class Handling(NamedTuple):
    """How a pool is handled: scored with these parameters, not scored (None), or kept whole without the rule."""

    params: Params | Callable[[], Params] | None
    through: bool

    def step(self, sifter: Sifter, state: SiftState, batch: Batch) -> tuple[SiftState, Info]:
        """The sifter's step; `through` is passed only if set, so custom sifters need not accept it."""
        return sifter.step(state, None, batch, through=True) if self.through else sifter.step(state, self.params, batch)


_WAY_ON = "go on with another ps.sift from stream.state, which holds what was read before"
_NOTHING = "the loader gave no batch; an iterator that was used up before is the usual cause"
_TOO_LITTLE = (
    "the loader ended after {} pools with {} kept rows, before one batch was full; lower batch_size, raise keep, "
    "run several epochs with ps.epochs, or hand the rows out with sifter.flush(stream.state)"
)


def progress(state: SiftState, pools: int) -> float:
    """The fraction of the budget spent, in pools read: for a learning-rate schedule when steps are unknown.

    Args:
        state: the newest one, `stream.state`.
        pools: the budget, such as `epochs * len(loader)`.

    Returns:
        A number in [0, 1].

    Example:
        >>> import puresift as ps
        >>> sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2)
        >>> state = sifter.init(ps.key(0), torch.zeros(2))
        >>> progress(sifter.step(state, None, torch.zeros(2))[0], pools=4)
        0.25
    """
    return min(int(state.step) / settings.count("pools", pools), 1.0)
