"""The figures of all runs together. Each takes runs, and returns None if they lack the data."""

from __future__ import annotations

from collections.abc import Sequence

from puresift.report import drawing
from puresift.report.drawing import Figure
from puresift.report.reading import Line, Run, drawable
from puresift.report.single import SINGLE, classes, losses, threshold

__all__ = [
    "SINGLE",
    "classes",
    "cost",
    "decisions",
    "evaluations",
    "governed",
    "kept",
    "losses",
    "measured",
    "metric",
    "share",
    "threshold",
]


def metric(runs: Sequence[Run]) -> str | None:
    """The metric that evaluations are plotted by: accuracy if there is one, else the first."""
    names = [name for run in runs for line in run.evaluations for name in measured(line)]
    return "accuracy" if "accuracy" in names else names[0] if names else None


def measured(line: Line) -> dict[str, float]:
    """The metrics of an evaluation, by name."""
    own = ("kind", "pool", "seconds", "measured_cost")
    return {k: v for k, v in line.items() if k not in own and drawable(v)}


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
    figure, axes = drawing.panel(rows=2 if both else 1, size=(drawing.WIDTH, 4.3) if both else drawing.SIZE)
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


def governed(runs: Sequence[Run]) -> Figure | None:
    """Where the governor had sifting on, over pools, one row per run."""
    known = [(at, run.name, decisions(run)) for at, run in enumerate(runs)]
    known = [(at, name, made) for at, name, made in known if made]
    if not known:
        return None
    figure, axes = drawing.panel(size=(drawing.WIDTH, 1.3 + 0.55 * len(known)))
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


def cost(seen: float, kept: float, scored: float, phi: float) -> float:
    """What a sample seen costs, in samples trained on: phi times the share scored, plus the share kept."""
    return phi * scored / seen + kept / seen
