"""What `advise` found, and the page that tells it."""

from __future__ import annotations

import textwrap
from typing import Literal, NamedTuple

Verdict = Literal["prioritize", "auto", "shorten"]
CUT = 0.6  # of the full run's steps
_WIDE = 110  # letters in a line


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Mode(NamedTuple):
    """One way of scoring, as it was timed."""

    name: str
    code: str
    phi: float  # time to score a row over time to train on one
    agreement: float  # rank correlation with the plain score
    keep: float  # that ps.auto would keep
    worth: Interval  # of a second of ps.auto by it, in seconds of plain training


class Padding(NamedTuple):
    """The share of tokens that are padding."""

    now: float  # in the loader's batches
    trimmed: float  # if each batch were cut to its longest row
    bucketed: float  # and rows of eight batches were sorted by length


class Memory(NamedTuple):
    """Bytes on a device."""

    step: int  # the peak of a training step
    rows: int  # that can be scored at once within it


class Facts(NamedTuple):
    """What was measured."""

    rows: int | None  # samples, where they have ids
    batch_size: int
    steps: int  # of the full run
    passes: float  # over the loader
    visits: float  # of each sample
    step: float  # seconds of a training step
    loading: float  # seconds that a batch is waited for, in training steps
    held_out: bool  # whether the run is judged by other rows
    moved: float  # the most that the losses moved when the contract was checked
    modes: tuple[Mode, ...]
    mode: Mode  # the one by which a second is worth most
    rule: str  # for a table of losses
    pilot: int  # steps of the throwaway copy
    exact: bool  # whether the gradient's concentration is that of a linear head
    concentration: Interval  # B / ESS of the proxies of gradient norms
    drawn: Interval  # what a row drawn by that rule is worth, in plain ones
    shortening: Interval | None  # the rise of the held-out loss where a run is cut to CUT, as a share
    whole: float  # how long that run was, in full ones
    padding: Padding | None
    memory: Memory | None
    rate: str  # whose rate the copy was trained at
    ragged: str  # code that defines pad and length, where rows are ragged


class Advice(NamedTuple):
    """The result of `advise`; it prints as one page."""

    verdict: Verdict
    reason: str
    code: str  # to be pasted, where model, loss, loader, optimizer are as given
    gain: Interval  # what a second of the recommended loop is worth, in seconds of plain training, at the most
    facts: Facts
    seconds: float  # that the pilot took

    def __str__(self) -> str:
        return page(self)


def page(advice: Advice) -> str:
    """The page, of lines that fit a terminal."""
    facts, gain = advice.facts, advice.gain
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
            *textwrap.wrap(f"{_VERDICTS[advice.verdict]}: {advice.reason}.", _WIDE),
            "",
            *_block(found),
            "",
            *_block([("saves", line) for line in _saved(advice.verdict, facts, gain)]),
            *_block([("measured", _MEASURED[advice.verdict]), ("beware", _beware(advice.verdict, facts))]),
            "",
            advice.code,
            "",
            f"{advice.seconds:.0f} seconds, on a copy that was thrown away; the model, optimizer and generators "
            "are as they were.",
        ]
    )


_VERDICTS = {
    "prioritize": "SIFT, by the losses of training",
    "auto": "SIFT, by a live score",
    "shorten": "DO NOT SIFT, train for less time",
}
_MEASURED = {
    "prioritize": "at 60 % of the time, against the run cut to it: a rare class +2.2 points [+.1, +4.3]; pictures of "
    "40 passes +.6, +.6 and +.1 dB, of 111 passes +.8, -.7 and -1.3",
    "auto": "at 60 % of the time, against the run cut to it: a rare class +.5 points [+.0, +1.0], four visits +.4 "
    "[+.1, +.8], one visit +.3 [-.1, +.6]",
    "shorten": "at 60 % of the time, sifted against cut: many visits, even classes -.3 points [-.6, +.1]; fine-tuning "
    "+.5 [-.6, +1.6] and -.2 [-.7, +.4]",
}


def _block(pairs: list[tuple[str, str]]) -> list[str]:
    """Lines with a name in front, each name once."""
    lines, last = [], ""
    for name, says in pairs:
        if says:
            front = "" if name == last else name
            lines += textwrap.wrap(f"{front:<13}{says}", _WIDE, subsequent_indent=" " * 13)
            last = name
    return lines


def _saved(verdict: Verdict, facts: Facts, gain: Interval) -> list[str]:
    whole = f"against the full run: {1 - CUT:.0%} of the time"
    if verdict == "shorten":
        rise = f", for {_rise(facts.shortening)}" if facts.shortening and facts.whole >= 1 else ", at what cost is open"
        return [f"{whole}, by the schedule alone{rise}", "against that shortened run: nothing"]
    times = Interval(*(CUT * part for part in gain))
    back = Interval(*(max(1 - 1 / part, 0.0) for part in gain))
    return [
        f"{whole}; the noise is that of a run {times} times as long as the full one, at the best",
        f"against the run cut to {CUT:.0%}: {back} of the time of the plain run with as little noise, at the best",
    ]


def _visits(facts: Facts) -> str:
    if facts.rows is None:
        return "samples have no ids, so none comes again by name"
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


def _rise(rise: Interval | None) -> str:
    return f"a loss higher by {rise} of itself"


def _cut(facts: Facts) -> str:
    if facts.shortening is None:
        return ""
    length = "the run" if facts.whole >= 1 else f"a run of {facts.whole:.0%} of the steps"
    return f"{length}, cut to {CUT:.0%}, has {_rise(facts.shortening)}{' on held-out rows' * facts.held_out}"


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
    live, drawn = verdict == "auto", verdict == "prioritize"
    said = [
        f"{facts.pilot} steps are few to tell by; give it more seconds=" * (facts.pilot < 50),
        "a forward costs more than a seventh of a step, where live sifting seldom paid"
        * (live and facts.mode.phi > 1 / 7),
        "loading costs more than training, and every candidate is loaded" * (live and facts.loading > 1),
        "wrong labels stay large for ever, and look like a rare class" * (drawn and facts.held_out),
        "after 111 passes drawing was behind on two pictures of three" * (drawn and facts.visits > 100),
    ]
    return "; ".join(filter(None, said))
