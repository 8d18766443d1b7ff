"""The run folder: what a report needs, written by any loop as lines of JSON."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.infos import join, pools
from puresift.records import held, images
from puresift.records.counts import OTHERS, Classes, Histogram, Samples
from puresift.records.meters import summarize
from puresift.types import Info

FILE, FORMAT = "sifting.jsonl", 1


class Recorder:
    """Writes a run folder for `puresift report`: what was seen and kept, evaluations, the most and least kept samples.

    Infos are held and read together every `every` pools, so that a loop does not wait for the device at each step. The
    sifter's columns "id" and "label" give the samples and the class mix; without them, the report leaves those out.
    The file is `sifting.jsonl`, and any program can write it. Each line is an object with a "kind":

        run         format (1), name, unit (of the losses), facts (an object, shown as it is); the first line
        pools       pool (read so far), seconds; since the last such line: seen, kept, planned, scored (rows), loss,
                    kept_loss, kept_low (a tenth of the kept losses lies below), kept_median, seen_median, nonfinite;
                    phi; sifting (a 0 or 1 for each pool)
        evaluation  pool, seconds, and any numbers by name, such as accuracy (a share in [0, 1]); measured_cost is no
                    metric, but what a sample seen costs in samples trained on, where the loop has timed it
        losses      edges (ascending), seen, kept (a count for each bin); of the whole run, the last line counts
        class       label, seen, kept (rows, of the whole run)
        sample      rank ("most" or "least"), id, seen, kept (times), loss (the mean), label, text, image (a data URI,
                    or the name of a PNG or JPEG file in the folder)

    A number that is not known is null or left out. Every row counts in pools, losses and classes. So that memory stays
    bounded, samples are counted for at most 131,072 ids: of more, for a share of 1/2, 1/4, ... of the ids, drawn by a
    hash and counted from their first row on, so that the counts of those shown are exact. Labels beyond 4,096
    different ones count together, as "(others)".

    Args:
        folder: created if missing.
        name: the run's name in a report; by default the folder's.
        sample: id to a description of the sample: a text, or a dict with any of "text", "label" and "image"
            (a tensor [H, W] or [1 or 3, H, W], uint8 or in [0, 1]); called by `close`, only for the few samples shown.
        classes: names of the labels 0, 1, ...
        unit: the unit of the losses.
        facts: settings to show, by name.
        every: pools between two lines.
        shown: number of most kept samples, and of least kept ones.
        state: `state_dict` of the recorder to resume; lines written after it was taken are cut off.

    Raises:
        SiftError: a setting is out of range, or the folder holds a run and no `state` is given.

    Example:
        >>> import tempfile, torch
        >>> import puresift as ps
        >>> sifter = ps.sifter(lambda params, x: x, ps.top(0.5), batch_size=2, columns={"id": lambda x: x.long()})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Recorder(folder, name="mine", sample=lambda id: f"sample number {id}") as recorder:
        ...         state, info = sifter.step(sifter.init(ps.key(0), torch.zeros(2)), {}, torch.tensor([7.0, 2.0]))
        ...         recorder.write(info, state.step)
        ...         recorder.evaluate(state.step, accuracy=0.5)
        ...     [json.loads(line)["kind"] for line in Path(folder, FILE).read_text().splitlines()]
        ['run', 'pools', 'evaluation', 'losses', 'sample', 'sample']
    """

    FILE = FILE  # its name in the folder

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        sample: Callable[[int], Any] | None = None,
        classes: Sequence[str] = (),
        unit: str = "nats",
        facts: Mapping[str, Any] | None = None,
        every: int = 10,
        shown: int = 8,
        state: Mapping[str, Any] | None = None,
    ):
        self.path = Path(folder) / FILE
        self._every, self._shown = settings.count("every", every), settings.count("shown", shown)
        self._sample, self._names = sample, classes
        if state is None and self.path.exists() and self.path.stat().st_size:
            raise SiftError(f"{folder} holds a run; choose another folder, remove {FILE}, or pass state= to resume")
        Path(folder).mkdir(parents=True, exist_ok=True)
        state = state or {}
        self._losses = Histogram(state.get("histogram"))
        self._classes, self._samples = Classes(state.get("classes")), Samples(state)
        self._held = [held.info(state["held"])] if state.get("held") else []
        self._pool: int | Tensor = state.get("pool", 0)
        self._phi: float | None = state.get("phi")
        self._seconds: float = state.get("seconds", 0.0)
        self._began = time.perf_counter() - self._seconds
        self._closed = False
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < state.get("bytes", 0):
            raise SiftError(f"{self.path} is shorter than when the state was taken; put it back, or start a new run")
        with self.path.open("ab") as file:
            file.truncate(state.get("bytes", 0))
        if not state:
            facts = {name: value for name, value in (facts or {}).items() if value is not None}
            self._line("run", format=FORMAT, name=name or self.path.parent.resolve().name, unit=unit, facts=facts)

    def write(self, info: Info, step: int | Tensor, *, seconds: float | None = None, phi: float | None = None) -> None:
        """Add an info; step is `state.step`, unread.

        Args:
            info: of one pool or of several, such as the stream yields; one without rows adds nothing.
            step: pools read so far.
            seconds: training time so far; by default since the recorder was made, evaluations included.
            phi: if it is measured; a governor's is in the info.
        """
        self._pool, self._phi = step, self._phi if phi is None else phi
        self._seconds = time.perf_counter() - self._began if seconds is None else seconds
        if len(info.losses):
            self._held.append(info)
        if sum(map(pools, self._held)) >= self._every:
            self.flush()

    def evaluate(self, step: int | Tensor, *, seconds: float | None = None, **values: float) -> None:
        """Add an evaluation, such as `accuracy=0.9`."""
        self.flush()
        seconds = time.perf_counter() - self._began if seconds is None else seconds
        self._line("evaluation", pool=int(step), seconds=seconds, **{name: float(v) for name, v in values.items()})

    def flush(self) -> None:
        """Write what is held as one line."""
        if not self._held:
            return
        infos, self._held = self._held, []
        info = held.host(join(infos))
        numbers = summarize(info)
        real = info.losses[info.losses.isfinite()]
        kept = info.losses[info.losses.isfinite() & info.mask]
        line: dict[str, Any] = {
            name: numbers[name] for name in ("seen", "kept", "scored", "loss", "kept_loss", "nonfinite")
        }
        line |= {"planned": float(info.odds.probs.double().sum())}
        line |= {"kept_low": float(kept.sort().values[len(kept) // 10])} if len(kept) else {}
        line |= {"kept_median": float(kept.median())} if len(kept) else {}
        line |= {"seen_median": float(real.median())} if len(real) else {}
        if "phi" in info.extra:
            self._phi = float(info.extra["phi"][-1]) or self._phi
        if "sifting" in info.extra:
            line["sifting"] = info.extra["sifting"].int().tolist()
        self._line("pools", pool=int(self._pool), seconds=self._seconds, phi=self._phi, **line)
        for counted in (self._losses, self._classes, self._samples):
            counted.add(info)

    def close(self) -> None:
        """Write what is held, and the losses, classes and samples of the whole run."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        self._samples.merge()
        if line := self._losses.line():
            self._line("losses", **line)
        for label, seen, kept in self._classes.table.tolist():
            self._line("class", label=self._class(label), seen=seen, kept=kept)
        for rank, place in self._samples.ranked(self._shown):
            self._line("sample", rank=rank, **self._described(place))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, to be saved with the model and passed as `state`; loads with weights_only."""
        self._samples.merge()
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
        return {
            "ids": self._samples.ids.clone(),
            "table": self._samples.table.clone(),
            "halvings": self._samples.halvings,
            "histogram": self._losses.counts.clone(),
            "classes": self._classes.table.clone(),
            "held": held.flat(held.host(join(self._held))) if self._held else {},
            "pool": int(self._pool),
            "phi": self._phi,
            "seconds": self._seconds,
            "bytes": self.path.stat().st_size,
        }

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _described(self, place: int) -> dict[str, Any]:
        seen, kept, scored, loss, label = self._samples.table[place].tolist()
        id = int(self._samples.ids[place])
        told = self._sample(id) if self._sample is not None else None
        told = dict(told) if isinstance(told, Mapping) else {} if told is None else {"text": str(told)}
        if isinstance(told.get("image"), Tensor):
            told["image"] = images.data_uri(told["image"])
        named = {} if math.isnan(label) else {"label": self._class(int(label))}
        told = {name: str(told[name]) for name in ("text", "label", "image") if told.get(name) is not None}
        mean = loss / scored if scored else None
        return {"id": id, "seen": int(seen), "kept": int(kept), "loss": mean, **named, **told}

    def _class(self, label: int) -> str:
        if label == OTHERS:
            return "(others)"
        return str(self._names[label]) if 0 <= label < len(self._names) else str(label)

    def _line(self, kind: str, **content: Any) -> None:
        content = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in content.items()}
        with self.path.open("ab") as file:  # a run may end at any moment: leave no open handle
            file.write((json.dumps({"kind": kind, **content}, default=str) + "\n").encode())
