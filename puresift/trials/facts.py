"""What `advise` measures of a job."""

from __future__ import annotations

from typing import Literal, NamedTuple

Verdict = Literal["prioritize", "auto", "shorten"]
CUT = 0.6  # of the full run's steps


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
    assumed: bool = False  # whether one pass was assumed, for want of passes
    optimizer: bool = True  # whether one was given
