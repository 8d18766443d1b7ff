"""What is told: a table and a figure a task, with the losing rows and the missing ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

from bench.quality import verdicts, work
from bench.quality.arms import ARMS, SHORTER
from bench.quality.task import Missing, Task
from bench.quality.tasks import TASKS

HEAD = (
    "| arm | budget | accuracy | 95 % | - full | - shortened | - rs2 | keep | phi | trials | seeds | verdict |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def cells(home: Path, task: str, seeds: Iterable[int]) -> tuple[verdicts.Cells, int]:
    """The records of a task, and how many were left out because they were made on other terms."""
    found: verdicts.Cells = {}
    old = 0
    for job in work.jobs([task], ARMS, None, seeds):
        record = work.read(job.file(home))
        if record is None:
            continue
        try:
            now = work.terms(home, job)
        except Missing:
            now = None
        if now is None or work.stale(record, now):
            old += 1
        else:  # more may have been tried since the run
            found.setdefault((job.arm, job.budget), {})[job.seed] = record | {"trials": now["trials"]}
    return found, old


def head(task: Task) -> tuple[str, str]:
    """The columns of a task's table."""
    more = [f"- {rival} |" for rival in task.rivals[2:]]
    names = HEAD[0].replace("accuracy", task.metric).replace("- rs2 |", " ".join(["- rs2 |", *more]))
    return names, HEAD[1] + "---|" * len(more)


def report(home: Path, tasks: Iterable[str], seeds: list[int]) -> str:
    """Write `report.md`, `report.json` and a figure a task; the text of the first."""
    text: list[str] = []
    content: dict[str, Any] = {}
    for name in tasks:
        task, (found, old) = TASKS[name], cells(home, name, seeds)
        rows = [verdicts.row(found, arm, budget, task.rivals) for arm, budget in work.cells(task)]
        most = max(row["seeds"] for row in rows)
        content[name] = {"summary": task.summary, "rows": rows, "seeds": most, "stale": old}
        text += [f"\n### {name}: {task.summary}\n", *head(task), *(line(row, most, len(task.rivals)) for row in rows)]
        if old:
            text.append(f"\n{old} runs were left out: their learning rate, costs or data are not today's.")
        if found:
            figure(home / f"{name}.png", task, rows)
    says = (
        "Accuracy in percent, average precision in hundredths, PSNR in dB; differences in the same, paired by seed and "
        "accuracies by test row as well."
    )
    clock = by_the_clock(work.read(home / "realtime.json") or {}, content)
    told = [overview({name: content[name] for name in some}, SHORTER[0]) for some in _families(content) if some]
    whole = "\n".join([says, *sum(told, []), *clock, *text]) + "\n"
    work.write(home / "report.json", content)
    (home / "report.md").write_text(whole, encoding="utf-8")
    return whole


def _families(content: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The tasks whose arms do not and do draw by training's own losses: they have few arms in common."""
    drawn = [name for name in content if any(arm.startswith("prioritized") for arm in TASKS[name].arms or ())]
    return [name for name in content if name not in drawn], drawn


def overview(content: dict[str, Any], budget: float) -> list[str]:
    """One table over all tasks that have runs, at one budget: accuracy, and the difference to `shortened`."""
    tasks = [name for name, task in content.items() if any(row["accuracy"] for row in task["rows"])]
    told = [f"\n### At {budget:.0%} of the full run's time: accuracy, and its difference to shortened\n"]
    heads = [f"{name}{_by(TASKS[name])}, {content[name]['seeds']} seeds" for name in tasks]
    told += ["| arm | " + " | ".join(heads) + " |", "|---" * (len(tasks) + 1) + "|"]
    for arm in ARMS:
        cells = []
        for name in tasks:
            rows = [row for row in content[name]["rows"] if row["arm"] == arm and row["budget"] in (budget, 1.0)]
            cells.append(_cell(rows[0], content[name]["seeds"]) if rows else "")
        if any(cells):
            told.append(f"| {arm} | " + " | ".join(cell or "missing" for cell in cells) + " |")
    return told


def _by(task: Task) -> str:
    return f" ({task.metric})" if task.judge else ""


def by_the_clock(timed: dict[str, Any], tasks: Iterable[str]) -> list[str]:
    """What runs that were ended by a clock would have been charged, against the shortened one beside them."""
    rows = []
    for name in tasks:
        for arm, row in timed[name]["arms"].items() if name in timed else ():
            off = {part: f"{100 * (row['over shortened'][part] - 1):+.1f}" for part in ("median", "low", "high")}
            rows.append(
                f"| {name} | {arm} | {off['median']} [{off['low']}, {off['high']}] | "
                f"{100 * mean(row['accuracy']):.2f} | {len(row['accuracy'])} |"
            )
    if not rows:
        return []
    says = "Percent; the median over seeds and its quartiles. Below zero an arm takes longer than it is charged.\n"
    heads = ("| task | arm | charged, against shortened | accuracy | seeds |", "|---|---|---|---|---|")
    return ["\n### By the clock\n", says, *heads, *rows]


def _cell(row: dict[str, Any], seeds: int) -> str:
    if row["accuracy"] is None:
        return ""
    gap = row["versus"]["shortened"] if row["budget"] < 1 else None
    said = f" {_gap(gap)}" if gap else ""
    marks = "".join(f", {verdict}" for verdict in ("win", "lossless") if row[verdict])
    few = f" ({row['seeds']} seeds)" if row["seeds"] < seeds else ""
    return f"{row['accuracy']['mean']:.2f}{said}{marks}{few}"


def _gap(gap: dict[str, float]) -> str:
    return f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]"


def line(row: dict[str, Any], seeds: int, rivals: int = 2) -> str:
    """A row in markdown."""
    name, budget = row["arm"], f"{row['budget']:.0%}"
    if row["accuracy"] is None:
        return f"| {name} | {budget} |" + " missing |" + " |" * (7 + rivals)
    accuracy, versus = row["accuracy"], row["versus"]
    gaps = [_gap(gap) if gap else "-" for gap in versus.values()]
    verdict = ", ".join(said for said in ("win", "lossless") if row[said]) or "-"
    if row["lossless"] is None and name != "full":
        verdict = "too few seeds"
    values = [
        *(name, budget, f"{accuracy['mean']:.2f}", f"{accuracy['low']:.2f} to {accuracy['high']:.2f}", *gaps),
        *("-" if row["keep"] is None else f"{row['keep']:.2f}", f"{row['phi']:.3f}", str(row["trials"])),
        *(str(row["seeds"]) if row["seeds"] == seeds else f"{row['seeds']}, {seeds - row['seeds']} missing", verdict),
    ]
    return "| " + " | ".join(values) + " |"


def figure(path: Path, task: Task, rows: list[dict[str, Any]]) -> None:
    """What the task is judged by, against budget, with bands; the full run as a line across."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    whole = Figure(figsize=(9, 5), layout="constrained")
    axes = whole.subplots()
    shades = cycle(colormaps["tab20"].colors)  # type: ignore[attr-defined]
    plain = {"full": "#000000", "shortened": "#000000", "rs2": "#777777"}
    for name in ARMS:
        points = sorted(
            (100 * row["budget"], *(row["accuracy"][key] for key in ("mean", "low", "high")))
            for row in rows
            if row["arm"] == name and row["accuracy"]
        )
        shade = plain[name] if name in plain else next(shades)
        if not points:
            continue
        at, middle, low, high = zip(*points, strict=True)
        if name == "full":
            axes.axhline(middle[0], color=shade, lw=1, ls=":", label=name)
            axes.axhspan(low[0], high[0], color=shade, alpha=0.05, lw=0)
            continue
        axes.plot(at, middle, "o-" if name in plain else ".-", color=shade, lw=2 if name in plain else 1.2, label=name)
        axes.fill_between(at, low, high, color=shade, alpha=0.12 if name in plain else 0.06, lw=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set(xlabel="budget, % of the full run's time", ylabel=f"{task.metric}, {task.unit}", title=task.summary)
    axes.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    whole.savefig(path, dpi=110)
