"""What `advise` returns."""

from __future__ import annotations

from typing import NamedTuple

from puresift.trials.facts import CUT, Facts, Interval, Memory, Mode, Padding, Verdict
from puresift.trials.pages import page

__all__ = ["CUT", "Advice", "Facts", "Interval", "Memory", "Mode", "Padding", "Verdict", "page"]


class Advice(NamedTuple):
    """The result of `advise`; it prints as one page."""

    verdict: Verdict
    reason: str
    code: str  # to be pasted, where model, loss, loader, optimizer are as given
    gain: Interval  # what a second of the recommended loop is worth, in seconds of plain training, at the most
    facts: Facts
    seconds: float  # that the pilot took

    def __str__(self) -> str:
        return page(*self)
