"""A prioritizer's state on the CPU, with the losses that were observed and have not entered it yet."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from puresift import checkpoint
from puresift.data.queues import Handed
from puresift.distributed import gathered, place
from puresift.errors import SiftError
from puresift.prioritizers import Plan, Prioritizer, PrioritizerState, left, next_batch
from puresift.types import Key, Losses

_PLAN = (*Plan._fields, "ranks", "sync")


class Table:
    """Losses on a GPU wait for the next draw, and those of several ranks for the next exchange."""

    def __init__(self, prioritizer: Prioritizer, key: Key, sync: int):
        self._prioritizer, self._sync = prioritizer, sync
        self.state = prioritizer.init(key)
        self._late: list[tuple[Tensor, Losses]] = []  # ids and losses of this rank's batches

    def next(self) -> Handed:
        """A new batch, which counts as handed out."""
        remaining = left(self.state)
        if not remaining:
            self.settle()
        self.state, ids, odds = next_batch(self._prioritizer, self.state, remaining)
        return Handed(ids, odds.weights)

    def observe(self, ids: Tensor, losses: Losses) -> None:
        """Note the losses of this rank's rows; where they are not finite and can be read, nothing has changed."""
        late = [*self._late, (ids, losses)]
        due = len(late) >= self._sync if place()[1] > 1 else losses.device.type == "cpu"
        if due:
            self.state, late = self._entered(late), []
        self._late = late

    def settle(self) -> None:
        """Bring what a single process has observed into the state. Ranks exchange losses when they observe, alone."""
        if self._late and place()[1] == 1:
            self.state, self._late = self._entered(self._late), []

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of fixed shapes, with the plan that they belong to."""
        self.settle()
        world = place()[1]
        plan = (*self._prioritizer.plan, world, self._sync if world > 1 else 1)
        row = torch.tensor([-1 if number is None else number for number in plan])
        return {**checkpoint.state_dict(self.state), **self._waiting(), "plan": row}

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """Go on with the values of `flat`.

        Raises:
            SiftError: it is the state of another plan, rule, rank or number of ranks, or of something else.
        """
        ours = self.state_dict()
        waiting = sorted(name for name in ours if name.startswith("waiting"))
        if "plan" not in flat:
            raise SiftError("this is no state of a ps.PrioritizedSampler; pass what its state_dict() gave")
        _same(flat["plan"], ours["plan"])
        if missing := [name for name in waiting if name not in flat]:
            raise SiftError(f"the state has no {missing}; load the one that this rank saved")
        names = flat.keys() - {"plan", *waiting}
        self.state, self._late = checkpoint.load_state_dict(self.state, {name: flat[name] for name in names}), []
        if waiting:
            rows, count = (flat[name] for name in waiting)
            ids, losses = rows[:, : int(count)]
            self._late = list(zip(ids.long(), losses.float(), strict=True))

    def _waiting(self) -> dict[str, Tensor]:
        """What this rank has not exchanged yet, by its rank, so that files of all ranks can be merged."""
        rank, world = place()
        if world == 1 or self._sync == 1:
            return {}
        rows = torch.zeros((2, self._sync, self._prioritizer.plan.batch_size // world), dtype=torch.float64)
        for call, pair in enumerate(self._late):
            rows[:, call] = torch.stack([values.double().cpu() for values in pair])
        return {f"waiting/{rank}": rows, f"waiting/{rank}/count": torch.tensor(len(self._late))}

    def _entered(self, late: list[tuple[Tensor, Losses]]) -> PrioritizerState:
        losses = torch.stack([losses.double() for _, losses in late])
        ids = torch.stack([ids.to(losses.device).double() for ids, _ in late])  # exact up to 2 ** 53
        both = gathered(torch.stack([ids, losses])).cpu()
        rows = both.movedim(0, -1).flatten(2)  # [2, calls, B]: rank r had the rows [r::ranks]
        state = self.state
        for one, values in zip(rows[0].long(), rows[1].float(), strict=True):
            state = self._prioritizer.observe(state, one, values)
        return state


def _same(saved: Tensor, ours: Tensor) -> None:
    both = zip(_PLAN, saved.tolist(), ours.tolist(), strict=True)
    unlike = [f"{name} {was} and now {now}" for name, was, now in both if was != now]
    if unlike:
        raise SiftError(
            f"the state was saved by a sampler of another plan, with {', '.join(unlike)} (-1 is none; start and end "
            "are counted in ids); build it and its prioritizer as when it was saved, on as many ranks"
        )
