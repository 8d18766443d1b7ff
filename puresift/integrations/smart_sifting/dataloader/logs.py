"""What is logged: the lines that the published notebooks' metric regexes read, and every sample on request.

They go through the logger "smart_sifting.metrics", which shows them on stderr without any set-up;
`logging.getLogger("smart_sifting.metrics").setLevel(logging.WARNING)` silences it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from puresift.types import Info

shown = logging.getLogger("smart_sifting.metrics")
known = logging.getLogger("smart_sifting.dataloader.sift_dataloader")  # the name that scripts know


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what stderr is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


if not shown.handlers:
    shown.addHandler(_Stderr())
    shown.setLevel(shown.level or logging.INFO)  # a level that was set before stays
    shown.parent = None  # or a script's own basicConfig would show each line twice


class Lines:
    """Logs each batch; and each sample, with `data`."""

    def __init__(self, data: bool):
        self._data, self._pools = data, 0
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds to the seconds of a function of the script's."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - begun

    def batch(self, size: int, info: Info, sizes: list[int], seconds: float) -> None:
        """A batch of `size` rows is ready after `seconds`, for which pools of these sizes were read."""
        if shown.isEnabledFor(logging.INFO):
            shown.info("num_orig_samples_seen: %d", len(info.losses))
            shown.info("num_orig_samples_kept: %d", int(info.mask.sum()))
            shown.info("Batch size for next sifted batch: %d", size)
            shown.info("sifted_batch_creation_latency: %.6f", seconds)
            for name, spent in sorted(self._seconds.items()):
                shown.info("func:%s latency: %.6f", name, spent)
        self._seconds.clear()
        self.pools(info, sizes)

    def pools(self, info: Info, sizes: list[int]) -> None:
        """Pools of these sizes were read."""
        if shown.isEnabledFor(logging.INFO) or self._data:
            losses, mask = info.losses.split(sizes), info.mask.split(sizes)
            for values, kept in zip(losses, mask, strict=True):
                self._pool(values.tolist(), kept.tolist())

    def _pool(self, losses: list[float], kept: list[bool]) -> None:
        scored = any(loss == loss for loss in losses)
        if scored:
            shown.info("relevance_values: %s", [round(loss, 4) for loss in losses])
        if self._data:
            for place, (loss, keep) in enumerate(zip(losses, kept, strict=True)):
                value = f"loss {loss:.4f}" if scored else "not scored"
                shown.info("pool %d, sample %d: %s, %s", self._pools, place, value, "kept" if keep else "sifted out")
            _summary(losses if scored else [], kept)
        self._pools += 1


def _summary(losses: list[float], kept: list[bool]) -> None:
    both = [[round(loss, 4) for loss, keep in zip(losses, kept, strict=False) if keep is wanted] for wanted in (1, 0)]
    text = "kept %d of %d samples; losses kept: %s; losses sifted out: %s"
    known.info(text, sum(kept), len(kept), *both)
