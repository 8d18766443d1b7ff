"""Validation after shares of an epoch, whose number of sifted batches is not known ahead."""

from __future__ import annotations

from typing import Any

from puresift.data.pools import size
from puresift.errors import SiftError


class Checks:
    """Lets a Trainer validate when a pass has read so many of its candidates, as `val_check_interval` asks.

    Lightning would turn a share into a number of batches when training begins. So it is told of none, and after each
    batch whether it is to validate now.
    """

    def __init__(self) -> None:
        self._interval: float | None = None  # what the Trainer was given; None while it counts batches itself
        self._read = 0.0  # share of the pass that was read

    def take(self, trainer: Any) -> None:
        """Take a share over from the Trainer; of a fixed number of batches it is a number of batches."""
        interval, limit = trainer.val_check_interval, trainer.limit_train_batches
        if not isinstance(interval, float) or interval >= 1:
            return
        self._interval = interval
        trainer.val_check_interval = max(1, int(interval * limit)) if isinstance(limit, int) else 1.0

    def give_back(self, trainer: Any) -> None:
        """Leave the Trainer as it was."""
        if self._interval is not None:
            trainer.val_check_interval, self._interval = self._interval, None

    def begin(self, trainer: Any, pools: Any, read: float) -> None:
        """An epoch begins, or what is left of it, after this share of a pass.

        Raises:
            SiftError: a pass has no length to take a share of.
        """
        self._read = read if read < 1 else 0.0
        if self._counts(trainer) and size(pools) is None:
            raise SiftError(unknown(self._interval))

    def after(self, trainer: Any, read: float) -> None:
        """A batch was trained on, and this share of the pass is read."""
        if not self._counts(trainer):
            return
        assert self._interval is not None
        loop = trainer.fit_loop.epoch_loop
        read = 1.0 if loop.batch_progress.is_last_batch else read
        due = _passed(read, self._interval) > _passed(self._read, self._interval)
        trainer.val_check_batch = loop.batch_idx + (1 if due else 2)  # it validates after a multiple of it
        self._read = read

    def _counts(self, trainer: Any) -> bool:
        return self._interval is not None and not isinstance(trainer.limit_train_batches, int)


def unknown(interval: Any) -> str:
    """Why a share is refused."""
    return (
        f"val_check_interval={interval} is a share of an epoch, whose number of sifted batches is not known ahead; "
        "pass a number of sifted batches, Trainer(val_check_interval=n)"
    )


def _passed(read: float, interval: float) -> int:
    return int(read / interval + 1e-9)
