"""Turn infos into plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.infos import pools
from puresift.types import Info

Log = Callable[[dict[str, float]], object]  # receives the scalars; its return value is ignored


def summarize(info: Info) -> dict[str, float]:
    """One info as plain numbers; reads the tensors, so it synchronises.

    Args:
        info: from a step or a stream.

    Returns:
        seen, scored, kept (rows); keep (the realised fraction), planned (the mean probability); loss and kept_loss
        (means, in the loss's unit); threshold (the smallest kept loss); ess (the effective sample size of the kept
        weights, rows); nonfinite (rows). NaN where there is nothing to average.

    Example:
        >>> from puresift.types import Odds
        >>> losses, mask = torch.tensor([1.0, 3.0]), torch.tensor([False, True])
        >>> info = Info(losses, Odds(torch.tensor([0.25, 0.75]), torch.ones(2)), mask, {})
        >>> summarize(info)["kept_loss"], summarize(info)["keep"]
        (3.0, 0.5)
    """
    meter = Meter()
    meter.update(info)
    return meter.read()


class Meter:
    """Sums over many infos, kept on their device: `update` never synchronises, `read` does once.

    With `log`, the sums go to a logger after every `every` updates and are reset. It receives a dict of plain finite
    numbers: what `summarize` returns, "pool" (pools read so far) and, under a governor, "phi" and "sifting" (the share
    of pools sifted), each under the prefix "sift/". Four common loggers:

        Meter(wandb.init().log)                                                      # Weights & Biases
        Meter(trackio.init(project="mine").log)                                      # Trackio
        Meter(lambda s: mlflow.log_metrics(s, step=int(s["sift/pool"])))             # MLflow
        Meter(lambda s: [writer.add_scalar(n, s[n], int(s["sift/pool"])) for n in s])  # TensorBoard's SummaryWriter

    Args:
        log: any callable that takes a dict of numbers.
        every: updates between two calls of it.

    Raises:
        SiftError: `every` is not a whole number >= 1, or `log` is not callable.

    Example:
        >>> from puresift.types import Odds
        >>> losses, mask = torch.tensor([1.0, 3.0]), torch.tensor([False, True])
        >>> info = Info(losses, Odds(torch.tensor([0.25, 0.75]), torch.ones(2)), mask, {})
        >>> meter = Meter()
        >>> for _ in range(2):
        ...     meter.update(info)
        >>> meter.read()["seen"]
        4.0
        >>> meter = Meter(lambda scalars: print(scalars["sift/pool"], scalars["sift/keep"]), every=2)
        >>> for step in range(1, 5):
        ...     meter.update(info, step)
        2.0 0.5
        4.0 0.5
    """

    def __init__(self, log: Log | None = None, *, every: int = 100) -> None:
        if log is not None and not callable(log):
            raise SiftError(f"log must be a callable that takes a dict, such as run.log, got {type(log).__name__}")
        self._log, self._every = log, settings.count("every", every)
        self._step: int | Tensor = 0
        self._fresh()

    def _fresh(self) -> None:
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        self._threshold = torch.tensor(torch.inf)
        self._updates = 0
        self._governed: list[tuple[Tensor, Tensor]] = []

    def update(self, info: Info, step: int | Tensor | None = None) -> None:
        """Add one info; `step` is `state.step`, unread. Without it, pools are counted since the meter was made."""
        self._step = self._step + pools(info) if step is None else step
        if self._log is not None and "phi" in info.extra and "sifting" in info.extra:
            self._governed.append((info.extra["phi"], info.extra["sifting"]))
        self._add(info)
        self._updates += 1
        if self._log is not None and self._updates == self._every:
            self.flush()

    def flush(self) -> None:
        """Pass the sums since the last call to `log`, and reset them."""
        if self._log is None or not self._updates:
            return
        scalars = self.read() | {"pool": float(self._step)}
        if self._governed:
            sifting = torch.cat([sifting for _, sifting in self._governed]).float()
            scalars |= {"phi": float(self._governed[-1][0][-1]), "sifting": float(sifting.mean())}
        self._fresh()
        self._log({f"sift/{name}": value for name, value in scalars.items() if math.isfinite(value)})

    def _add(self, info: Info) -> None:
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
