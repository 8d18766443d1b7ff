"""The shell: the only loop over data, the only clock, the only place where tensors are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from puresift import settings, trees
from puresift.buffers import full
from puresift.governor import Governor
from puresift.metrics import join
from puresift.pools import Ahead, epochs, read, size
from puresift.ranks import ranks
from puresift.twins import tensors, unwrap
from puresift.types import Batch, Info, Losses, Params, ScoreFn, Sifted, Sifter, SiftState
from puresift.watch import Watch


class Live(Mapping[str, Tensor]):
    """A model's parameters and buffers by name, read again at each use."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self) -> dict[str, Tensor]:
        return tensors(unwrap(self.model))

    def __getitem__(self, name: str) -> Tensor:
        return self()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self())

    def __len__(self) -> int:
        return len(self())


def live(model: nn.Module) -> Live:
    """The model's parameters and buffers, read again at each use, so that every score is that of the newest model.

    Args:
        model: any module; DDP and compile wrappers are taken off.

    Returns:
        A mapping from names to tensors; called, it gives them as a plain dict.

    Example:
        >>> sorted(live(nn.Linear(1, 1)))
        ['bias', 'weight']
    """
    return Live(model)


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

    Full batches still in the buffer leave first; then pools are read from `state.step` on, so that a saved state goes
    on where it stopped. For that the loader has to give the same pools again: let the shuffle depend on a seed and the
    epoch only (`DistributedSampler`, with `set_epoch`), not on a generator that has moved on.

    Args:
        sifter: from `ps.sifter`.
        state: from `sifter.init`, a yielded one, or the `state` of a stream that ended.
        params: `ps.live(model)`, or a zero-argument callable that gives the newest parameters, or a fixed mapping.
        loader: an iterable of batches, moved to the device of the parameters as they come.
        skip: pools to pass over first. By default `state.step`, modulo the loader's length unless it is `ps.epochs`.
        governor: `ps.governor()`, to hand pools through unscored while sifting does not pay. What is kept then depends
            on the clock, and a resumed stream measures anew; infos carry "sifting", "phi" and "reading", one a pool.
        clock: what the governor reads, in seconds; by default CUDA's events there, and `time.perf_counter` elsewhere.
        ahead: on a GPU, fetch the next pool from the loader while it scores this one; False where the loader's own
            position is saved with the state. Elsewhere pools are fetched when they are due.

    Returns:
        An iterator of `Sifted(batch, weights, state, info)` with the newest `state`, and `observe(losses)`.

    Raises:
        ValueError: here, when the place in an unsized loader is unknown; while running, when a loss is not
            finite (under that policy), a batch does not fit, or the loader ends before it gave a batch.

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
            raise ValueError(
                f"the state has read {begun} pools, but the loader has no length to find its place by; pass skip=0 "
                f"if it already stands where it should, or skip={begun} to pass over what was read"
            )
        skip = begun % length if length else begun
    if clock is not None and governor is None:
        raise ValueError("clock= is read by a governor alone; pass governor=ps.governor() with it")
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
        self._batch: Batch = None
        self._infos: list[Info] = []
        self._run = self._generate()

    def __next__(self) -> Sifted:
        return next(self._run)

    @property
    def info(self) -> Info:
        """The pools read since the last yield; after exhaustion, those whose rows wait in the state."""
        return join(self._infos, self.state.step.device)

    def observe(self, losses: Losses, batch: Batch = None) -> None:
        """Feed training losses, Float[B], to a score that remembers: those of the batch last yielded, or of `batch`."""
        if self._batch is None:
            raise ValueError("observe takes the losses of the batch last yielded, but none was yielded yet")
        self.state = self._sifter.observe(self.state, self._batch if batch is None else batch, losses)

    def _generate(self) -> Iterator[Sifted]:
        self.state = trees.to(self.state, self._device())
        device = self.state.step.device
        watch = Watch(self._governor, self._clock or time.perf_counter, device, events=self._clock is None)
        began = pools = int(self.state.step)
        barren = began == 0
        while bool(full(self.state.buffer)):  # what the giver of the state had not taken yet
            barren = False
            sifted, start = self._take(None, []), watch.mark()
            yield sifted
            watch.trained(start, len(sifted.weights))
        infos = self._infos
        wants: int | None = None  # not known yet: the first step asks the rule, and then for params, if it wants scores
        loader = Ahead(read(self._loader, self._skip))
        for batch in loader:
            batch = trees.to(trees.plain(batch), device)
            through = watch.through(None if wants is None else bool(wants))
            params: Any = self._params if wants is None else self._params() if wants and not through else None
            start = watch.mark()
            self.state, info = self._sifter.step(self.state, params, batch, **{"through": True} if through else {})
            if self._ahead and device.type != "cpu":
                loader.fetch()
            (held, due, fatal, wants, *widths), info = watch.read(info, start)  # the one synchronisation of a pool
            if fatal:
                raise ValueError(
                    f"{fatal} of {len(info.losses)} losses in pool {pools} are NaN or infinite; look for a diverging "
                    'run, or choose ps.sifter(..., nonfinite="drop") or "keep"'
                )
            pools += 1
            infos.append(info)
            span, known = due, iter(widths)
            while held >= due:
                barren = False
                sifted = self._take(next(known, None) if widths else 0, infos)
                infos.clear()
                held -= len(sifted.weights)
                due = due - len(sifted.weights) or span
                start = watch.mark()
                yield sifted
                watch.trained(start, len(sifted.weights))
        if barren and pools == 0:
            raise ValueError("the loader gave no batch; an iterator that was used up before is the usual cause")
        if barren:
            raise ValueError(
                f"the loader ended after {pools} pools with {int(self.state.buffer.fill[0])} kept rows, before one "
                "batch was full; lower batch_size, raise keep, run several epochs with ps.epochs, or hand the rows "
                "out with sifter.flush(stream.state)"
            )

    def _take(self, width: int | None, infos: list[Info]) -> Sifted:
        self.state, (batch, weights) = self._sifter.take(self.state, width)
        self._batch = batch
        return Sifted(batch, weights, self.state, join(infos, weights.device))

    def _device(self) -> torch.device:
        return next((tensor.device for tensor in self._params().values()), self.state.step.device)


def progress(state: SiftState, pools: int) -> float:
    """The fraction of the budget spent, in pools read: what a learning-rate schedule counts when steps are unknown.

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


class Choice(NamedTuple):
    """What `fastest` found."""

    name: str
    score: ScoreFn
    seconds: dict[str, float]  # median time of one call
    agreement: dict[str, float]  # rank correlation with the first candidate; NaN where a loss is not finite


def fastest(scores: Mapping[str, ScoreFn], params: Params, batch: Batch, *, agreement: float = 0.99) -> Choice:
    """The cheapest of several scores among those that rank a batch as the first one does.

    Not every machine is faster in lower precision, so it is measured: a warm-up, then the median of three calls each.

    Args:
        scores: candidates by name; the first is the reference and always admitted.
        params: as the scores take them.
        batch: a typical pool.
        agreement: the least Spearman rank correlation with the reference.

    Returns:
        A `Choice`; save its name with the checkpoint, for a resumed run has to score as the first one did.

    Raises:
        ValueError: there is no candidate, or the reference gives losses that are not finite.

    Example:
        >>> fastest({"plain": lambda params, batch: batch}, {}, torch.arange(3.0)).name
        'plain'
    """
    if not scores:
        raise ValueError("fastest needs at least one score, such as {'float32': score}")
    seconds, ranking, losses = {}, {}, {}
    for name, score in scores.items():
        losses[name] = score(params, batch).float()
        seconds[name] = median(_seconds(score, params, batch) for _ in range(3))
    reference = losses[next(iter(scores))]
    if not bool(reference.isfinite().all()):
        raise ValueError("the first score, which the others are compared with, gives losses that are not finite")
    for name, values in losses.items():
        ranking[name] = _rank_correlation(reference, values)
    admitted = [name for name in scores if ranking[name] >= agreement]
    best = min(admitted, key=seconds.__getitem__)
    return Choice(best, scores[best], seconds, ranking)


def _seconds(score: ScoreFn, params: Params, batch: Batch) -> float:
    start = time.perf_counter()
    score(params, batch).sum().item()  # reading a number waits for the device
    return time.perf_counter() - start


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, with mid-ranks for ties; 1 for equal tensors, NaN where a number is not finite."""
    if bool((one == other).all()):
        return 1.0
    if not bool(other.isfinite().all()):
        return float("nan")
    middle = [torch.stack(ranks(losses.sort().values, losses)).sum(0).double() for losses in (one, other)]
    return float(torch.corrcoef(torch.stack(middle))[0, 1].nan_to_num(0.0))
