"""The page that tells an advice."""

from __future__ import annotations

import textwrap

from puresift.trials.evidence import quoted
from puresift.trials.facts import CUT, Facts, Interval, Memory, Mode, Padding, Verdict
from puresift.trials.verdicts import cutting, unsure

_WIDE = 110  # letters in a line
_LEGEND = [
    "phi: the time to score a row over the time to train on it; the smaller, the cheaper it is to choose.",
    "B / ESS: how uneven gradients are; 1 where all rows have as much, N where one row of N has all of it.",
]
_IDS = "a DataLoader over a map-style dataset would allow drawing by id"


def page(verdict: Verdict, reason: str, code: str, gain: Interval, facts: Facts, seconds: float) -> str:
    """The page, of lines that fit a terminal."""
    found = [
        ("the run", f"{facts.steps:,} steps of {facts.batch_size} rows; {_visits(facts)}"),
        ("the score", f"keeps its contract: losses move by {facts.moved:.1%} of their mean at the most"),
        ("a step", f"{_time(facts.step)}; waiting for a batch takes {facts.loading:.0%} of that"),
        *(("scoring", f"phi {mode.phi:.2f}, {_chosen(mode, facts)}") for mode in facts.modes),
        ("gradient", f"B / ESS {facts.concentration}, {_proxy(facts)}"),
        ("sifted live", f"ps.auto keeps {facts.mode.keep:.2f}; a second of it is worth {facts.mode.worth} plain ones"),
        ("drawn", f"by training's own losses, a row is worth {facts.drawn} plain ones"),
        ("a run cut", _cut(facts)),
        ("padding", _padding(facts.padding)),
        ("memory", _memory(facts.memory)),
    ]
    return "\n".join(
        [
            *_wrapped(_headline(verdict, reason, facts)),
            "",
            *_block(found),
            "",
            *_block([("saves", line) for line in _saved(verdict, facts, gain)]),
            *_block([("measured", quoted(facts)), ("beware", _beware(verdict, facts))]),
            "",
            code,
            "",
            f"{seconds:.0f} seconds, on a copy that was thrown away; the model, optimizer and generators "
            "are as they were.",
            *_LEGEND,
        ]
    )


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDE, subsequent_indent=indent, break_on_hyphens=False)


def _block(pairs: list[tuple[str, str]]) -> list[str]:
    """Lines with a name in front, each name once."""
    lines, last = [], ""
    for name, says in pairs:
        if says:
            front = "" if name == last else name
            lines += _wrapped(f"{front:<13}{says}", " " * 13)
            last = name
    return lines


def _headline(verdict: Verdict, reason: str, facts: Facts) -> str:
    """The verdict and why; and apart from it, where no sifting is advised, whether the run may be cut."""
    if verdict != "shorten":
        by = {"prioritize": "the losses of training", "auto": "a live score"}[verdict]
        return f"SIFT, by {by}: {reason}."
    if unsure(facts):
        return f"TRY BOTH, {reason}. {_advised(facts)}."
    less = ", train for less time" * (cutting(facts) == "harmless")
    return f"DO NOT SIFT{less}: {reason}. {_advised(facts)}."


def _advised(facts: Facts) -> str:
    """Of cutting the run."""
    state = cutting(facts)
    if state == "open":
        how = f"measured on a run of {facts.whole:.0%} of the steps only" if facts.shortening else "not measured"
        return f"What cutting the run to {CUT:.0%} costs is open, for it was {how}: try it beside your run"
    keep = "keep your run" + " until one of them is as good" * unsure(facts)
    says = {"harmless": "do it", "unclear": f"not shown to be harmless, {keep}", "harmful": keep}[state]
    return f"Cutting the run to {CUT:.0%} leaves {_rise(facts)}: {says}"


def _saved(verdict: Verdict, facts: Facts, gain: Interval) -> list[str]:
    share = f"takes {CUT:.0%} of the time, saves {1 - CUT:.0%}"
    whole = f"against the full run: {share}"
    shorter = f"against the run cut to {CUT:.0%}: takes as long, saves nothing"
    if verdict == "prioritize":
        return [whole, f"{shorter}; a row has as little noise as {gain} plain ones, at the best"]
    if verdict == "auto":
        return [whole, f"{shorter}; a second is worth {gain} plain ones, at the best"]
    state = cutting(facts)
    cost = "at what cost is open" if state == "open" else f"and leaves {_rise(facts)}"
    kept = "" if state in ("open", "harmless") else "nothing, where it is kept; a cut one "
    whole = f"against the full run: {kept}{share}, by the schedule alone, {cost}"
    if unsure(facts):
        return [whole, f"{shorter}; drawn, a row has as little noise as {facts.drawn} plain ones, at the best"]
    return [whole, "against that shortened run: nothing, by sifting"]


def _visits(facts: Facts) -> str:
    if facts.rows is None:
        return f"samples have no ids, so none comes again by name; {_IDS}"
    often = f"{facts.visits:.3g} times" if facts.visits != 1 else "once"
    return f"each of {facts.rows:,} samples comes {often} (passes={facts.passes:g})"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _chosen(mode: Mode, facts: Facts) -> str:
    plain = mode.name if mode is facts.modes[0] else f"{mode.name}, ranks as the plain score by {mode.agreement:.2f}"
    return f"{plain}; chosen" if mode == facts.mode else plain


def _proxy(facts: Facts) -> str:
    proxy = "of the last linear layer's gradients" if facts.exact else "of 1 - exp(-loss), for want of a linear head"
    return f"{proxy}, after {facts.pilot} steps at {facts.rate}"


def _rise(facts: Facts) -> str:
    """Where the loss of a cut run ends."""
    assert facts.shortening is not None
    mean, low, high = facts.shortening
    more = "higher" if mean > 0 else "lower"
    return f"the {'held-out ' * facts.held_out}loss {abs(mean):.0%} {more} [{low:+.0%}, {high:+.0%}]"


def _cut(facts: Facts) -> str:
    if facts.shortening is None:
        return ""
    length = "the run" if facts.whole >= 1 else f"a run of {facts.whole:.0%} of the steps"
    return f"{length}, cut to {CUT:.0%}, leaves {_rise(facts)}"


def _padding(padding: Padding | None) -> str:
    if padding is None:
        return ""
    saved = 1 - (1 - padding.now) / (1 - padding.bucketed)
    return (
        f"{padding.now:.0%} of the tokens, {padding.trimmed:.0%} if batches are cut to their longest row, "
        f"{padding.bucketed:.0%} in batches of like length: {saved:.0%} fewer tokens, for a plain run as well"
    )


def _memory(memory: Memory | None) -> str:
    if memory is None:
        return ""
    return f"a training step takes {memory.step / 2**20:,.0f} MiB; {memory.rows} rows are scored at once within that"


def _beware(verdict: Verdict, facts: Facts) -> str:
    live, drawn = verdict == "auto", verdict == "prioritize" or unsure(facts)
    whole = facts.pilot >= 0.85 * facts.steps / facts.passes  # but for what is held out
    said = [
        "one pass was assumed; --passes N (passes=N), as many as your run takes, changes the verdict" * facts.assumed,
        f"{facts.pilot} steps are few to tell by; {'a pass has no more' if whole else 'give it more seconds='}"
        * (facts.pilot < 50),
        "a forward costs more than a seventh of a step, where live sifting seldom paid"
        * (live and facts.mode.phi > 1 / 7),
        "loading costs more than training, and every candidate is loaded" * (live and facts.loading > 1),
        "wrong labels stay large for ever, and look like a rare class" * (drawn and facts.held_out),
        "after 111 passes drawing was behind on two pictures of three" * (drawn and facts.visits > 100),
    ]
    return "; ".join(filter(None, said))
