"""Three pictures of a run."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

COLOURS = {"plain": "#444444", "shortened": "#999999", "random": "#d98a1f", "sifted": "#1f6fb4"}
Lines = dict[str, list[dict[str, Any]]]


def draw(folder: Path, lines: Lines, histograms: dict[str, dict[str, list[float]]], keep: float) -> None:
    """Accuracy against time for all arms; for a sifted one, what it kept of what it saw, over losses and over pools."""
    accuracy(lines).savefig(folder / "accuracy.png", dpi=150)
    if "sifted" in lines:
        losses(histograms["sifted"]).savefig(folder / "losses.png", dpi=150)
        threshold(lines["sifted"], keep).savefig(folder / "threshold.png", dpi=150)


def accuracy(lines: Lines) -> Figure:
    figure, axes = axis()
    for arm, rows in lines.items():
        seen = [(row["seconds"], 100 * row["accuracy"]) for row in rows if row["accuracy"] is not None]
        axes.plot(*zip(*seen, strict=True), ".-", color=COLOURS[arm], label=f"{arm}, {seen[-1][1]:.1f} %")
    axes.set(xlabel="training time, evaluation excluded [s]", ylabel="test accuracy [%]", title="Accuracy over time")
    axes.legend(frameon=False, loc="lower right")
    return figure


def losses(histogram: dict[str, list[float]]) -> Figure:
    figure, axes = axis()
    edges = histogram["edges"]
    for name, colour in (("seen", "#bbbbbb"), ("kept", COLOURS["sifted"])):
        axes.stairs(histogram[name], edges, fill=True, color=colour, label=f"{name}, {sum(histogram[name]):,.0f}")
    there = [place for place, count in enumerate(histogram["seen"]) if count]
    if there:
        axes.set_xlim(edges[max(there[0] - 1, 0)], edges[min(there[-1] + 2, len(edges) - 1)])
    logarithmic(axes, "x")
    axes.set(xlabel="loss of a candidate when scored [nats]", ylabel="candidates", title="Losses seen and kept")
    axes.legend(frameon=False, loc="best")
    return figure


def threshold(rows: list[dict[str, Any]], keep: float) -> Figure:
    rows = [row for row in rows if row["keep"] is not None]
    scored = [row for row in rows if row["threshold"] is not None]
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    pools = [row["pool"] for row in scored]
    # The smallest kept loss would be noise: a random rule keeps an easy candidate now and then.
    for name, label, colour, style in (
        ("kept_median", "kept, median", COLOURS["sifted"], "-"),
        ("threshold", "kept, a tenth lies below", COLOURS["sifted"], ":"),
        ("seen_median", "seen, median", "#777777", "-"),
    ):
        upper.plot(pools, [row[name] for row in scored], style, color=colour, label=label)
    logarithmic(upper, "y")
    upper.set(ylabel="loss [nats]", title="What it takes to be kept")
    lower.plot([row["pool"] for row in rows], [100 * row["keep"] for row in rows], color=COLOURS["sifted"])
    lower.axhline(100 * keep, color="#777777", linestyle="--", label=f"planned, {100 * keep:g} %")
    lower.set(xlabel="pools of candidates read", ylabel="kept [%]", ylim=(0, 103))
    for axes in (upper, lower):
        tidy(axes)
        axes.legend(frameon=False)
    return figure


def logarithmic(axes: Axes, which: str) -> None:
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))  # losses often span less than a decade
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def axis() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
