"""The figures of a report. Each takes runs, and returns None if they lack the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from puresift.report import drawing
from puresift.report.drawing import Figure
from puresift.report.reading import Line, Run

_CLASSES = 12
_BINS = 48


def metric(runs: Sequence[Run]) -> str | None:
    """The metric that evaluations are plotted by: accuracy if there is one, else the first."""
    names = [name for run in runs for line in run.evaluations for name in measured(line)]
    return "accuracy" if "accuracy" in names else names[0] if names else None


def measured(line: Line) -> dict[str, float]:
    """The metrics of an evaluation, by name."""
    own = ("kind", "pool", "seconds")
    return {k: v for k, v in line.items() if k not in own and isinstance(v, int | float) and not isinstance(v, bool)}


def evaluations(runs: Sequence[Run], name: str) -> Figure | None:
    """A metric against wall-clock, all runs."""
    lines = {at: [line for line in run.evaluations if name in measured(line)] for at, run in enumerate(runs)}
    if not any(lines.values()):
        return None
    share = name == "accuracy" and all(0 <= line[name] <= 1 for part in lines.values() for line in part)
    factor, unit = (100, " [%]") if share else (1, "")
    figure, axes = drawing.panel()
    scale, seconds = drawing.clock([line["seconds"] for part in lines.values() for line in part])
    words = []
    for at, part in lines.items():
        if not part:
            continue
        last = factor * part[-1][name]
        words.append(f"{runs[at].name} ends at {last:.4g}{' %' if share else ''} after {part[-1]['seconds']:.4g} s")
        axes.plot(
            [line["seconds"] / scale for line in part],
            [factor * line[name] for line in part],
            label=f"{drawing.plain(runs[at].name)}, {last:.1f} %"
            if share
            else f"{drawing.plain(runs[at].name)}, {last:.4g}",
            **drawing.look(at) | {"marker": "."},
        )
    axes.set(xlabel=f"training time [{seconds}]", ylabel=drawing.plain(name) + unit)
    drawing.legend(figure, axes)
    title = f"{name.capitalize()} over time"
    return Figure(
        "accuracy" if name == "accuracy" else "evaluations",
        title,
        f"{title}, against wall-clock: " + "; ".join(words),
        figure,
    )


def kept(runs: Sequence[Run]) -> Figure | None:
    """The fraction kept, and phi below it, over time."""
    told = {at: [line for line in run.pools if line.get("seen")] for at, run in enumerate(runs)}
    told = {at: lines for at, lines in told.items() if lines}
    if not told:
        return None
    phis = {at: [line for line in lines if line.get("phi") is not None] for at, lines in told.items()}
    both = any(phis.values())
    figure, axes = drawing.panel(rows=2 if both else 1, size=(5.0, 4.6) if both else drawing.SIZE)
    upper, lower = axes if both else (axes, axes)
    scale, seconds = drawing.clock([line["seconds"] for lines in told.values() for line in lines])
    words = []
    for at, lines in told.items():
        shares = [100 * (line.get("kept") or 0) / line["seen"] for line in lines]
        upper.plot(
            [line["seconds"] / scale for line in lines],
            shares,
            label=drawing.plain(runs[at].name),
            **drawing.look(at, lines),
        )
        words.append(f"{runs[at].name} keeps {share(lines, 'kept', 'seen'):.1f} % of what it sees")
        if phis[at]:
            times = [line["seconds"] / scale for line in phis[at]]
            lower.plot(times, [line["phi"] for line in phis[at]], **drawing.look(at, times))
            words[-1] += f", at a phi of {phis[at][-1]['phi']:.3g}"
    upper.set(ylabel="kept [%]", ylim=(-3, 103))
    if both:
        lower.set(ylabel="phi [training steps]")
        lower.set_ylim(bottom=0)
    lower.set_xlabel(f"training time [{seconds}]")
    drawing.legend(figure, upper)
    title = "Fraction kept and phi over time" if both else "Fraction kept over time"
    return Figure("kept", title, f"{title}: " + "; ".join(words), figure)


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
    figure, axes = drawing.panel(size=(5.0, 1.3 + 0.5 * len(shown)))
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


def governed(runs: Sequence[Run]) -> Figure | None:
    """Where the governor had sifting on, over pools, one row per run."""
    known = [(at, run.name, decisions(run)) for at, run in enumerate(runs)]
    known = [(at, name, made) for at, name, made in known if made]
    if not known:
        return None
    figure, axes = drawing.panel(size=(5.0, 1.3 + 0.55 * len(known)))
    words = []
    for row, (at, name, made) in enumerate(known):
        axes.broken_barh(
            [(start, stop - start) for start, stop, on in made if on], (row - 0.3, 0.6), color=drawing.colour(at)
        )
        axes.broken_barh(
            [(start, stop - start) for start, stop, on in made if not on], (row - 0.3, 0.6), color="#cfcfcf"
        )
        on, all_ = (sum(stop - start for start, stop, sifted in made if sifted or whole) for whole in (False, True))
        words.append(f"{name} sifted {on} of {all_} pools")
    axes.set_yticks(range(len(known)), [drawing.plain(name) for _, name, _ in known])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="pools read; coloured where sifting was on")
    return Figure("governor", "Governor: sifting on or off", "Decisions of the governor: " + "; ".join(words), figure)


def decisions(run: Run) -> list[tuple[int, int, bool]]:
    """Runs of equal decisions: from pool, to pool, whether it was on."""
    made: list[tuple[int, int, bool]] = []
    for line in run.pools:
        flags = line.get("sifting") or []
        first = line["pool"] - len(flags)
        for at, flag in enumerate(flags, first):
            if made and made[-1][2] == bool(flag) and made[-1][1] == at:
                made[-1] = (made[-1][0], at + 1, bool(flag))
            else:
                made.append((at, at + 1, bool(flag)))
    return made


def share(lines: Sequence[Line], part: str, whole: str) -> float:
    """The sum of one count as a percentage of another's; NaN if that is 0."""
    total = sum(line.get(whole) or 0 for line in lines)
    return 100 * sum(line.get(part) or 0 for line in lines) / total if total else float("nan")


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
