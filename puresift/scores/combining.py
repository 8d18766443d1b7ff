"""Combinators: scores in, a score out. Any of them may be stateful."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.ids import Ids, by_id, checked, ids_of
from puresift.order import ranks
from puresift.scores.losses import lift
from puresift.types import Batch, Losses, Params, Score, ScoreFn


class CombinedState(NamedTuple):
    """The states of the scores combined."""

    parts: tuple[Any, ...]


def difference(score: ScoreFn | Score, other: ScoreFn | Score) -> Score:
    """One score minus another, row by row.

    Args:
        score: what counts for a row.
        other: what counts against it, such as `lambda params, batch: reference(batch)`.

    Returns:
        A `Score`, Float[B]; training losses go to those parts that remember.

    Example:
        >>> gap = difference(lambda params, x: x, lambda params, x: x.square())
        >>> gap.apply(gap.init(), {}, torch.tensor([1.0, 0.5]))[1]
        tensor([0.0000, 0.2500])

    References:
        Sören Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet
        Learnt", 2022.
    """
    return _combined([score, other], lambda losses: losses[0] - losses[1])


def total(*scores: ScoreFn | Score) -> Score:
    """The sum of several scores, row by row; for scores in different units, see `rank_mix`.

    Args:
        *scores: one or more.

    Returns:
        A `Score`, Float[B]; training losses go to those parts that remember.

    Raises:
        SiftError: there is no score.

    Example:
        >>> both = total(lambda params, x: x, lambda params, x: 2 * x)
        >>> both.apply(both.init(), {}, torch.tensor([1.0, 0.5]))[1]
        tensor([3.0000, 1.5000])
    """
    return _combined(scores, lambda losses: torch.stack(losses).sum(0))


def rank_mix(*scores: ScoreFn | Score) -> Score:
    """The mean of a row's ranks in its pool, over several scores: (#below + #equal / 2) / B, in (0, 1).

    Scale-free: a score in nats and one in [0, 1] count the same. A row counts as non-finite where any score does.

    Args:
        *scores: one or more.

    Returns:
        A `Score`, Float[B]; training losses go to those parts that remember.

    Raises:
        SiftError: there is no score.

    Example:
        >>> mixed = rank_mix(lambda params, x: x, lambda params, x: -100 * x)
        >>> mixed.apply(mixed.init(), {}, torch.tensor([1.0, 0.5]))[1]
        tensor([0.5000, 0.5000])

    References:
        Javed A. Aslam, Mark Montague, "Models for Metasearch", 2001.
    """

    def mean_rank(losses: list[Losses]) -> Losses:
        shares = []
        for values in (one.float() for one in losses):
            below, upto = ranks(values, values)
            shares.append(torch.where(values.isfinite(), (below + upto) / (2 * values.shape[0]), torch.nan))
        return torch.stack(shares).mean(0)

    return _combined(scores, mean_rank)


def reducible(
    score: ScoreFn | Score,
    reference: Tensor | Callable[[Batch], Losses],
    *,
    size: int | None = None,
    id: Ids = by_id,
) -> Score:
    """The reducible loss: the loss minus the irreducible loss, that of a model trained on held-out data.

    Noise has a high loss under both and scores near 0; so do rows already learnt.

    Args:
        score: the loss, stateless or not.
        reference: irreducible losses, Float[size] by sample id, on the device of the parameters; or `reference(batch)`,
            Float[B], such as `functools.partial(ps.batched(other, loss), ps.live(other))`.
        size: samples in the dataset, required with a table, to detect a table of another dataset.
        id: `id(batch)`, Int[B], for a table; by default `batch["id"]`.

    Returns:
        A `Score`, Float[B] in the loss's unit; its state is the inner score's.

    Raises:
        SiftError: the table has another length or a missing entry, or size is not given; when called, there are no
            ids, or they are out of range (checked where that costs nothing: on the CPU).

    Example:
        >>> score = reducible(lambda params, batch: batch["x"], torch.tensor([0.5, 0.25]), size=2)
        >>> score.apply(score.init(), {}, {"x": torch.ones(2), "id": torch.tensor([1, 0])})[1]
        tensor([0.7500, 0.5000])

    References:
        Sören Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet
        Learnt", 2022.
    """
    inner = lift(score)
    if isinstance(reference, Tensor):
        if size is None:
            raise SiftError("a table of irreducible losses needs size=len(dataset), to be checked against")
        size = settings.count("size", size)
        if reference.shape != (size,):
            raise SiftError(
                f"the table must hold one irreducible loss for each of the {size} samples, shape [{size}], "
                f"got {list(reference.shape)}; compute it over the whole dataset, in the order of the ids"
            )
        missing = int((~reference.isfinite()).sum())
        if missing:
            raise SiftError(f"{missing} of {size} irreducible losses are NaN or infinite; compute them, or set them 0")

    def apply(state: Any, params: Params, batch: Batch) -> tuple[Any, Losses]:
        state, losses = inner.apply(state, params, batch)
        if not isinstance(reference, Tensor):
            losses = losses.clone()  # the reference may be the same score, writing its answer over this one
            return state, losses - reference(batch)
        ids = checked(ids_of(id(batch), batch, reference), reference.shape[0])
        return state, losses - reference[ids].to(losses.device)

    return Score(inner.init, apply, inner.observe)


def _combined(scores: Any, formula: Callable[[list[Losses]], Losses]) -> Score:
    parts = [lift(score) for score in scores]
    if not parts:
        raise SiftError("there is no score to combine; pass one or more")

    def init() -> CombinedState:
        return CombinedState(tuple(part.init() for part in parts))

    def apply(state: CombinedState, params: Params, batch: Batch) -> tuple[CombinedState, Losses]:
        after, answers = [], []
        for part, inner in zip(parts, state.parts, strict=True):
            inner, losses = part.apply(inner, params, batch)
            after.append(inner)
            answers.append(losses.clone())  # the parts may share a score that writes its next answer over this one
        return CombinedState(tuple(after)), formula(answers)

    def observe(state: CombinedState, batch: Batch, losses: Losses) -> CombinedState:
        fed = zip(parts, state.parts, strict=True)
        return CombinedState(
            tuple(part.observe(inner, batch, losses) if part.observe else inner for part, inner in fed)
        )

    return Score(init, apply, observe if any(part.observe for part in parts) else None)
