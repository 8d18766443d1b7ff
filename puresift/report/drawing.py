"""Drawing with matplotlib, imported for the first figure, and the conventions that figures share."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from puresift.errors import SiftError

COLOURS = ("#1f6fb4", "#d98a1f", "#3a8f5c", "#a0478f", "#b5493b", "#4d4d4d")
GREY = "#b8b8b8"
WIDTH = 4.4  # inches: small, so that letters stay legible on a narrow screen
SIZE = (WIDTH, 3.1)
_BESIDE = 24  # letters of labels of which two have room in one line
_STYLES = ("-", "--", ":", "-.")


class Figure(NamedTuple):
    """A figure, its title and its alternative text."""

    name: str  # of its file
    title: str
    alt: str  # alternative text
    figure: Any

    def png(self) -> bytes:
        """As a PNG, 150 dpi, with its title."""
        for legend in self.figure.legends:  # no room above a legend, so the title goes into it
            legend.set_title(plain(self.title, 48), prop={"size": 11})
        if not self.figure.legends:
            self.figure.suptitle(plain(self.title, 48), x=0.01, ha="left", fontsize=11)
        return _saved(self.figure, format="png", dpi=150)

    def svg(self) -> bytes:
        """As an SVG without background and title, because the page has both."""
        for legend in self.figure.legends:
            legend.set_title(None)
        self.figure.suptitle("")
        return _saved(self.figure, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def panel(rows: int = 1, size: tuple[float, float] = SIZE) -> tuple[Any, Any]:
    try:
        figures = import_module("matplotlib.figure")
    except ImportError:
        raise SiftError('a report needs matplotlib: pip install "puresift[report]"') from None
    figure = figures.Figure(figsize=size, layout="constrained")
    made = figure.subplots(rows, 1, sharex=True)
    for axes in made if rows > 1 else [made]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, made


def legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:  # outside, where it covers nothing
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=2 if max(map(len, labels)) <= _BESIDE else 1,
            frameon=False,
            fontsize=9,
            borderaxespad=0.2,
            alignment="left",
        )


def look(at: int, points: Sequence[Any] = range(9)) -> dict[str, Any]:
    marker = "." if len(points) < 4 else ""  # one point draws no line
    return {"color": colour(at), "linestyle": _STYLES[at // len(COLOURS) % len(_STYLES)], "marker": marker}


def colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]


def plain(text: str, length: int = 22) -> str:
    """A label as plain text: no mathtext, no leading underscore (matplotlib hides such labels), cut to a length."""
    text = "".join(letter if letter.isprintable() else " " for letter in text).strip() or "?"
    text = text if len(text) <= length else text[: length - 1] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def clock(seconds: Sequence[float]) -> tuple[float, str]:
    longest = max(seconds, default=0.0)
    return (3600.0, "h") if longest > 3 * 3600 else (60.0, "min") if longest > 600 else (1.0, "s")


def logarithmic(axes: Any, which: str) -> None:
    ticker = import_module("matplotlib.ticker")
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    subs = (1, 2, 3, 5, 7) if high < 20 * low else (1, 3) if high < 1000 * low else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=subs))  # losses often span less than a decade
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _saved(figure: Any, **how: Any) -> bytes:
    matplotlib, file = import_module("matplotlib"), io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "puresift", "svg.fonttype": "path"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # names in other scripts
        figure.savefig(file, **how)
    return file.getvalue()
