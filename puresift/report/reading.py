"""Run folders, read strictly: an invalid line is an error that names it."""

from __future__ import annotations

import base64
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from puresift.errors import SiftError
from puresift.records.recorder import FILE, FORMAT

Line = dict[str, Any]
_LARGEST = 1e100
_DATA = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")
_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


class Run(NamedTuple):
    """One run, read from its lines."""

    name: str
    folder: Path
    unit: str  # of the losses
    facts: dict[str, Any]
    pools: list[Line]
    evaluations: list[Line]
    losses: Line | None
    classes: list[Line]
    samples: list[Line]


_NUMBER, _COUNT, _TEXT = (int, float), (int,), (str,)
_SUMS = ("seen", "kept", "planned", "scored", "loss", "kept_loss", "kept_low", "kept_median", "seen_median", "phi")
_NEEDED: dict[str, dict[str, tuple[type, ...]]] = {
    "run": {"format": _COUNT},
    "pools": {"pool": _COUNT, "seconds": _NUMBER},
    "evaluation": {"pool": _COUNT, "seconds": _NUMBER},
    "losses": {"edges": (list,), "seen": (list,), "kept": (list,)},
    "class": {"label": _TEXT, "seen": _NUMBER, "kept": _NUMBER},
    "sample": {"rank": _TEXT, "id": (int, str), "seen": _NUMBER, "kept": _NUMBER},
}
_OPTIONAL: dict[str, dict[str, tuple[type, ...]]] = {
    "run": {"name": _TEXT, "unit": _TEXT, "facts": (dict,)},
    "pools": {"sifting": (list,)} | dict.fromkeys(_SUMS, _NUMBER),
    "evaluation": {},
    "losses": {},
    "class": {},
    "sample": {"loss": _NUMBER, "label": _TEXT, "text": _TEXT, "image": _TEXT},
}


def read(places: list[Path]) -> list[Run]:
    """The runs in the places, each with a unique name.

    Args:
        places: a run folder, its file, or a folder of run folders.

    Raises:
        SiftError: naming the place, or the file and line, and the fix.
    """
    files = [file for place in places for file in _files(place)]
    runs = [_run(file) for file in dict.fromkeys(files)]
    named: list[Run] = []
    for run in runs:
        name = run.name
        if [other.name for other in runs].count(name) > 1:
            name = f"{run.folder.parent.name}/{name}" if run.folder.name == name else f"{run.folder.name}/{name}"
        taken, tried = {other.name for other in named}, name
        number = 2
        while tried in taken:
            tried, number = f"{name} ({number})", number + 1
        named.append(run._replace(name=tried))
    return named


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise SiftError(f"there is no {place}; give the folder of a run")
    if place.is_file():
        return [place]
    found = [place / FILE] if (place / FILE).is_file() else sorted(place.glob(f"*/{FILE}"))
    if not found:
        raise SiftError(f"{place} is no run: there is no {FILE} in it or in its folders; ps.Recorder writes one")
    return found


def _run(path: Path) -> Run:
    lines = []
    text = path.read_bytes()
    for number, raw in enumerate(text.splitlines(keepends=True), 1):
        if raw.strip():
            line = _line(f"{path}:{number}", raw, torn=not raw.endswith(b"\n"))
            lines += [line] if line is not None else []
    if not lines or lines[0]["kind"] != "run":
        raise SiftError(f'{path} is no run: its first line must have the "kind" "run"; ps.Recorder writes it')
    head = lines[0]
    of = {kind: [line for line in lines if line["kind"] == kind] for kind in _NEEDED}
    return Run(
        name=head.get("name") or path.parent.resolve().name,
        folder=path.parent.resolve(),
        unit=head.get("unit") or "",
        facts=head.get("facts") or {},
        pools=of["pools"],
        evaluations=of["evaluation"],
        losses=of["losses"][-1] if of["losses"] else None,
        classes=of["class"],
        samples=[line | {"image": _image(line.get("image"), path)} for line in of["sample"]],
    )


def _line(where: str, raw: bytes, torn: bool) -> Line | None:
    try:
        text = raw.decode("utf-8", "replace").removeprefix("\ufeff")
        line = json.loads(text, parse_constant=lambda name: None)  # NaN is no JSON
    except (ValueError, RecursionError) as error:
        if torn:
            warnings.warn(f"{where}: the last line was cut short and is left out", stacklevel=2)
            return None
        raise SiftError(f"{where}: not JSON ({error}); remove the line, or write the run again") from None
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str) or line["kind"] not in _NEEDED:
        raise SiftError(f'{where}: want an object with a "kind" among {", ".join(_NEEDED)}')
    kind = line["kind"]
    for name, types in _NEEDED[kind].items():
        if not _is(line.get(name), types):
            raise SiftError(f'{where}: a "{kind}" line needs "{name}", {_words(types)}, got {_cut(line.get(name))}')
    for name, types in _OPTIONAL[kind].items():
        if line.get(name) is not None and not _is(line[name], types):
            raise SiftError(f'{where}: "{name}" must be {_words(types)} or null, got {_cut(line[name])}')
    if kind == "run" and line["format"] != FORMAT:
        raise SiftError(
            f"{where}: format {_cut(line['format'])}, but this puresift reads format {FORMAT}; update puresift"
        )
    if kind == "losses":
        _histogram(where, line)
    if kind == "sample" and line["rank"] not in ("most", "least"):
        raise SiftError(f'{where}: "rank" must be "most" or "least", got {_cut(line["rank"])}')
    return line


def _histogram(where: str, line: Line) -> None:
    edges, seen, kept = line["edges"], line["seen"], line["kept"]
    if not all(_is(value, _NUMBER) for value in [*edges, *seen, *kept]) or edges != sorted(set(edges)):
        raise SiftError(f"{where}: edges must be numbers that ascend, seen and kept numbers")
    if not len(edges) - 1 == len(seen) == len(kept) > 0:
        raise SiftError(f"{where}: {len(edges)} edges want {len(edges) - 1} counts in seen and in kept")


def _is(value: object, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool) or not isinstance(value, types):
        return False
    return (int not in types or str in types) or drawable(value)


def drawable(value: object) -> bool:
    """A number that a figure has room for: a file may hold one of hundreds of digits."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and -_LARGEST < value < _LARGEST and math.isfinite(value)  # type: ignore[operator,arg-type]


def _cut(value: object) -> str:
    """A value in a message, of which the first letters suffice."""
    try:
        return f"{value!r:.80}"
    except RecursionError:
        return "lists in lists"


def _words(types: tuple[type, ...]) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return " or ".join(names[one] for one in types if one is not int or float not in types)


def _image(text: str | None, path: Path) -> str | None:
    """The image as a data URI, to keep the page self-contained."""
    if text is None or _DATA.fullmatch(text):
        return text
    try:
        file = (path.parent / text).resolve()
        content = file.read_bytes() if file.is_relative_to(path.parent.resolve()) and file.is_file() else b""
    except (OSError, ValueError, RuntimeError):  # a text that can be no name of a file
        content = b""
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    warnings.warn(
        f"{path}: the image {text[:60]!r} is neither a PNG nor a JPEG in the run folder, nor a data URI of one; it is "
        "left out",
        stacklevel=2,
    )
    return None
