"""The figures of one run each. Each takes a run and its place, and returns None if the run lacks the data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from puresift.report import drawing
from puresift.report.drawing import Figure
from puresift.report.reading import Line, Run

_CLASSES = 12
_BINS = 48


def losses(run: Run, at: int) -> Figure | None:
    """The losses seen and kept, by their size."""
    if run.losses is None or not sum(run.losses["seen"]):
        return None
    edges, seen, chosen = _coarse(run.losses)
    figure, axes = drawing.panel()
    totals = {"seen": sum(seen), "kept": sum(chosen)}
    for name, counts, colour in (("seen", seen, drawing.GREY), ("kept", chosen, drawing.colour(at))):
        axes.stairs(counts, edges, fill=True, color=colour, label=f"{name} and scored, {totals[name]:,.0f}")
    if edges[0] > 0 and edges[-1] > 3 * edges[0]:
        drawing.logarithmic(axes, "x")
    axes.set(xlabel=f"loss when scored{_unit(run)}", ylabel="samples")
    drawing.legend(figure, axes)
    middle = {name: _middle(edges, counts) for name, counts in (("seen", seen), ("kept", chosen))}
    title = f"Losses seen and kept: {run.name}"
    words = f"{title}: a histogram; the median loss seen is {middle['seen']:.3g}, of those kept {middle['kept']:.3g}"
    return Figure("losses", title, words + f" {run.unit}".rstrip(), figure)


def threshold(run: Run, at: int) -> Figure | None:
    """What it takes to be kept, over pools."""
    lines = [line for line in run.pools if line.get("kept_low") is not None]
    if not lines:
        return None
    figure, axes = drawing.panel()
    colour = drawing.colour(at)
    # The smallest kept loss would be noise: a random rule keeps an easy candidate now and then.
    for name, label, paint, style in (
        ("kept_median", "kept, median", colour, "-"),
        ("kept_low", "kept, a tenth lies below", colour, ":"),
        ("seen_median", "seen, median", "#777777", "-"),
    ):
        known = [(line["pool"], line[name]) for line in lines if line.get(name) is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True), **drawing.look(at, known) | {"linestyle": style, "color": paint}, label=label
            )
    values = [line[name] for line in lines for name in ("kept_low", "seen_median") if line.get(name) is not None]
    if min(values) > 0:
        drawing.logarithmic(axes, "y")
    axes.set(xlabel="pools read", ylabel=f"loss{_unit(run)}")
    drawing.legend(figure, axes)
    title = f"What it takes to be kept: {run.name}"
    words = f"{title}: a tenth of the kept losses lies below {lines[0]['kept_low']:.3g} at first, and at the end below "
    return Figure("threshold", title, words + f"{lines[-1]['kept_low']:.3g} {run.unit}".rstrip(), figure)


def classes(run: Run, at: int) -> Figure | None:
    """The share of each class, seen and kept."""
    shown = sorted(run.classes, key=lambda line: -line["seen"])[:_CLASSES]
    seen, chosen = (sum(line[name] for line in run.classes) for name in ("seen", "kept"))
    if not shown or not seen or not chosen:
        return None
    figure, axes = drawing.panel(size=(drawing.WIDTH, 1.3 + 0.5 * len(shown)))
    shares = [(line["label"], 100 * line["seen"] / seen, 100 * line["kept"] / chosen) for line in shown]
    for row, (_, one, other) in enumerate(shares):
        axes.barh(row - 0.2, one, 0.36, color=drawing.GREY, label="seen" if not row else None)
        axes.barh(row + 0.2, other, 0.36, color=drawing.colour(at), label="kept" if not row else None)
        for offset, value in ((-0.2, one), (0.2, other)):
            axes.annotate(
                f"{value:.1f}", (value, row + offset), (3, 0), textcoords="offset points", va="center", size=8
            )
    axes.set_yticks(range(len(shares)), [drawing.plain(label) for label, _, _ in shares])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="share of the samples [%]")
    axes.grid(visible=False, axis="y")
    drawing.legend(figure, axes)
    title = f"Class mix: {run.name}"
    words = "; ".join(f"{label} {one:.1f} % of those seen, {other:.1f} % of those kept" for label, one, other in shares)
    return Figure("classes", title, f"{title}: {words}", figure)


def _coarse(line: Line) -> tuple[list[float], list[float], list[float]]:
    """A limited number of bins, without long thin tails: the outermost thousandths count in the last bins."""
    edges, seen, kept = line["edges"], list(line["seen"]), list(line["kept"])
    total, below, first, last = sum(seen), 0.0, 0, len(seen) - 1
    while first < last and (below + seen[first]) * 1000 < total:
        below, first = below + seen[first], first + 1
    above = 0.0
    while last > first and (above + seen[last]) * 1000 < total:
        above, last = above + seen[last], last - 1
    step = -(-(last + 1 - first) // _BINS)
    places = [*range(first, last + 1, step), last + 1]

    def joined(counts: list[float]) -> list[float]:
        parts = [sum(counts[a:b]) for a, b in pairwise(places)]
        parts[0] += sum(counts[:first])
        parts[-1] += sum(counts[last + 1 :])
        return parts

    return [edges[place] for place in places], joined(seen), joined(kept)


def _middle(edges: list[float], counts: list[float]) -> float:
    passed = 0.0
    for edge, count in zip(edges, counts, strict=False):
        passed += count
        if 2 * passed >= sum(counts) > 0:
            return edge
    return float("nan")


def _unit(run: Run) -> str:
    return f" [{drawing.plain(run.unit)}]" if run.unit else ""


# Figures of one run each, by the section of the page that shows them.
SINGLE: dict[str, Callable[[Run, int], Figure | None]] = {"losses": losses, "threshold": threshold, "classes": classes}
