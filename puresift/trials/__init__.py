"""Trials before a run: is the score valid, which is fastest, does it fit, what would other rules have kept,
and does it pay at all."""

from puresift.trials.advising import advise
from puresift.trials.contracts import check
from puresift.trials.memory import fitting, peak
from puresift.trials.replays import compare, replay
from puresift.trials.speed import fastest, rank_correlation

__all__ = ["advise", "check", "compare", "fastest", "fitting", "peak", "rank_correlation", "replay"]
