"""Rows of the measured table (bench/README.md) that `advise` quotes: those that are like the job."""

from __future__ import annotations

import math
from typing import NamedTuple

from puresift.trials.facts import CUT, Facts
from puresift.trials.verdicts import RARE, unsure

_VISITS, _STEPS = 2.5, 5.0  # factors within which a job is near


class Evidence(NamedTuple):
    """What sifting gained on a job, at CUT of the time, against the run cut to it."""

    job: str
    visits: float
    steps: int
    gain: str
    means: dict[str, float]  # of the tasks, as the table names them
    rare: bool = False  # B / ESS of 3 and more, for certain
    held_out: bool = True
    ids: bool = False  # whether it was drawn by id


_BOTH = "sifted live -.5 points [-1.2, +.2], drawn by training's losses -.3 [-1.0, +.5]"
_COFFEE, _CAMERA, _ASTRONAUT = "picture-coffee", "picture-camera", "picture-astronaut"
_FORTY = {_COFFEE: 0.57, _CAMERA: 0.57, _ASTRONAUT: 0.06}
_LONG = {f"long-{_COFFEE}": 0.83, f"long-{_CAMERA}": -0.71, f"long-{_ASTRONAUT}": -1.31}
TABLE = (
    Evidence("fine-tuning in one pass", 1, 200, "sifted live +.0 points [-.6, +.6]", {"phrases": 0.02}),
    Evidence("fine-tuning in 1.5 passes", 1.5, 150, "sifted live +.5 points [-.6, +1.6]", {"sst2": 0.45}),
    Evidence("one pass from scratch", 1, 907, "sifted live +.4 points [+.1, +.7]", {"scratch32": 0.38}),
    Evidence("two passes with a rare class", 2, 814, "sifted live +.5 points [+.0, +1.0]", {"thin": 0.52}, rare=True),
    Evidence("fine-tuning on SST-2 whole, 3 epochs", 3, 1299, _BOTH, {"sst2-whole": -0.27}),
    Evidence("four passes from scratch", 4, 3628, "sifted live +.4 points [+.1, +.8]", {"long": 0.43}),
    Evidence("20 passes of even classes", 20, 2200, "drawn -.3 points [-.6, +.1]", {"letter": -0.28}, ids=True),
    Evidence(
        *("20 passes with a rare class", 20, 2060, "drawn +2.2 points [+.1, +4.3]", {"letter-rare": 2.18}),
        rare=True,
        ids=True,
    ),
    Evidence("61 passes of even classes", 61, 1920, "sifted live +.1 points [-.2, +.4]", {"digits": 0.07}),
    Evidence("three pictures of 40 passes", 40, 1440, "drawn +.6, +.6 and +.1 dB", _FORTY, held_out=False, ids=True),
    Evidence(
        *("three pictures of 111 passes", 111, 3996, "drawn +.8, -.7 and -1.3 dB", _LONG),
        held_out=False,
        ids=True,
    ),
)


def nearest(facts: Facts) -> list[Evidence]:
    """The row that is most like the job; two, one of each kind, where it is not certain which kind the job is."""
    sure = facts.concentration.low >= RARE
    kinds = (True, False) if unsure(facts) else (sure,)
    found = []
    for rare in kinds:
        rows = [row for row in TABLE if row.rare == rare and _near(row, facts)]
        found += sorted(rows, key=lambda row: _distance(row, facts))[:1]
    return found


def quoted(facts: Facts) -> str:
    """What was measured of jobs like it."""
    if rows := nearest(facts):
        told = "; ".join(f"{row.job}: {row.gain}" for row in rows)
        return f"at {CUT:.0%} of the time, against the run cut to it, on what is nearest to this job: {told}"
    return "nothing near this job, by visits, steps and how even gradients are; bench/README.md has what was"


def _near(row: Evidence, facts: Facts) -> bool:
    like = row.held_out == facts.held_out and (facts.rows is not None or not row.ids)
    visits, steps = row.visits / facts.visits, row.steps / facts.steps
    return like and 1 / _VISITS <= visits <= _VISITS and 1 / _STEPS <= steps <= _STEPS


def _distance(row: Evidence, facts: Facts) -> float:
    """Visits count for most."""
    return 4 * abs(math.log(row.visits / facts.visits)) + abs(math.log(row.steps / facts.steps))
