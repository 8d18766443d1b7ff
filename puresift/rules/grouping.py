"""Wrappers that look at more than the loss: a row's group, or how often it was seen. A rule in, a rule out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from puresift import settings, tables, trees
from puresift.errors import SiftError
from puresift.rules.columns import column as read
from puresift.rules.planning import fill, wanting
from puresift.tables import Table
from puresift.types import Losses, Odds, Rule


class ByGroupState(NamedTuple):
    """The wrapped rule's states, side by side, and how many rows had an unknown group."""

    inner: Any  # leaves [G, ...]
    unknown: Tensor  # Int64[]


def by_group(
    rule: Rule,
    *,
    groups: int,
    column: str = "group",
    fractions: Literal["proportional", "equal", "balanced", "loss"] = "proportional",
) -> Rule:
    """A separate rule for each group: a class, a source, a length. Losses of other groups never enter its history.

    A group's rule sees a pool as long as the whole one, made of the group's own losses in ascending order, each
    repeated evenly; a group without rows in a pool is unchanged. `fractions` says how the groups divide the total
    plan, P = sum(p):

        "proportional"  as planned: a rule by rank keeps its fraction of every group, independent of the others
        "equal"         exactly the same fraction of every group, P / B
        "balanced"      the same count from every group, or all rows of a smaller one
        "loss"          fractions in proportion to the group's mean loss in the pool (losses taken to be >= 0)

    In all but the first, p = min(1, c * p) with one c per group. Every group runs the rule, even without rows, and its
    state is copied at every pool: 100 groups with histories of 1,024 take about 10 ms. A rule with a table of one entry
    a sample belongs outside: `by_group(cover(rule))` of ten groups and a million samples takes about 350 ms a pool of
    256 rows, `cover(by_group(rule))` about 2.

    Differs from Hassan et al.'s RCAP, which divides an epoch among classes by their losses, in working pool by pool,
    with any rule and any group.

    Args:
        rule: the rule of each group.
        groups: their number, G.
        column: the column with each row's group in [0, G), see `ps.sifter(columns=...)`.
        fractions: how they divide the plan.

    Returns:
        A rule. Rows of an unknown group raise where that can be read for free (on the CPU, uncompiled); else they are
        kept, p = 1 and weight 1, and the state's `unknown` counts them.

    Raises:
        SiftError: a setting is out of range; from select, there is no such column or a value is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = by_group(rules.top(keep=0.5), groups=2)
        >>> losses, group = torch.tensor([1.0, 2.0, 30.0, 40.0]), torch.tensor([0, 0, 1, 1])
        >>> rule.select(rule.init(), losses, group=group)[1].probs
        tensor([0., 1., 0., 1.])

    References:
        Atif Hassan, Swanand Khare, Jiaul H. Paik, "RCAP: Robust, Class-Aware, Probabilistic Dynamic Dataset Pruning",
        2026.
    """
    settings.called("rule", rule, "select")
    groups = settings.count("groups", groups)
    if fractions not in ("proportional", "equal", "balanced", "loss"):
        raise SiftError(f'fractions must be "proportional", "equal", "balanced" or "loss", got {fractions!r}')

    def init() -> ByGroupState:
        inner = trees.map_leaves(lambda leaf: leaf.expand(groups, *leaf.shape).clone(), rule.init())
        return ByGroupState(inner, torch.zeros((), dtype=torch.int64))

    def select(state: ByGroupState, losses: Losses, **columns: Any) -> tuple[ByGroupState, Odds]:
        losses, size = losses.float(), losses.shape[0]
        group, known = read(columns, column, losses, groups)
        place = torch.arange(size, device=losses.device)
        member = (group == torch.arange(groups, device=losses.device)[:, None]) & known  # [G, B]
        count = member.sum(1)
        ascending = losses.argsort(stable=True)
        order = ascending[(~member[:, ascending]).to(torch.uint8).argsort(dim=1, stable=True)]  # a group's rows first
        source = order.gather(1, place * count[:, None] // size)  # slot i of a group's pool: row i * count // B

        def one(inner: Any, rows: Tensor) -> tuple[Any, Odds]:
            theirs = {name: value[rows] if _per_row(value, size) else value for name, value in columns.items()}
            return rule.select(inner, losses[rows], **theirs)

        after, odds = torch.func.vmap(one)(state.inner, source)
        present = count > 0
        inner = trees.map_leaves(
            lambda new, old: torch.where(present.reshape(-1, *[1] * (old.ndim - 1)), new, old), after, state.inner
        )
        rank = order.argsort(dim=1)[group, place]
        held = count[group].clamp(min=1)
        slot = ((rank * size + held - 1) // held).clamp(max=size - 1)  # the first slot of each row
        probs, weights = odds.probs[group, slot], odds.weights[group, slot]
        if fractions != "proportional":
            probs = _divide(probs, member, _wishes(fractions, losses, member, group), known)
        probs, weights = (torch.where(known, values, 1.0) for values in (probs, weights))
        return ByGroupState(inner, state.unknown + (~known).sum()), Odds(probs, weights)

    def wants(state: ByGroupState) -> Tensor:
        numbers = torch.arange(groups, device=state.unknown.device)
        return torch.func.vmap(lambda inner, number: rule.wants(inner))(state.inner, numbers).any()

    return Rule(init, select, wanting((rule,), wants))


def _wishes(fractions: str, losses: Losses, member: Tensor, group: Tensor) -> Tensor:
    """Float64[B]: the fraction that each row's group should get, up to a factor."""
    count = member.sum(1).clamp(min=1).double()
    if fractions == "equal":
        return torch.ones_like(losses, dtype=torch.float64)
    if fractions == "balanced":
        return 1 / count[group]
    values = torch.where(member, losses.double().clamp(min=0), 0.0).sort(dim=1).values
    return (values.sum(1) / count)[group]


def _divide(probs: Tensor, member: Tensor, wishes: Tensor, known: Tensor) -> Tensor:
    """The probabilities scaled within each group, so that the groups divide their sum in proportion to `wishes`."""
    planned = torch.where(known, probs.double(), 0.0).sort().values.sum()
    fraction = fill(torch.where(known, wishes, 0.0), planned).double()
    totals = torch.where(member, fraction, 0.0).sort(dim=1).values.sum(1)
    scaled = torch.func.vmap(_within)(probs.expand_as(member), member, totals)
    return torch.where(member, scaled, 0.0).sum(0).float()


def _within(probs: Tensor, member: Tensor, total: Tensor) -> Tensor:
    """`fill` for the rows of one group; its rows of p = 0 take what its other rows leave of the total."""
    likely = probs.double() * member
    # If a group's rows with p > 0 cannot fill its total, its other rows share the rest.
    short = (total - (likely > 0).sum()).clamp(min=0)
    idle = member & (likely == 0)
    return torch.where(idle, short / idle.sum(), fill(likely, total - short))


def _per_row(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size


class CoverState(NamedTuple):
    """The wrapped rule's state, and how often each sample was seen."""

    inner: Any
    visits: Tensor | Table  # Int64[size + 1]; the last counts rows of unknown id


def cover(rule: Rule, *, size: int, epochs: int, column: str = "id") -> Rule:
    """Every sample at least once in `epochs` visits: p = 1 where (visits + id) % epochs == epochs - 1.

    Of any `epochs` consecutive visits exactly one is kept for sure, staggered by id, so that each epoch keeps about
    1 / epochs of the samples for this reason. The plan grows by that. Put this wrapper outermost, or samples may be
    missed. Weights are unchanged. A pool of 256 takes one or two milliseconds at any size: the visits of many samples
    are a `tables.Table`.

    Args:
        rule: decides at all other visits.
        size: the number of samples.
        epochs: visits, >= 1; 1 keeps everything.
        column: the column with each row's sample number in [0, size), see `ps.sifter(columns=...)`.

    Returns:
        A rule. An id that occurs twice in a pool counts two visits, and both rows are kept if either visit is due.
        Rows of unknown id raise where that can be read for free (on the CPU, uncompiled); else they are kept, p = 1,
        and `visits[size]` counts them.

    Raises:
        SiftError: a setting is out of range; from select, there is no such column or a value is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = cover(rules.uniform(keep=0.1), size=4, epochs=2)
        >>> state, odds = rule.select(rule.init(), torch.zeros(4), id=torch.arange(4))
        >>> odds.probs
        tensor([0.1000, 1.0000, 0.1000, 1.0000])
    """
    settings.called("rule", rule, "select")
    size = settings.count("size", size)
    epochs = settings.count("epochs", epochs)

    def init() -> CoverState:
        return CoverState(rule.init(), tables.table(torch.zeros(size + 1, dtype=torch.int64)))

    def select(state: CoverState, losses: Losses, **columns: Any) -> tuple[CoverState, Odds]:
        sample, known = read(columns, column, losses, size)
        inner, odds = rule.select(state.inner, losses, **columns)
        slot = torch.where(known, sample, size)
        visits, before, after = tables.count(state.visits, slot)
        due = (before + sample) % epochs + (after - before) >= epochs
        probs = torch.where(due | ~known, 1.0, odds.probs)
        return CoverState(inner, visits), Odds(probs, odds.weights)

    def wants(state: CoverState) -> Tensor:
        return rule.wants(state.inner)

    return Rule(init, select, wanting((rule,), wants))
