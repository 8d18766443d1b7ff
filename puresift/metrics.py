"""Infos to numbers a person reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from puresift.types import Info, Odds


def join(infos: Sequence[Info], device: torch.device | None = None) -> Info:
    """Infos of several pools as one, rows behind rows; of none, an info with zero rows.

    Returns:
        An info whose `extra` holds the entries that all of them have.
    """
    if len(infos) == 1:
        return infos[0]
    if not infos:
        none = torch.empty(0, device=device)
        return Info(none, Odds(none, none), none.bool(), {})
    shared = [name for name in infos[0].extra if all(name in info.extra for info in infos)]
    return Info(
        torch.cat([info.losses for info in infos]),
        Odds(torch.cat([info.odds.probs for info in infos]), torch.cat([info.odds.weights for info in infos])),
        torch.cat([info.mask for info in infos]),
        {name: torch.cat([info.extra[name] for info in infos]) for name in shared},
    )


def summarize(info: Info) -> dict[str, float]:
    """One info as plain numbers; reads the tensors, so it synchronises.

    Args:
        info: from a step or a stream.

    Returns:
        seen, scored, kept (rows); keep (the realised fraction), planned (the mean probability); loss and kept_loss
        (means, in the loss's unit); threshold (the smallest kept loss); ess (the effective sample size of the kept
        weights, rows); nonfinite (rows). NaN where there is nothing to average.

    Example:
        >>> losses, mask = torch.tensor([1.0, 3.0]), torch.tensor([False, True])
        >>> info = Info(losses, Odds(torch.tensor([0.25, 0.75]), torch.ones(2)), mask, {})
        >>> summarize(info)["kept_loss"], summarize(info)["keep"]
        (3.0, 0.5)
    """
    meter = Meter()
    meter.update(info)
    return meter.read()


class Meter:
    """Sums over many infos, kept on their device: `update` never waits, `read` does, once.

    Example:
        >>> losses, mask = torch.tensor([1.0, 3.0]), torch.tensor([False, True])
        >>> meter = Meter()
        >>> for _ in range(2):
        ...     meter.update(Info(losses, Odds(torch.tensor([0.25, 0.75]), torch.ones(2)), mask, {}))
        >>> meter.read()["seen"]
        4.0
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        self._threshold = torch.tensor(torch.inf)

    def update(self, info: Info) -> None:
        """Add one info."""
        device = info.losses.device
        finite = info.losses.isfinite()
        kept = info.mask & finite
        weights = info.odds.weights * info.mask
        sums = (
            torch.full((), len(info.losses), device=device),
            info.extra["nonfinite"].sum() if "nonfinite" in info.extra else torch.zeros((), device=device),
            finite.sum(),
            info.mask.sum(),
            kept.sum(),
            info.odds.probs.sum(),
            torch.where(finite, info.losses, 0.0).sum(),
            torch.where(kept, info.losses, 0.0).sum(),
            weights.sum(),
            weights.square().sum(),
        )
        self._sums = self._sums.to(device) + torch.stack([part.double() for part in sums])
        if len(info.losses):
            least = torch.where(kept, info.losses, torch.inf).amin()
            self._threshold = torch.minimum(self._threshold.to(device), least)

    def read(self) -> dict[str, float]:
        """The sums as `summarize` gives them."""
        sums = dict(zip(_SUMS, self._sums.tolist(), strict=True))
        threshold = float(self._threshold)
        return {
            "seen": sums["seen"],
            "scored": sums["finite"] + sums["nonfinite"],
            "kept": sums["kept"],
            "keep": _ratio(sums["kept"], sums["seen"]),
            "planned": _ratio(sums["probs"], sums["seen"]),
            "loss": _ratio(sums["loss"], sums["finite"]),
            "kept_loss": _ratio(sums["kept_loss"], sums["kept_finite"]),
            "threshold": threshold if math.isfinite(threshold) else math.nan,
            "ess": _ratio(sums["weight"] ** 2, sums["square"]),
            "nonfinite": sums["nonfinite"],
        }


_SUMS = ("seen", "nonfinite", "finite", "kept", "kept_finite", "probs", "loss", "kept_loss", "weight", "square")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
