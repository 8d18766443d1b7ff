"""Logs of losses, read back: whatever can be read is kept."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch

from puresift.errors import SiftError

_LONGEST = 2**27  # letters of a line, which has to fit into memory
_COLUMNS = 1000  # in a log: a hostile one has new names in every line


class Log(NamedTuple):
    """A log read from a file: columns by name, and the number of unreadable lines."""

    columns: dict[str, Any]  # a tensor [N, ...] where all rows have numbers, else a list
    lost: int


def read_log(path: str | Path) -> Log:
    """Read a log. Lines that cannot be read are left out, counted and named in a warning; the others are kept.

    Args:
        path: what `AuditLog` wrote, or any JSONL whose objects have a "loss"; or Parquet with such a column.

    Returns:
        `Log(columns, lost)`; a loss that is null is NaN.

    Raises:
        SiftError: nothing in it can be read.
        FileNotFoundError: there is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "log.jsonl")
        ...     _ = file.write_text('{"loss": 0.5, "id": 3}\\n{"loss": 0.25, "id": 4}\\n')
        ...     read_log(file).columns["loss"]
        tensor([0.5000, 0.2500])
    """
    path = Path(path)
    if path.is_dir():
        raise SiftError(f"{path} is a folder; give the .jsonl or .parquet file in it")
    table, bad, first = _parquet(path) if path.suffix == ".parquet" else _jsonl(path)
    if bad:
        all_ = bad + len(table["loss"])
        warnings.warn(
            f"{path.name}: {bad} of {all_} lines cannot be read and were left out, the first is line {first}; a run "
            "that was killed while writing is the usual cause",
            stacklevel=2,
        )
    if len(table) > _COLUMNS:
        warnings.warn(f"{path.name}: of its {len(table)} names, the first {_COLUMNS} were read", stacklevel=2)
        table = {name: table[name] for name in _first(table)}
    return Log({name: _column(name, values) for name, values in table.items()}, bad)


def _jsonl(path: Path) -> tuple[dict[str, Any], int, int]:
    """Lists by name, the number of unreadable lines, and the first of them."""
    rows, bad, first = [], 0, 0
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            row = _row(line)
            if row is None:
                bad, first = bad + 1, first or number
            else:
                rows.append(row)
    if not rows:
        raise SiftError(f'{path.name} has no line that is a JSON object with a "loss"; it is no log, or an empty one')
    names = dict.fromkeys(name for row in rows for name in row)
    shown = set(_first(names))
    return {name: [row.get(name) for row in rows] if name in shown else [] for name in names}, bad, first


def _first(names: Iterable[str]) -> list[str]:
    """As many names as are read, the loss among them."""
    read = list(names)[:_COLUMNS]
    return read if "loss" in read else ["loss", *read[:-1]]


def _lines(file: TextIO) -> Iterator[str]:
    """The lines; of one without end, only so much that it is known to be unreadable."""
    while line := file.readline(_LONGEST):
        while len(line) == _LONGEST and not line.endswith("\n"):
            line = "too long" + file.readline(_LONGEST)[-_LONGEST + 8 :]
        yield line


def _parquet(path: Path) -> tuple[dict[str, Any], int, int]:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    arrow, parquet = pyarrow()
    try:
        read = parquet.read_table(path).to_pydict()
    except (arrow.ArrowException, OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise SiftError(
            f"{path.name} cannot be read as Parquet ({error}); a file that was not closed has no index and is "
            "lost: log to .jsonl where runs may be killed"
        ) from error
    if "loss" not in read:
        raise SiftError(f'{path.name} has no column "loss", only {sorted(read)}; it is no log of losses')
    bad = [at for at, loss in enumerate(read["loss"]) if not _is_loss(loss)]
    if bad:
        good = [at for at, loss in enumerate(read["loss"]) if _is_loss(loss)]
        if not good:
            raise SiftError(f'the "loss" in {path.name} is no number in any row; it is no log of losses')
        read = {name: [values[at] for at in good] for name, values in read.items()}
    return read, len(bad), bad[0] + 1 if bad else 0


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and _is_loss(row.get("loss", "")) else None


def _is_loss(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _column(name: str, values: list[Any]) -> Any:
    """A tensor where that is possible: missing numbers are NaN in a column of floats."""
    if name == "loss":
        return torch.tensor([math.nan if value is None else _real(value) for value in values])
    kinds = {type(value) for value in values}
    if kinds == {bool} or (kinds == {int} and all(-(2**63) <= value < 2**63 for value in values)):
        return torch.tensor(values)
    if kinds <= {int, float, type(None)} and float in kinds:
        return torch.tensor([math.nan if value is None else float(_real(value)) for value in values])
    return values


def _real(value: float) -> float:
    """A number that fits a tensor: one of hundreds of digits is infinite."""
    if isinstance(value, float) or -(2**63) <= value < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise SiftError("Parquet needs pyarrow: pip install pyarrow, or log to .jsonl") from None
