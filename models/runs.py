"""What an arm counts, its metrics and its progress, and how it is told to stop."""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import puresift as ps
from models import ranks
from models.checkpoints import load
from models.files import read_json, replace, write_json
from puresift.distributed import place

__all__ = ["Metrics", "Progress", "Stop", "Tally", "load", "read_json", "replace", "stopping", "write_json"]

APART = 30.0  # seconds between two lines of progress where there is no terminal


@dataclass
class Tally:
    """What an arm counts. All of it goes into the checkpoint, so that a resumed arm continues the counts."""

    # Rows and losses are those of all ranks; seconds, by each rank's own clock.
    pool: int = 0  # candidates read, in pools
    step: int = 0  # optimizer steps
    scored: int = 0  # rows
    trained: int = 0  # rows
    seconds: float = 0.0  # of training; evaluating and saving excluded
    eval_seconds: float = 0.0
    score_seconds: float = 0.0
    train_seconds: float = 0.0
    # Since the last line of metrics.jsonl:
    loss: float = 0.0  # sum over steps
    steps: int = 0
    losses: Tensor = field(default_factory=lambda: torch.empty(0))  # of the candidates
    mask: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))

    @property
    def phi(self) -> float | None:
        """Time to score a sample over time to train on one; None before both were measured."""
        if not self.scored or not self.trained:
            return None
        return (self.score_seconds / self.scored) / (self.train_seconds / self.trained)

    def trains(self, pool: int, rows: int, loss: float, info: ps.Info | None) -> int:
        """Count a step on `rows` of the first `pool` pools; returns the pools counted before."""
        before, self.pool = self.pool, pool
        self.step, self.trained = self.step + 1, self.trained + rows
        self.loss, self.steps = self.loss + loss, self.steps + 1
        if info is not None:
            self.losses = torch.cat([self.losses, info.losses.detach().float().cpu()])
            self.mask = torch.cat([self.mask, info.mask.cpu()])
        return before

    def line(self, rate: float) -> dict[str, Any]:
        """A line of metrics.jsonl; resets the sums for the next one."""
        real = self.losses.isfinite()
        kept = self.losses[real & self.mask]
        line = {
            "pool": self.pool,
            "step": self.step,
            "loss": self.loss / self.steps if self.steps else None,
            "keep": self.mask.float().mean().item() if len(self.mask) else None,
            "phi": self.phi,
            "threshold": kept.quantile(0.1).item() if len(kept) else None,
            "kept_median": kept.median().item() if len(kept) else None,
            "seen_median": self.losses[real].median().item() if real.any() else None,
            "lr": rate,
            "seconds": self.seconds,
        }
        self.loss, self.steps, self.losses, self.mask = 0.0, 0, self.losses[:0], self.mask[:0]
        return line


class Metrics:
    """metrics.jsonl, truncated to the length in the checkpoint: lines written after it are written again."""

    def __init__(self, path: Path, size: int):
        self.path = path
        have = path.stat().st_size if path.exists() else 0
        if have < size:  # cut to a size it does not have, it would be filled up with NUL bytes
            print(f"train: {path} has lost lines since the checkpoint; it goes on without them", file=sys.stderr)
        with open(path, "ab") as file:
            file.truncate(min(size, have))
            file.write(b"\n" if have < size and not ends_a_line(path) else b"")

    def write(self, line: Mapping[str, Any]) -> None:
        with open(self.path, "ab") as file:
            file.write((json.dumps(line) + "\n").encode())

    def size(self) -> int:
        """Its size in bytes, after flushing to disk."""
        with open(self.path, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()


def ends_a_line(path: Path) -> bool:
    content = path.read_bytes()
    return not content or content.endswith(b"\n")


def rng() -> dict[str, Any]:
    """The global generator states, which dropout draws from."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_rng(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


class Stop:
    """The signal that asked to stop; 0 if none did."""

    signal = 0
    told = 0  # the last that all ranks have heard of

    @property
    def agreed(self) -> int:
        """The signal that all ranks know of: one that comes between two meetings waits for the next."""
        return self.signal if place()[1] == 1 else self.told

    def heard(self) -> int:
        """The signal that asked any of the ranks, all of which must call this; they then stop alike."""
        self.told = max(ranks.each(self.signal))
        return self.agreed


@contextmanager
def stopping() -> Iterator[Stop]:
    """Let SIGINT and SIGTERM finish the step; a second one exits at once."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """One line that stays in place on a terminal; elsewhere a line now and then, and one at the end of an arm."""

    def __init__(self, name: str, total: int, done: int):
        self.name, self.total = name, total
        self.accuracy: float | None = None
        self.said = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            shape: dict[str, Any] = {"leave": False, "dynamic_ncols": True}  # a line that wraps would not stay
            self.bar = tqdm(desc=f"{name:>9}", total=total, initial=done, unit="pool", **shape)

    def update(self, tally: Tally, keep: float | None) -> None:
        if self.bar is None:
            return
        shown = {"accuracy": self.accuracy, "loss": tally.loss / tally.steps, "kept": keep, "phi": tally.phi}
        self.bar.set_postfix(
            {name: f"{value:.2f}" for name, value in shown.items() if value is not None}, refresh=False
        )
        self.bar.update(tally.pool - self.bar.n)

    def say(self, line: Mapping[str, Any]) -> None:
        self.accuracy = line["accuracy"]
        now = time.monotonic()
        if self.bar is not None or (line["pool"] < self.total and now - self.said < APART):
            return
        self.said = now
        shown = {name: line[name] for name in ("accuracy", "loss", "keep", "phi") if line[name] is not None}
        text = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        left = line["seconds"] / line["pool"] * (self.total - line["pool"]) if line["pool"] else math.nan
        more = f"  {left:.0f} s left" if left > 0 else ""
        print(f"{self.name:>9}  pool {line['pool']}/{self.total}  {text}{more}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
