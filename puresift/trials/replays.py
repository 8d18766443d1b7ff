"""What other rules, or other settings of one, would have kept of recorded losses: a pilot run without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from puresift import draws, keys, paths, settings, trees
from puresift.errors import SiftError
from puresift.types import Draw, Key, Losses, Odds, Rule

Setting = Tensor | Sequence[float] | Mapping[str, Tensor | Sequence[float]]


class Replayed(NamedTuple):
    """The result of a replay; S settings of a rule, or rules, side by side."""

    keep: Tensor  # Float[S], realised fraction
    planned: Tensor  # Float[S], mean probability
    ess: Tensor  # Float[S], effective sample size of the kept weights, as a share of the losses
    odds: Odds  # Float[S, N] each
    mask: Tensor  # Bool[S, N]


def replay(
    factory: Callable[..., Rule],
    setting: Setting,
    losses: Losses,
    *,
    pool: int = 64,
    key: Key | None = None,
    draw: Draw = draws.bernoulli,
    columns: Mapping[str, Tensor] | None = None,
) -> Replayed:
    """Run many settings of one rule over one stream of losses at once, by vmap.

    The same draws as a live run with this key whose state began at step 0. The losses are those of the run that was
    recorded: another rule would have trained another model, with other losses.

    Args:
        factory: a rule from 0-d tensors, such as `lambda keep: ps.relative(keep, history=1000)`. Settings that fix a
            shape (history, steps) stay Python numbers.
        setting: S values; or several by name, each S values, passed to the factory as keywords.
        losses: Float[N], in the order in which they were seen, all finite.
        pool: rows in a pool.
        key: by default `ps.key(0)`.
        draw: odds to mask.
        columns: per-row tensors by name, each [N, ...], for rules that use them.

    Returns:
        `Replayed(keep, planned, ess, odds, mask)`, by setting.

    Raises:
        SiftError: there are no losses or settings, or lengths differ, or a loss is not finite.

    Example:
        >>> from puresift import rules
        >>> answer = replay(lambda keep: rules.top(keep), [0.25, 0.5], torch.arange(8.0), pool=4)
        >>> answer.keep
        tensor([0.2500, 0.5000])
        >>> answer.mask[0].nonzero().flatten()
        tensor([3, 7])
    """
    named = setting if isinstance(setting, Mapping) else {"": setting}
    # float64, so that a setting is the number that a Python float would be
    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in named.items()}
    if len({value.shape for value in values.values()}) != 1 or any(v.ndim != 1 or not len(v) for v in values.values()):
        shapes = ", ".join(f"{name or 'setting'} {list(value.shape)}" for name, value in values.items())
        raise SiftError(f"settings must be S >= 1 numbers each, of one length, got {shapes or 'none'}")
    size = len(next(iter(values.values())))

    def build(chosen: dict[str, Tensor]) -> Rule:
        return factory(chosen[""]) if "" in chosen else factory(**chosen)

    state = build({name: value[0] for name, value in values.items()}).init()

    def step(
        chosen: dict[str, Tensor], parts: list[Tensor], losses: Losses, columns: dict[str, Tensor], key: Key
    ) -> tuple[list[Tensor], Odds, Tensor]:
        tree = paths.unflat(state, dict(zip(paths.flat(state), parts, strict=True)))
        after, odds = build(chosen).select(tree, losses, **columns)
        return list(paths.flat(after).values()), odds, draw(key, odds.probs)

    parts, apart = list(paths.flat(state).values()), [False] * len(paths.flat(state))
    pools = _pools(losses, pool, columns, key)
    # A history depends on the losses alone: state that no setting changes is kept and sorted once for all of them.
    while True:
        spread = [leaf.expand(size, *leaf.shape) if own else leaf for leaf, own in zip(parts, apart, strict=True)]
        axes = (0, [0 if own else None for own in apart], None, None, None)
        found = [own or _touched(step, axes, (values, spread, *pools[0]), leaf) for leaf, own in enumerate(apart)]
        if found == apart:
            break
        apart = found
    several: Any = vmap(step, in_dims=axes, out_dims=([0 if own else None for own in apart], 0, 0))  # type: ignore[arg-type]
    parts, kept = spread, []
    for rows in pools:
        parts, odds, mask = several(values, parts, *rows)
        kept.append((odds, mask))
    return _joined(kept)


def compare(
    rules: Mapping[str, Rule],
    losses: Losses,
    *,
    pool: int = 64,
    key: Key | None = None,
    draw: Draw = draws.bernoulli,
    columns: Mapping[str, Tensor] | None = None,
) -> Replayed:
    """Run different rules over one stream of losses, one after the other, with the same draws.

    Args:
        rules: by name; the results are in their order.
        losses: as in `replay`.
        pool: rows in a pool.
        key: by default `ps.key(0)`.
        draw: odds to mask.
        columns: as in `replay`.

    Returns:
        `Replayed(keep, planned, ess, odds, mask)`, by rule.

    Raises:
        SiftError: as `replay`.

    Example:
        >>> from puresift import rules
        >>> compare({"top": rules.top(0.5), "all": rules.uniform(1.0)}, torch.arange(8.0), pool=4).keep
        tensor([0.5000, 1.0000])
    """
    if not rules:
        raise SiftError('pass at least one rule, such as {"relative": ps.relative(keep=0.5)}')
    pools, answers = _pools(losses, pool, columns, key), []
    for rule in rules.values():
        state, kept = rule.init(), []
        for part, named, folded in pools:
            state, odds = rule.select(state, part, **named)
            kept.append((odds, draw(folded, odds.probs)))
        answers.append(_joined(kept))
    return trees.map_leaves(lambda *leaves: torch.stack(leaves), *answers)


def overlap(mask: Tensor) -> Tensor:
    """The overlap of what any two of them keep: |A and B| / |A or B|, the Jaccard index; 1 where both keep none.

    Args:
        mask: Bool[S, N].

    Returns:
        Float[S, S].
    """
    rows = mask.double()
    both = rows @ rows.T
    either = rows.sum(1)[:, None] + rows.sum(1) - both
    return torch.where(either > 0, both / either, 1.0).float()


def _pools(
    losses: Losses, pool: int, columns: Mapping[str, Tensor] | None, key: Key | None
) -> list[tuple[Losses, dict[str, Tensor], Key]]:
    pool = settings.count("pool", pool)
    losses, columns = losses.float(), dict(columns or {})
    if losses.ndim != 1 or not len(losses):
        raise SiftError(f"losses must be Float[N] with N >= 1, got shape {list(losses.shape)}")
    if bad := int((~losses.isfinite()).sum()):
        raise SiftError(f"{bad} of {len(losses)} losses are NaN or infinite; leave out rows that were not scored")
    for name, column in columns.items():
        if len(column) != len(losses):
            raise SiftError(f"column {name!r} has {len(column)} rows for {len(losses)} losses; pass one for each")
    pool = min(pool, len(losses))  # an absurd one fits no tensor
    parts = losses.split(pool)
    steps = torch.arange(len(parts), device=losses.device)
    folded = vmap(keys.fold_in, in_dims=(None, 0))(keys.key(0) if key is None else key, steps)
    return [
        (part, {name: column[at * pool : at * pool + pool] for name, column in columns.items()}, folded[at])
        for at, part in enumerate(parts)
    ]


def _touched(step: Callable[..., Any], axes: Any, inputs: Any, leaf: int) -> bool:
    """Whether a leaf of the next state depends on the setting; vmap itself raises if it does but is declared shared."""
    try:
        vmap(lambda *inputs: step(*inputs)[0][leaf], in_dims=axes, out_dims=None)(*inputs)
    except ValueError as error:
        if "out_dim" not in str(error):
            raise
        return True
    return False


def _joined(kept: list[tuple[Odds, Tensor]]) -> Replayed:
    probs = torch.cat([odds.probs for odds, _ in kept], -1)
    weights = torch.cat([odds.weights for odds, _ in kept], -1)
    mask = torch.cat([mask for _, mask in kept], -1)
    carried = (weights * mask).double()
    ess = carried.sum(-1).square() / carried.square().sum(-1) / mask.shape[-1]
    return Replayed(mask.float().mean(-1), probs.mean(-1), ess.nan_to_num(0.0).float(), Odds(probs, weights), mask)
