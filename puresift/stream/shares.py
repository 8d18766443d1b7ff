"""Whether a rule keeps what it planned: one warning where the realised share has drifted far from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import torch

from puresift.types import Info, SiftState

POOLS = 50
_CURE = "put ps.hold(rule, keep) around it, or choose drift= or a shorter history"
# Of rules whose share is meant to change: a schedule's, a fixed threshold's, that of the rows which have a gradient.
_MOVING = {"AnnealState", "NonzeroState", "ValueState"}


class _Pool(NamedTuple):
    """What a pool came to, and its size."""

    seen: int
    kept: float
    planned: float  # the mean probability
    decided: bool  # False where it was kept whole


class Shares:
    """Warns once, when a rule kept less than half or more than twice its plan over 50 pools that it decided.

    A rule that ranks among older losses plans a share of losses that do not change; while they fall it keeps less.

    The plan is that of the first pool that the rule decided with nothing remembered. Pools that are kept whole, such as
    those of a delay, do not count. The device is read once in 50 pools.

    Args:
        plan: the planned share, where it is known.
        cure: what the warning advises.
    """

    def __init__(self, plan: float | None = None, *, cure: str = _CURE):
        self._plan, self._cure = plan, cure
        self._begun = self._silent = False
        self._infos: list[Info] = []
        self._pools: list[_Pool] = []

    def begin(self, state: SiftState) -> None:
        """A stream begins at this state. The plan of one that was resumed, or that moves, is not known."""
        if not self._begun and self._plan is None:
            self._silent = int(state.step) > 0 or not _MOVING.isdisjoint(_kinds(state.rule))
        self._begun = True

    def see(self, info: Info) -> None:
        """Count a pool."""
        if self._silent or not len(info.losses):
            return
        self._infos.append(info._replace(extra={}))
        if len(self._infos) == POOLS:
            self._pools += [pool for pool in _read(self._infos) if pool.decided]
            self._infos = []
            self._judge()

    def _judge(self) -> None:
        if self._plan is None and self._pools:
            self._plan = self._pools[0].planned
        if len(self._pools) < POOLS:
            return
        assert self._plan is not None
        pools, self._pools = self._pools[-POOLS:], []
        share = sum(pool.kept for pool in pools) / sum(pool.seen for pool in pools)
        if not self._plan / 2 <= share <= self._plan * 2:
            self._silent = True
            kind = "less than half" if share < self._plan else "more than twice"
            warnings.warn(
                f"the rule kept {share:.2g} of the last {POOLS} pools, {kind} of the {self._plan:.2g} that it planned, "
                f"as its history does not follow the losses; {self._cure}",
                stacklevel=1,
            )


def _read(infos: list[Info]) -> Iterator[_Pool]:
    numbers = []
    for _, some in groupby(infos, lambda info: len(info.losses)):  # as a rule all of them, in one call each
        masks, probs = zip(*((info.mask, info.odds.probs) for info in some), strict=True)
        counts, plans = torch.stack(masks).sum(1), torch.stack(probs)
        numbers.append(torch.stack([counts, plans.mean(1, dtype=torch.float64), (plans < 1).any(1)], 1))
    for info, (kept, mean, decided) in zip(infos, torch.cat(numbers).tolist(), strict=True):
        yield _Pool(len(info.losses), kept, mean, bool(decided))


def _kinds(tree: Any) -> set[str]:
    """The types in a rule's state."""
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()
    return {type(tree).__name__}.union(*map(_kinds, parts))
