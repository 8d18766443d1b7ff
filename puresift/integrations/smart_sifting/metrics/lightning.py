"""A Lightning callback that records what was kept."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from puresift.integrations.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from puresift.records.meters import Meter

__all__ = ["TrainingMetricsRecorder"]


def _callback() -> Any:
    """The base class of the Lightning that the script imports: both packages have one."""
    try:
        from puresift.integrations.lightning.framework import _base
    except ModuleNotFoundError as error:
        raise ImportError("TrainingMetricsRecorder needs Lightning: pip install 'puresift[smart_sifting]'") from error
    return _base()


if TYPE_CHECKING:
    Base = object
else:
    Base = _callback()


class TrainingMetricsRecorder(Base):
    """Records each training epoch: seconds, steps, and what `ps.summarize` gives for a `SiftingDataloader`.

    The trainer's loggers get the numbers as "sift/keep" and so on, and `metrics` holds a dict per epoch.

    Example:
        >>> TrainingMetricsRecorder().metrics
        []
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[dict[str, float]] = []
        self._began, self._step = 0.0, 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._began, self._step = time.perf_counter(), trainer.global_step

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        numbers: dict[str, float] = {
            "epoch": trainer.current_epoch,
            "seconds": time.perf_counter() - self._began,
            "steps": trainer.global_step - self._step,
        }
        loader = trainer.train_dataloader
        if isinstance(loader, SiftingDataloader):
            numbers |= {f"sift/{name}": value for name, value in loader.meter.read().items() if math.isfinite(value)}
            loader.meter = Meter()
        self.metrics.append(numbers)
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
