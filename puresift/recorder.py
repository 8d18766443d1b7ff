"""The run folder: what a report needs, written by any loop as lines of JSON."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puresift import images, settings
from puresift.metrics import join, pools, summarize
from puresift.types import Info, Odds

FILE, FORMAT = "sifting.jsonl", 1
# 64 bins a decade on both sides of zero, for a score need not be a positive loss; what lies outside is counted at the
# ends, and what is nearer to zero than 1e-6, in the middle.
_ARM = torch.logspace(-6, 6, 769, dtype=torch.float64)
EDGES = torch.cat([-_ARM.flip(0), _ARM])


class Recorder:
    """Writes a run folder for `puresift report`: what was seen and kept, evaluations, the samples that stand out.

    Infos are held and read together every so many pools, so that a loop does not wait for the device at each step. What
    the sifter declares as columns "id" and "label" makes the samples and the class mix; without them, the report leaves
    those out. The file is `sifting.jsonl`, and any program can write it. Each line is an object with a "kind":

        run         format (1), name, unit (of the losses), facts (an object, shown as it is); the first line
        pools       pool (read so far), seconds; since the last such line: seen, kept, planned, scored (rows), loss,
                    kept_loss, kept_low (a tenth of the kept losses lies below), kept_median, seen_median, nonfinite;
                    phi; sifting (a 0 or 1 for each pool)
        evaluation  pool, seconds, and any numbers by name, such as accuracy (a share in [0, 1])
        losses      edges (ascending), seen, kept (a count for each bin); of the whole run, the last line counts
        class       label, seen, kept (rows, of the whole run)
        sample      rank ("most" or "least"), id, seen, kept (times), loss (the mean), label, text, image (a data URI,
                    or the name of a PNG or JPEG file in the folder)

    A number that is not known is null or left out.

    Args:
        folder: is made where it is missing.
        name: of the run in a report; by default that of the folder.
        sample: id to what a reader recognises the sample by: a text, or a dict with any of "text", "label" and "image"
            (a tensor [H, W] or [1 or 3, H, W], uint8 or in [0, 1]); asked for the few samples shown alone, by `close`.
        classes: names of the labels 0, 1, ...
        unit: of the losses.
        facts: settings worth showing, by name.
        every: pools between two lines.
        shown: most and least kept samples, each.
        state: `state_dict` of the recorder to go on with; lines written after it was taken are cut off.

    Raises:
        ValueError: a setting is out of range, or the folder holds a run and no `state` is given.

    Example:
        >>> import tempfile
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
        self._sample, self._classes = sample, classes
        if state is None and self.path.exists() and self.path.stat().st_size:
            raise ValueError(f"{folder} holds a run; choose another folder, remove {FILE}, or pass state= to go on")
        Path(folder).mkdir(parents=True, exist_ok=True)
        state = state or {}
        self._ids: Tensor = state.get("ids", torch.zeros(0, dtype=torch.int64))
        self._table: Tensor = state.get("table", torch.zeros(0, 5, dtype=torch.float64))  # seen kept scored loss label
        self._news: list[tuple[Tensor, Tensor]] = []  # rows of the table that are not added up yet
        self._histogram: Tensor = state.get("histogram", torch.zeros(2, len(EDGES) - 1, dtype=torch.int64))
        self._mix: Tensor = state.get("classes", torch.zeros(0, 3, dtype=torch.int64))  # label seen kept
        self._held = [_info(state["held"])] if state.get("held") else []
        self._pool: int | Tensor = state.get("pool", 0)
        self._phi: float | None = state.get("phi")
        self._seconds: float = state.get("seconds", 0.0)
        self._began = time.perf_counter() - self._seconds
        self._closed = False
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < state.get("bytes", 0):
            raise ValueError(f"{self.path} is shorter than when the state was taken; put it back, or start a new run")
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
            seconds: of training so far; by default those since the recorder was made, evaluations included.
            phi: where it is measured; a governor's is in the info.
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
        held, self._held = self._held, []
        info = _host(join(held))
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
        self._count(info)

    def _count(self, info: Info) -> None:
        finite = info.losses.isfinite()
        for row, chosen in enumerate((finite, finite & info.mask)):
            places = torch.bucketize(info.losses[chosen].double(), EDGES) - 1
            self._histogram[row] += places.clamp(0, len(EDGES) - 2).bincount(minlength=len(EDGES) - 1)
        ones, label = torch.ones(len(finite), dtype=torch.float64), info.extra.get("label")
        if label is not None:
            rows = torch.stack([label.long(), ones.long(), info.mask.long()], 1)
            labels, place = torch.cat([self._mix[:, 0], rows[:, 0]]).unique(return_inverse=True)
            counts = torch.zeros(len(labels), 2, dtype=torch.int64)
            counts.index_add_(0, place, torch.cat([self._mix, rows])[:, 1:])
            self._mix = torch.cat([labels[:, None], counts], 1)
        if "id" in info.extra:
            named = ones * math.nan if label is None else label.double()
            entries = [ones, info.mask.double(), finite.double(), info.losses.double().where(finite, 0.0), named]
            self._news.append((info.extra["id"].long(), torch.stack(entries, 1)))
            if sum(len(ids) for ids, _ in self._news) > max(4096, len(self._ids) // 2):
                self._merge()

    def _merge(self) -> None:
        """Add the news to the table; seldom, for it costs a sort of all ids."""
        news, self._news = self._news, []
        old = torch.cat([self._table, *(rows for _, rows in news)])
        self._ids, place = torch.cat([self._ids, *(ids for ids, _ in news)]).unique(return_inverse=True)
        self._table = torch.zeros(len(self._ids), 5, dtype=torch.float64)
        self._table[:, :4].index_add_(0, place, old[:, :4])
        self._table[place, 4] = old[:, 4]

    def close(self) -> None:
        """Write what is held, and the losses, classes and samples of the whole run."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        self._merge()
        if len(there := self._histogram[0].nonzero()):
            first, last = int(there.min()), int(there.max()) + 1
            seen, kept = self._histogram[:, first:last].tolist()
            self._line("losses", edges=[float(f"{e:.6g}") for e in EDGES[first : last + 1]], seen=seen, kept=kept)
        for label, seen, kept in self._mix.tolist():
            self._line("class", label=self._class(label), seen=seen, kept=kept)
        for rank, place in self._ranked():
            self._line("sample", rank=rank, **self._described(place))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, to be saved with the model and passed as `state`; loads with weights_only."""
        self._merge()
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
        return {
            "ids": self._ids.clone(),
            "table": self._table.clone(),
            "histogram": self._histogram.clone(),
            "classes": self._mix.clone(),
            "held": _flat(_host(join(self._held))) if self._held else {},
            "pool": int(self._pool),
            "phi": self._phi,
            "seconds": self._seconds,
            "bytes": self.path.stat().st_size,
        }

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ranked(self) -> list[tuple[str, int]]:
        """Places of the most kept samples, hardest first, and of the least kept ones, easiest first."""
        seen, kept, scored, loss, _ = self._table.unbind(1)
        mean = torch.where(scored > 0, loss / scored, 0.0)
        order = sorted(range(len(seen)), key=list(zip((kept / seen).tolist(), mean.tolist(), strict=True)).__getitem__)
        shown = min(self._shown, len(order) // 2)
        return [("most", at) for at in order[::-1][:shown]] + [("least", at) for at in order[:shown]]

    def _described(self, place: int) -> dict[str, Any]:
        seen, kept, scored, loss, label = self._table[place].tolist()
        id = int(self._ids[place])
        told = self._sample(id) if self._sample is not None else None
        told = dict(told) if isinstance(told, Mapping) else {} if told is None else {"text": str(told)}
        if isinstance(told.get("image"), Tensor):
            told["image"] = images.data_uri(told["image"])
        named = {} if math.isnan(label) else {"label": self._class(int(label))}
        told = {name: str(told[name]) for name in ("text", "label", "image") if told.get(name) is not None}
        mean = loss / scored if scored else None
        return {"id": id, "seen": int(seen), "kept": int(kept), "loss": mean, **named, **told}

    def _class(self, label: int) -> str:
        return str(self._classes[label]) if 0 <= label < len(self._classes) else str(label)

    def _line(self, kind: str, **content: Any) -> None:
        content = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in content.items()}
        with self.path.open("ab") as file:  # a run may be left at any moment, and no handle with it
            file.write((json.dumps({"kind": kind, **content}, default=str) + "\n").encode())


def _host(info: Info) -> Info:
    """On the CPU, and of the columns only those that are counted."""
    names = [name for name in ("id", "label", "nonfinite", "phi", "sifting") if name in info.extra]
    losses, probs, weights, mask = (part.detach().cpu() for part in (info.losses, *info.odds, info.mask))
    return Info(losses, Odds(probs, weights), mask, {name: info.extra[name].detach().cpu() for name in names})


def _flat(info: Info) -> dict[str, Tensor]:
    odds = {"probs": info.odds.probs, "weights": info.odds.weights}
    return {"losses": info.losses, "mask": info.mask, **odds, **{f"extra.{name}": t for name, t in info.extra.items()}}


def _info(flat: Mapping[str, Tensor]) -> Info:
    extra = {name.removeprefix("extra."): tensor for name, tensor in flat.items() if name.startswith("extra.")}
    return Info(flat["losses"], Odds(flat["probs"], flat["weights"]), flat["mask"], extra)
