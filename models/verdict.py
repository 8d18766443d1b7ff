"""What a run says, in words: a verdict of one line, and where its time goes."""

import math
from collections.abc import Mapping
from typing import Any

Arm = Mapping[str, Any]
IDLE = 0.1  # scored less than this, ps.auto has left sifting off


def chance(one: Arm, other: Arm, rows: int) -> float:
    """How far apart two models as good as each other may come out on so many test rows, 19 times of 20."""
    spread = sum(arm["accuracy"] * (1 - arm["accuracy"]) for arm in (one, other))
    return 1.96 * math.sqrt(spread / rows)


def verdict(arms: Mapping[str, Arm], rows: int) -> str:
    """One line: whether to sift this job; one seed cannot tell more than chance."""
    if "shortened" not in arms or "sifted" not in arms:
        return single(arms)
    sifted, short, plain = arms["sifted"], arms["shortened"], arms.get("plain", arms["shortened"])
    if max(arm["accuracy"] for arm in (sifted, short, plain)) < 0.5 + 0.98 / math.sqrt(rows):
        return "No verdict: no arm does better than guessing; train for longer (--epochs), or on more sentences."
    gain, may = sifted["accuracy"] - short["accuracy"], chance(sifted, short, rows)
    found = (
        f"{percent(sifted)} right, against {percent(short)} by plain training cut to the same time; chance alone makes "
        f"{100 * may:.1f} points"
    )
    if gain > may:
        return f"Sifting pays here, by this one seed: {found}."
    if gain < -may:
        return f"Do not sift this job: {found}."
    if sifted["scored"] < IDLE * sifted["seen"]:
        return f"Do not sift this job: scoring did not pay, so ps.auto left it off. {found[:1].upper()}{found[1:]}."
    return f"Nothing certain: {found}. Train for less time, or try more seeds (--seed 1)."


def single(arms: Mapping[str, Arm]) -> str:
    name, arm = next(iter(arms.items()))
    words = f"{name}: {percent(arm)} right, trained on {100 * arm['keep']:.0f} % of {arm['seen']:,} sentences seen"
    if name == "plain":
        return f"{words}."
    return (
        f"{words}, at {arm['cost']:.2f} of the time of plain training. Whether plain training cut to that time does as "
        "well, --compare tells."
    )


def percent(arm: Arm) -> str:
    return f"{100 * arm['accuracy']:.1f} %"


def savings(arms: Mapping[str, Arm], loops: Mapping[str, Any] | None, bucket: bool) -> list[str]:
    """Where the time goes, from a plain loop in random order to this one, and what plain training can have too."""
    if loops is None or "sifted" not in arms:
        return []
    alike, textbook, cost = loops["alike"], loops["textbook"], arms["sifted"]["cost"]
    ours = cost * (alike["cost"] if bucket else 1.0)
    rows = {
        "plain, batches in random order": "1.00",
        "plain, batches of like length": spread(alike),
        "a textbook's sifting: random order, all tokens scored in float32": spread(textbook),
        "the sifted arm": f"{ours:.2f}",
    }
    width = max(map(len, rows))
    return [
        f"what a sentence costs, in those of the first loop (median and quartiles of {loops['turns']} turns):",
        *(f"  {name.ljust(width)}  {value}" for name, value in rows.items()),
        f"in all, the sifted arm {saves(ours)} against the first loop, {saves(ours / textbook['cost'])} against the "
        "textbook's",
        f"of it, batches of like length, which {'all arms above have' if bucket else 'plain training can have'} too: "
        f"{saves(alike['cost'])} a pass ({'whether accuracy bears it, --no-bucket tells' if bucket else '--bucket'})",
        f"sifting itself {saves(cost)} on top" if bucket else f"sifting itself {saves(cost)}",
    ]


def spread(found: Mapping[str, float]) -> str:
    return f"{found['cost']:.2f} [{found['low']:.2f}-{found['high']:.2f}]"


def saves(cost: float) -> str:
    return f"saves {100 * (1 - cost):.0f} %" if cost <= 1 else f"costs {100 * (cost - 1):.0f} % more"
