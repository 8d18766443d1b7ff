"""The audit log: which rows were kept and why, as JSONL or Parquet; logs.py reads it back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.infos import columns
from puresift.records.logs import Log, pyarrow, read_log
from puresift.types import Info

__all__ = ["AuditLog", "Log", "read_log"]

_OWN = ("loss", "p", "kept", "weight", "step")


class AuditLog:
    """Writes a row for every candidate: its loss, p, kept, weight and step, and the declared columns (id, age, label).

    Infos are held unread and written together, so that no step copies data or waits for a device to write them.
    JSONL is appended to, and every line that was written survives a crash; Parquet is smaller, but unreadable until it
    is closed. A loss that is not finite is written as null.

    Args:
        path: ends in .jsonl or .parquet.
        every: infos held before they are written.

    Raises:
        SiftError: the suffix is wrong, a Parquet file exists already, or pyarrow is missing.

    Example:
        >>> import tempfile
        >>> import puresift as ps
        >>> sifter = ps.sifter(lambda params, x: x, ps.top(0.5), batch_size=2, columns={"id": lambda x: x.long()})
        >>> with tempfile.TemporaryDirectory() as folder, AuditLog(f"{folder}/log.jsonl") as log:
        ...     state, info = sifter.step(sifter.init(ps.key(0), torch.zeros(2)), {}, torch.tensor([7.0, 2.0]))
        ...     log.write(info, state.step)
        ...     log.flush()
        ...     print(Path(log.path).read_text().splitlines()[0])
        {"step": 1, "loss": 7, "p": 1, "weight": 1, "kept": true, "id": 7}
    """

    def __init__(self, path: str | Path, *, every: int = 64):
        self.path, self._every = Path(path), settings.count("every", every)
        self._held: list[tuple[Info, int | Tensor]] = []
        if self.path.suffix not in (".jsonl", ".parquet"):
            raise SiftError(f"the log's name must end in .jsonl or .parquet, got {self.path.name!r}")
        self._file: Any = None
        if self.path.suffix == ".jsonl":
            torn = _torn(self.path)
            self._file = self.path.open("a", encoding="utf-8")
            self._file.write("\n" if torn else "")  # keep a line that a crash cut short apart
        else:
            pyarrow()
            if self.path.exists():
                raise SiftError(f"{self.path.name} exists, and Parquet cannot be appended to; choose another name")

    def write(self, info: Info, step: int | Tensor) -> None:
        """Add the rows of an info; step is `state.step`, unread."""
        if taken := info.extra.keys() & set(_OWN):
            raise SiftError(f"the log writes {sorted(taken)} itself; give those columns= other names")
        if len(info.losses):
            self._held.append((info, step))
        if len(self._held) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._held:
            return
        held, self._held = self._held, []
        names = list(columns(held[0][0]))
        infos = [info for info, _ in held]
        table = {
            "step": torch.cat([_steps(info, step) for info, step in held]),
            "loss": torch.cat([info.losses for info in infos]),
            "p": torch.cat([info.odds.probs for info in infos]),
            "weight": torch.cat([info.odds.weights for info in infos]),
            "kept": torch.cat([info.mask for info in infos]),
            **{name: torch.cat([info.extra[name] for info in infos]) for name in names},
        }
        lists = {name: column.tolist() for name, column in table.items()}
        lists["loss"] = [loss if math.isfinite(loss) else None for loss in lists["loss"]]
        if self.path.suffix == ".jsonl":
            parts = [f'"{name}": %s' for name in lists]
            line = "{" + ", ".join(parts) + "}\n"
            written = [_written(table[name], column) for name, column in lists.items()]
            self._file.write("".join([line % row for row in zip(*written, strict=True)]))
            self._file.flush()
        else:
            arrow, parquet = pyarrow()
            rows = arrow.table(lists)
            if self._file is None:
                self._file = parquet.ParquetWriter(self.path, rows.schema)
            self._file.write_table(rows.cast(self._file.schema))

    def close(self) -> None:
        """Write what is held and close the file."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _torn(path: Path) -> bool:
    """Whether the last line lacks its newline."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


def _steps(info: Info, step: int | Tensor) -> Tensor:
    """The step of each row, on the info's device, without reading it."""
    if isinstance(step, Tensor):
        return step.to(info.losses.device).expand(len(info.losses))
    return torch.full((len(info.losses),), step, device=info.losses.device)


def _written(tensor: Tensor, column: list[Any]) -> Iterator[str]:
    """The JSON of each entry; nine digits are exact for float32."""
    if tensor.ndim == 1 and tensor.dtype == torch.float32:
        return ("null" if value is None or value != value else f"{value:.9g}" for value in column)
    if tensor.ndim == 1 and not tensor.is_floating_point() and tensor.dtype != torch.bool:
        return map(str, column)
    return map(json.dumps, column)
