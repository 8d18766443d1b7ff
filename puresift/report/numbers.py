"""What a run comes to: the numbers of its row in the table, and the sentence on top of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from puresift.report import figures
from puresift.report.reading import Run, drawable


class Numbers(NamedTuple):
    """Of a whole run; None where it is not known."""

    value: float | None  # of the metric, at the end
    seconds: float | None
    pools: int | None
    seen: float
    kept: float
    phi: float | None
    cost: float | None

    @property
    def share(self) -> float | None:
        return self.kept / self.seen if self.seen else None


def numbers(run: Run, metric: str | None) -> Numbers:
    """The numbers of a run, out of its lines."""
    lines = run.pools + run.evaluations
    values = [
        told[metric] for line in run.evaluations if metric is not None and metric in (told := figures.measured(line))
    ]
    seen, kept = (sum(line.get(name) or 0 for line in run.pools) for name in ("seen", "kept"))
    phi = next((line["phi"] for line in reversed(run.pools) if line.get("phi") is not None), None)
    return Numbers(
        values[-1] if values else None,
        max((line["seconds"] for line in lines), default=None),
        max((line["pool"] for line in lines), default=None),
        seen,
        kept,
        phi,
        _cost(run, seen, kept, phi),
    )


def _cost(run: Run, seen: float, kept: float, phi: float | None) -> float | None:
    """As the loop has measured it, if it has; else out of phi, or of what was kept alone if nothing was scored."""
    told = next((line["measured_cost"] for line in run.evaluations[::-1] if drawable(line.get("measured_cost"))), None)
    scored = sum(
        line["seen"] if line.get("scored") is None else line["scored"] for line in run.pools if line.get("seen")
    )
    if told is not None or not seen or (scored and phi is None):
        return told
    return figures.cost(seen, kept, scored, phi or 0.0)


def shown(value: float | None, digits: int = 0, unit: str = "") -> str:
    """With thousands separators; a dash if unknown."""
    return "-" if value is None or value != value else f"{value:,.{digits}f}{unit}"


def result(value: float | None, metric: str | None) -> str:
    """A metric's value; accuracies are shares."""
    if metric == "accuracy" and value is not None and 0 <= value <= 1:
        return shown(100 * value, 2, " %")
    return shown(value, 4)


def sentence(runs: Sequence[Run]) -> list[tuple[str, bool]]:
    """What there is to say of all runs first: pieces of text, and whether a piece is the name of a run."""
    metric = figures.metric(runs)
    known = [(run, numbers(run, metric)) for run in runs]
    parts: list[tuple[str, bool]] = []
    ended = [(run, found) for run, found in known if found.value is not None]
    if len(ended) > 1 and metric == "accuracy":
        best, found = max(ended, key=lambda one: one[1].value or 0.0)
        parts += [("Of these runs ", False), (best.name, True)]
        parts += [(f" ends at the highest accuracy, {result(found.value, metric)}. ", False)]
    for run, found in known:
        if found.share is None or (len(runs) > 1 and not _sifted(run)):
            continue
        words = f" trained on {100 * found.share:.1f} % of the {found.seen:,.0f} samples it saw"
        words += f", at {found.cost:.2f} of the time of plain training for each" if found.cost is not None else ""
        words += f", and ends at {metric} {result(found.value, metric)}" if found.value is not None else ""
        parts += [(run.name, True), (f"{words}. ", False)]
    return parts or [
        ("Nothing was sifted in these runs. " if len(runs) > 1 else "Nothing was sifted in this run. ", False)
    ]


def _sifted(run: Run) -> bool:
    """Whether losses decided: a run that scored some, not one whose rows were drawn unseen."""
    return any(line.get("scored") or line.get("phi") is not None for line in run.pools)
