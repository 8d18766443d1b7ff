"""The stream: the only loop over data, and the only place where a pool's tensors are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator

import torch

from puresift import settings, sifters, signals, trees
from puresift.buffers.ring import example, full
from puresift.data.pools import Ahead, epochs, read
from puresift.distributed.pacts import Pact
from puresift.distributed.ranks import place
from puresift.distributed.together import Together
from puresift.errors import MomentError, SiftError
from puresift.infos import join
from puresift.scores.guarding import Guard
from puresift.scores.model import given
from puresift.scores.sharding import accompanied
from puresift.stream.beginning import found, governed
from puresift.stream.governors import Governor
from puresift.stream.handling import Handling
from puresift.stream.joining import Joint
from puresift.stream.leaving import loosened
from puresift.stream.runs import Once, Run
from puresift.stream.shares import Shares
from puresift.stream.telling import META, NOTHING, TOO_LITTLE, WAY_ON, same, unequal
from puresift.stream.timing import Watch
from puresift.stream.unread import Unread
from puresift.types import Batch, Info, Losses, Params, Sifted, Sifter, SiftState
from puresift.uniforms import Uniforms


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
    compiled: bool = False,
    refill: bool = True,
    patience: int | None = None,
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
        compiled: whether all that follows the score is compiled, a graph for each size of pool: fewer launches on a
            GPU, and seconds to a minute before the first batch.
        refill: False for a batch a pool: what is kept of it leaves alone, and a pool that keeps nothing gives no batch
            (on several ranks one of weight 0, so that they stay in step). A batch has some eighths of the largest pool
            in rows, so that compiled steps see eight shapes: its last row is repeated at weight 0, and weights are
            scaled so that `(weights * losses).mean()` is the weighted mean of what was kept. Optimizers that move
            without a gradient too find pools without a batch in `state.step`.
        patience: the most pools that are read for one batch. After them what is held leaves as a short batch, made up
            like that to eighths of batch_size; where nothing is held, it is the next pool that keeps a row. Infos then
            have "left_short", per pool. A saved state resumes to the bit if it was yielded with a batch.

    Returns:
        An iterator of `Sifted(batch, weights, state, info)` with the newest `state`, and `observe(losses)`.

    Raises:
        SiftError: here, when the place in an unsized loader is unknown; while running, when ranks would not score a
            sharded model equally often, a loss is not finite (with nonfinite="raise"), a batch does not fit, or the
            loader ends before it gave a batch. After an error, in the loader or a score too, each further call raises;
            `stream.state` holds what was read before.

    Example:
        >>> import puresift as ps
        >>> loader = torch.arange(8.0).split(4)
        >>> sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2)
        >>> [batch.tolist() for batch, *_ in sift(sifter, sifter.init(ps.key(0), ps.peek(loader)), {}, loader)]
        [[2.0, 3.0], [6.0, 7.0]]
    """
    unequal(sifters.parts_of(sifter) if refill else None)
    sifter = sifters.compiled(sifter) if compiled else sifter
    same(loader.loader if isinstance(loader, epochs) else loader)
    sifter, state, fills = loosened(sifter, state, refill=refill, patience=patience)
    return stream(sifter, state, params, loader, skip=skip, governor=governor, clock=clock, ahead=ahead, fills=fills)


def stream(
    sifter: Sifter,
    state: SiftState,
    params: Params | Callable[[], Params],
    loader: Iterable[Batch],
    *,
    skip: int | None,
    governor: Governor | None = None,
    clock: Callable[[], float] | None = None,
    ahead: bool = True,
    fills: bool = True,
) -> Stream:
    """`sift` for loops that keep ranks in step themselves: without a word about ranks."""
    parts = sifters.parts_of(sifter)
    skip, passes = found(parts, state, loader, skip)
    governed(parts, governor, clock)
    given(params)
    skip = settings.count("skip", skip, least=0)
    return Stream(sifter, state, params, loader, skip, governor, clock, ahead, passes, fills)


class Stream(Once[Sifted]):
    """What `sift` returns: an iterator whose `state` is always the newest, after exhaustion too.

    Example:
        >>> import puresift as ps
        >>> sifter = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2)
        >>> stream = sift(sifter, sifter.init(ps.key(0), torch.zeros(4)), {}, torch.zeros(3, 4))
        >>> [int(state.step) for _, _, state, _ in stream]
        [1, 2, 3]
    """

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
        length: int | None = None,
        fills: bool = True,
    ):
        self.state = state
        self.pact = Pact()  # with ranks="global"; a loader that has one with the other ranks replaces it
        self.joint = Joint(lambda: (self._sifter, self.state, self._params))  # with the ranks that share a model
        self._length, self._fills = length, fills  # of a pass, to skip by; whether all batches are full
        self._sifter, self._loader, self._skip = sifter, loader, skip
        self._governor, self._clock, self._ahead = governor, clock, ahead
        self._params = params if callable(params) else lambda: params
        self._guard, self._uniforms = Guard(params), Uniforms()  # a guard of the first pool that is scored
        self._batch: Batch = None
        self._infos: list[Info] = []
        self.shares = Shares()  # a loop of several streams replaces it by one for all
        self._like: Info | None = None  # the last pool's, or one of its form
        self._run: Run[Sifted | None] = Run(self._started(), WAY_ON)
        self._ready = False

    def __next__(self) -> Sifted:
        self.ready()
        self._ready = False
        sifted = next(self._run)
        assert sifted is not None
        return sifted

    def ready(self) -> bool:
        """Read pools until a batch is full, which then waits in the state; False where the pools end before that."""
        if not self._ready:
            self._ready = next(self._run, _END) is not _END
        return self._ready

    @property
    def info(self) -> Info:
        """The pools read since the last yield; after exhaustion, those whose rows wait in the state."""
        return join(self._infos, self.state.step.device, self._like)

    def close(self) -> None:
        """Read no further, and let go of the loader's iterator; worker processes that nobody lets go of end late."""
        self._run.close()
        self._loader = ()

    def change(self, sifter: Sifter, state: SiftState) -> None:
        """Go on with another sifter, and this state made to its shapes; the loader may ask for it between two pools."""
        self._sifter, self.state = sifter, state
        self._uniforms.forget()

    def observe(self, losses: Losses, batch: Batch = None) -> None:
        """Feed training losses, Float[B], to a stateful score: those of the batch last yielded, or of `batch`."""
        if self._batch is None:
            raise SiftError("observe takes the losses of the batch last yielded, but none was yielded yet")
        self.state = self._sifter.observe(self.state, self._batch if batch is None else batch, losses)

    def _started(self) -> Iterator[Sifted | None]:
        parts = sifters.parts_of(self._sifter)
        company = self.joint.begin(self.pact, self._governor, self._loader, self._skip)
        shared = parts is not None and parts.shared and place()[1] > 1
        steps = self._generate(Together(parts, self.pact, company) if parts is not None and shared else None)
        yield from self.pact.kept(steps) if shared or self.joint.alone else steps

    def _generate(self, together: Together | None) -> Iterator[Sifted | None]:
        """The batches; before each, None once it waits in the state."""
        self.state = trees.to(self.state, self._device())
        device = self.state.step.device
        if device.type == "meta":
            raise MomentError(META)
        watch = Watch(self._governor, self._clock or time.perf_counter, device, events=self._clock is None)
        began = pools = int(self.state.step)
        self.shares.begin(self.state)
        if together is not None:
            waiting, longest = together.begin(self.state, self._length)
            self._skip = self._skip % longest if self._length else self._skip
            for _ in range(waiting):
                yield from self._leave(None, [], watch)
        else:
            while bool(full(self.state.buffer)):  # the state was saved while full batches waited in it
                yield from self._leave(None, [], watch)
        held, loader = int(self.state.buffer.fill[0]), Ahead(read(self._loader, self._skip))
        unread = Unread(None if together or self._governor else sifters.parts_of(self._sifter), device)
        wants = unread.wants  # whether the rule wants scores; unknown before the first pool
        for batch in loader if together is None else together.pools(loader):
            if batch is not None:
                batch = self._plain(batch)
                trees.valued(batch)
                batch = trees.to(batch, device)
            handling = self._handling(wants, watch)
            parts, rows = sifters.parts_of(self._sifter), 0 if together else trees.batch_size(batch)
            uniforms = self._uniforms.at(None if together else parts, self.state, pools, rows)
            start, before = watch.mark(), self.state
            with self._guard.watch(), accompanied(self.joint.company):
                after, info = handling.step(self._sifter if together is None else together, before, batch, uniforms)
            if info is None:  # no rank has a pool left
                break
            self.state = after
            if self._ahead and device.type != "cpu":
                loader.fetch()
            told = unread.signal(info, held, pools)
            signal, info = told or watch.read(info, start)  # the only synchronisation per pool
            unread.check()
            if signal.refused or signal.cut:
                self.state = before  # which holds nothing of this pool
                signals.uncut(signal.cut)
                raise SiftError(
                    f"{signal.refused} of {len(info.losses)} losses in pool {pools} are NaN or infinite; look for a "
                    'diverging run, or choose ps.sifter(..., nonfinite="drop") or "keep"'
                )
            pools, wants, self._like = pools + 1, signal.wants, info
            self._infos.append(info)
            if told is None:  # else it keeps its plan
                self.shares.see(info)
            held, due, widths = signal.held, signal.due, iter(signal.widths)
            while held >= due:
                rows = yield from self._leave(next(widths, None) if signal.widths else 0, self._infos, watch)
                held, due = held - rows, max(due - rows, 0) or signal.due  # a short batch is made up
        unread.check(wait=True)
        self.joint.meet(False)
        if not began and self._batch is None and (self._fills or not pools):
            raise SiftError(NOTHING if not pools else TOO_LITTLE.format(pools, int(self.state.buffer.fill[0])))

    def _handling(self, wants: bool | None, watch: Watch) -> Handling:
        """How the next pool is handled; until it is known whether the rule wants scores, the sifter's step decides."""
        if watch.through(wants):
            return Handling(None, through=True)
        return Handling(self._guard if wants is None else self._guard() if wants else None, through=False)

    def _leave(self, width: int | None, infos: list[Info], watch: Watch) -> Generator[Sifted | None, None, int]:
        """Yield one batch; returns its number of rows."""
        self.joint.meet(True)
        yield None
        self.state, (self._batch, weights) = self._sifter.take(self.state, width)
        if self._like is None:  # a row of the batch is asked as a pool, for the names and types that infos have
            row = trees.index(self._plain(self._batch), slice(0, 1))
            self._like = watch.like(self._sifter.step(self.state, None, row)[1])
        sifted = Sifted(self._batch, weights, self.state, join(infos, weights.device, self._like))
        infos.clear()
        start = watch.mark()
        yield sifted
        watch.trained(start, len(weights))
        return len(weights)

    def _plain(self, batch: Batch) -> Batch:
        return trees.plain(batch, lambda: example(self.state.buffer))

    def _device(self) -> torch.device:
        return next((tensor.device for tensor in self._params().values()), self.state.step.device)


_END = object()
