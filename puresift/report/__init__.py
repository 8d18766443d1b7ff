"""The report: one page and its figures, from run folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from puresift.report import figures, page, single
from puresift.report.reading import Run, read

PAGE = "report.html"


def write(places: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Write report.html, one self-contained file, and its figures as PNG files.

    Args:
        places: run folders (see `ps.Recorder`), or folders of them; all runs side by side.
        out: a folder, created if missing; files of an earlier report in it are replaced.

    Returns:
        The files, the page first.

    Raises:
        SiftError: a place is no run, a line of one is broken or of another format, or matplotlib is missing.
        OSError: the folder cannot be written.
    """
    runs = read([Path(place) for place in places])
    drawn = _drawn(runs)
    text = page.page(runs, drawn).encode("utf-8", "replace")  # a lone surrogate cannot be encoded
    return _put({PAGE: text} | _pictures(drawn), Path(out))


def draw(places: Sequence[str | Path], out: str | Path) -> list[Path]:
    """The figures alone, as PNG files in the folder `out`; see `write`."""
    return _put(_pictures(_drawn(read([Path(place) for place in places]))), Path(out))


def _drawn(runs: list[Run]) -> page.Drawn:
    metric = figures.metric(runs)
    shared = [figures.evaluations(runs, metric) if metric else None, figures.kept(runs), figures.governed(runs)]
    alone = {name: [draw(run, at) for at, run in enumerate(runs)] for name, draw in single.SINGLE.items()}
    return dict(zip(("evaluations", "kept", "governor"), [[one] for one in shared], strict=True)) | alone


def _pictures(drawn: page.Drawn) -> dict[str, bytes]:
    """PNG files by name: the section's, followed by the run's where a section has several figures."""
    files: dict[str, bytes] = {}
    for made in drawn.values():
        known = [figure for figure in made if figure is not None]
        for figure in known:
            run = re.sub(r"[^a-z0-9]+", "-", figure.title.partition(":")[2].lower())[:80].strip("-") or "run"
            name = figure.name if len(known) == 1 else f"{figure.name}-{run}"
            number, free = 2, name
            while f"{free}.png" in files:
                free, number = f"{name}-{number}", number + 1
            files[f"{free}.png"] = figure.png()
    return files


def _put(files: dict[str, bytes], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]
