"""Infos that a recorder holds, on the host, and as a flat dict of tensors for its state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from puresift.types import Info, Odds


def host(info: Info) -> Info:
    """The info on the CPU, with only the columns that are counted."""
    names = [name for name in ("id", "label", "nonfinite", "phi", "sifting") if name in info.extra]
    losses, probs, weights, mask = (part.detach().cpu() for part in (info.losses, *info.odds, info.mask))
    return Info(losses, Odds(probs, weights), mask, {name: info.extra[name].detach().cpu() for name in names})


def flat(info: Info) -> dict[str, Tensor]:
    odds = {"probs": info.odds.probs, "weights": info.odds.weights}
    return {"losses": info.losses, "mask": info.mask, **odds, **{f"extra.{name}": t for name, t in info.extra.items()}}


def info(flat: Mapping[str, Tensor]) -> Info:
    extra = {name.removeprefix("extra."): tensor for name, tensor in flat.items() if name.startswith("extra.")}
    return Info(flat["losses"], Odds(flat["probs"], flat["weights"]), flat["mask"], extra)
