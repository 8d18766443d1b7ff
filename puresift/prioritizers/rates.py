"""A table without a score: what was told of each sample, by id, averaged with decay. Success rates, as a rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.errors import SiftError
from puresift.ids import refuse
from puresift.settings import Number


class TableState(NamedTuple):
    """What is known of N samples. An id that was never told has a count of 0.

    Example:
        >>> import puresift as ps
        >>> rates = ps.table(3)
        >>> rates.observe(rates.init(), torch.tensor([2]), torch.tensor([1.0])).counts
        tensor([0., 0., 1.])
    """

    sums: Tensor  # Float[N], of the values told, older ones decayed
    counts: Tensor  # Float[N], of how many they are, decayed alike


class Table(NamedTuple):
    """Means and counts by sample id; every member is pure.

    Example:
        >>> import puresift as ps
        >>> rates = ps.table(3)
        >>> state = rates.observe(rates.init(), torch.tensor([2, 0]), torch.tensor([1.0, 0.5]))
        >>> rates.read(state)
        tensor([0.5000,    nan, 1.0000])
    """

    init: Callable[..., TableState]  # device -> state
    observe: Callable[[TableState, Tensor, Tensor], TableState]  # state, ids, values -> state
    read: Callable[..., Tensor]  # state, ids or none -> means


def table(size: int, *, decay: Number = 0.9) -> Table:
    """Keep the mean of what is told of each sample, such as how often a prompt's rollouts succeed. Nothing is scored.

    Each call in which an id comes, with n values for it, first fades what was known of it:

        sum   <- decay * sum + the values' sum
        count <- decay * count + n
        mean  =  sum / count

    so the mean weighs a call by decay to the power of the later calls with that id: 1 counts all alike, 0 knows the
    last one alone. Ids that do not come do not fade.

    For prompts by their success rate s, tell a `ps.prioritizer` s (1 - s) and let it draw by the root, the standard
    deviation of a reward that is 0 or 1; the rule's own floor keeps prompts in that always or never succeed, and
    those that were never drawn count as the best known:

        draws ~ (1 - floor) * sqrt(s (1 - s)) / the mean of that + floor

    Differs from the curricula that filter prompts by a band of success rates: nothing is shut out for good. Where
    groups without a gradient are left out of the update anyway (`ps.nonzero`), expect little of it.

    Args:
        size: samples in the dataset, N.
        decay: how much of what was known an id keeps when it is told again, in [0, 1].

    Returns:
        `Table(init, observe, read)`:
        `init(device="cpu") -> state`, nothing known;
        `observe(state, ids, values) -> state`, ids Int[B], values of any number type [B], or [B, G] for G of each id;
        an id that comes twice in a call counts once with all its values;
        `read(state, ids=None) -> means`, Float[B] of these ids or Float[N] of all; NaN where nothing is known.

    Raises:
        SiftError: a setting is out of range; from observe and read, shapes differ or ids are out of range, and from
            observe a value is not finite (where that cannot be read for free, it is left out).

    Example:
        >>> import puresift as ps
        >>> rates = ps.table(3, decay=0.5)
        >>> state = rates.observe(rates.init(), torch.tensor([0, 2]), torch.tensor([[1, 1], [1, 0]]))
        >>> state = rates.observe(state, torch.tensor([0]), torch.tensor([[0, 0]]))
        >>> rates.read(state)
        tensor([0.3333,    nan, 0.5000])
        >>> drawer = ps.prioritizer(ps.by_root(ps.importance(0.5, floor=0.2, bias=0.0)), size=3, batch_size=2)
        >>> ids = torch.tensor([0, 2])
        >>> drawn = drawer.observe(drawer.init(ps.key(0)), ids, rates.read(state, ids) * (1 - rates.read(state, ids)))

    References:
        Thomas Foster, Jakob Foerster, "Learning to Reason at the Frontier of Learnability", 2025.
    """
    size = settings.count("size", size)
    decay = settings.level("decay", decay)
    return Table(partial(_init, size), partial(_observe, size, decay), partial(_read, size))


def _init(size: int, device: torch.device | str = "cpu") -> TableState:
    return TableState(torch.zeros(size, device=device), torch.zeros(size, device=device))


def _observe(size: int, decay: Number, state: TableState, ids: Tensor, values: Tensor) -> TableState:
    ids = _checked(size, state, ids)
    values = values.detach().to(state.sums.device, torch.float32)
    if values.ndim not in (1, 2) or values.shape[0] != ids.shape[0]:
        raise SiftError(
            f"observe takes values [B] or [B, G] for ids [B], got {list(values.shape)} for {list(ids.shape)}; "
            "give each rollout its prompt's id, or each prompt a row of them"
        )
    values = values[..., None].flatten(1)  # [B, G]
    finite = values.isfinite()
    whole = finite.all()
    if whole.device.type == "cpu" and not trees.unreadable(whole) and not whole:
        bad = int((~finite).sum())
        raise SiftError(
            f"{bad} of {values.numel()} values observed are NaN or infinite; look at what gives the rewards"
        )
    told = torch.where(finite, values, 0.0).sum(1)
    number = finite.sum(1).float()
    # Rows of one id share what the first of them in order gets, and all write the same, so that order does not matter.
    first = torch.searchsorted(ids.sort().values, ids)
    told, number = (torch.zeros_like(part).index_add(0, first, part)[first] for part in (told, number))
    fade = torch.where(number > 0, decay, 1.0)
    return TableState(
        state.sums.index_copy(0, ids, fade * state.sums[ids] + told),
        state.counts.index_copy(0, ids, fade * state.counts[ids] + number),
    )


def _read(size: int, state: TableState, ids: Tensor | None = None) -> Tensor:
    sums, counts = state
    if ids is not None:
        ids = _checked(size, state, ids)
        sums, counts = sums[ids], counts[ids]
    return sums / counts  # 0 / 0 is NaN: nothing is known


def _checked(size: int, state: TableState, ids: Tensor) -> Tensor:
    """Int64[B] on the state's device, in range wherever that can be read for free."""
    if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise SiftError(f"ids must be whole numbers of shape [B], got {ids.dtype}{list(ids.shape)}; see ps.with_ids")
    ids = ids.to(state.sums.device, torch.int64)
    if len(ids) and ids.device.type == "cpu" and not trees.unreadable(ids[0] + state.sums[0]):
        refuse([*map(int, ids.aminmax()), 0], size)
    return ids
