"""Is ps.advise right? Its verdict after a minute on tasks of bench.quality, against what the table measured.

    python -m bench advise
    python -m bench advise --task letter,letter-rare --seconds 20

A task counts as a win for sifting where one of our arms (auto, auto-small, prioritized-0) has the table's verdict `win`
at 60 % of the time: better than the shortened run and than the other rivals. Advice to sift is right there, and advice
not to is right everywhere else.

A first rule, written down before it was run on any of these tasks, was right on 6 of 10: it took letters that were
learnt within a pass for rare ones, and judged pictures by pixels that were held out. So the lower concentration of the
pilot's middle and end counts since, and `held_out=False` says that a run is judged by what it learns; the ten that are
counted have been seen by then, and the pictures of 111 passes are beside them.
"""

from __future__ import annotations

import argparse
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import puresift as ps
from bench import measure
from bench.quality import work
from bench.quality.feeds import gather
from bench.quality.task import Data, Examples, Missing, Task
from bench.quality.tasks import TASKS, loaded
from bench.quality.training import adamw
from puresift.trials.advice import Advice

TEN = (
    *("thin", "scratch32", "long", "phrases", "digits", "letter", "letter-rare"),
    *("picture-astronaut", "picture-coffee", "picture-camera"),
)
# Not counted: the job that the idea was sold on, and pictures of 111 passes.
MORE = ("sst2-whole32", "long-picture-astronaut", "long-picture-coffee", "long-picture-camera")
OURS = ("auto", "auto-small", "prioritized-0")
BUDGET = 0.6


class Ids(Dataset[Any]):
    """Rows by number; what gathers them is the collate function."""

    def __init__(self, data: Data):
        self.data = data

    def __len__(self) -> int:
        return len(self.data.train["labels"])

    def __getitem__(self, row: int) -> int:
        return row

    def collate(self, rows: list[int]) -> Examples:
        return gather(self.data.train, self.data, torch.tensor(rows))


def advised(task: Task, data: Data, seconds: float) -> Advice:
    """The advice on a task's plain run."""
    model = data.build(0).to(measure.device())
    rate = (work.read(work.HOME / "tuning.json") or {}).get(task.tuned or task.name, {}).get("lr", task.lr)
    half = task.dtype == torch.bfloat16

    def loss(model: Any, batch: Examples) -> Tensor:
        with torch.autocast(measure.device().type, torch.bfloat16) if half else nullcontext():
            return task.loss(model, batch)

    rows = Ids(data)
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(rows, task.batch_size, shuffle=True, generator=order, collate_fn=rows.collate)
    optimizer = adamw(model, rate)
    return ps.advise(
        *(model, loss, loader, optimizer),
        passes=task.epochs,
        held_out=data.train is not data.test,
        seconds=seconds,
        pad=data.pads or None,
    )


def measured(name: str) -> dict[str, Any]:
    """What the table has of a task: its verdict, and our best arm's points against the shortened run."""
    rows = [
        row
        for row in (work.read(work.HOME / "report.json") or {}).get(name, {}).get("rows", [])
        if row["arm"] in OURS and row["budget"] == BUDGET and row["accuracy"]
    ]
    if not rows:
        return {"verdict": "not measured"}
    best = max(rows, key=lambda row: (bool(row["win"]), row["versus"]["shortened"]["mean"]))
    gap = best["versus"]["shortened"]
    verdict = "win" if best["win"] else "loss" if all(r["versus"]["shortened"]["high"] < 0 for r in rows) else "nothing"
    return {"verdict": verdict, "arm": best["arm"], "gap": gap}


def right(advice: Advice, verdict: str) -> bool:
    return (advice.verdict != "shorten") == (verdict == "win")


def line(name: str, row: dict[str, Any]) -> str:
    gap, found = row["measured"].get("gap"), row["advice"]
    said = f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]" if gap else ""
    cut = found["shortening"]
    return (
        f"{name:<23}{found['verdict']:<11}{row['measured']['verdict']:<9}{said:<23}"
        f"{'right' if row['right'] else 'WRONG':<6}"
        f"{found['visits']:>7.3g}{found['concentration'][0]:>7.2f}{found['phi']:>6.2f}{found['worth'][0]:>7.2f}"
        f"{'' if cut is None else f'{cut[0]:+.2f}':>7}{found['seconds']:>6.0f}"
    )


HEAD = (
    f"{'task':<23}{'advised':<11}{'measured':<9}{'against shortened':<23}{'':<6}{'visits':>7}{'B/ESS':>7}{'phi':>6}"
    f"{'worth':>7}{'cut':>7}{'s':>6}"
)


def content(advice: Advice) -> dict[str, Any]:
    """The advice as JSON."""
    facts = advice.facts
    return {
        **{"verdict": advice.verdict, "reason": advice.reason, "seconds": advice.seconds, "gain": advice.gain},
        **{"steps": facts.steps, "visits": facts.visits, "step": facts.step, "pilot": facts.pilot},
        **{
            "phi": facts.mode.phi,
            "modes": [mode._asdict() for mode in facts.modes],
            "keep": facts.mode.keep,
            "rule": facts.rule,
        },
        **{"concentration": facts.concentration, "worth": facts.mode.worth, "drawn": facts.drawn},
        **{"shortening": facts.shortening, "whole": facts.whole, "padding": facts.padding, "page": str(advice)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=lambda text: text.split(","), default=[*TEN, *MORE])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each pilot (default 60)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of sst2/ and glue-sst2/")
    parser.add_argument("--join", type=Path, metavar="FILE", help="an earlier result, whose other tasks are told again")
    options = parser.parse_args()
    if unknown := sorted(set(options.task) - set(TASKS)):
        parser.error(f"no task {', '.join(unknown)}; there are {', '.join(TASKS)}")
    torch.set_num_threads(1)  # as the table was measured
    rows: dict[str, Any] = (work.read(options.join) or {}).get("tasks", {}) if options.join else {}
    print(HEAD)
    for name in options.task:
        try:
            advice = advised(TASKS[name], loaded(name, options.data), options.seconds)
        except Missing as missing:
            print(f"{name:<23}missing: {missing}", flush=True)
            continue
        found = measured(name)
        rows[name] = {"advice": content(advice), "measured": found, "right": right(advice, found["verdict"])}
        rows[name]["where"] = measure.where()
        print(line(name, rows[name]), flush=True)
    if not rows:
        return
    rows = {name: rows[name] for name in sorted(rows, key=[*TEN, *MORE, *rows].index)}
    counted = [row["right"] for name, row in rows.items() if name in TEN]
    told = f"right on {sum(counted)} of {len(counted)} tasks"
    print(told)
    path = measure.save("advise", {"tasks": rows, "told": told}, seconds=options.seconds)
    shown = next(name for name in ("letter-rare", *rows) if name in rows)
    measure.figure(path, [13], lambda axes: _drawn(axes, rows, told, shown))


def _drawn(axes: Any, rows: dict[str, Any], told: str, shown: str) -> None:
    """The table, and one page as it is printed."""
    table = [HEAD, *(line(name, row) for name, row in rows.items()), told]
    page = [f'ps.advise of "{shown}":', "", *rows[shown]["advice"]["page"].splitlines()]
    text = "\n".join([*table, "", *(cut for row in page for cut in (textwrap.wrap(row, 118) or [""]))])
    axes.axis("off")
    axes.figure.set_size_inches(13, 0.19 * (text.count("\n") + 4))
    axes.text(0, 1, text, family="monospace", fontsize=9, va="top", transform=axes.transAxes)


if __name__ == "__main__":
    main()
