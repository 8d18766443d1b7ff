"""Rules: losses to odds, how likely each row is to be kept and what it then weighs; and wrappers, rules to rules."""

from puresift.rules.cutting import band, drop_top, prune, threshold
from puresift.rules.exact import nonzero
from puresift.rules.gating import gate
from puresift.rules.grouping import by_group, cover
from puresift.rules.mixing import by_error, by_root, floor, mix
from puresift.rules.planning import hold, uniform
from puresift.rules.ranking import ranked, relative, top
from puresift.rules.scheduling import anneal, delay, interrupt, ramp
from puresift.rules.tokenwise import tokens
from puresift.rules.weighing import importance, unbiased

__all__ = [
    "anneal",
    "band",
    "by_error",
    "by_group",
    "by_root",
    "cover",
    "delay",
    "drop_top",
    "floor",
    "gate",
    "hold",
    "importance",
    "interrupt",
    "mix",
    "nonzero",
    "prune",
    "ramp",
    "ranked",
    "relative",
    "threshold",
    "tokens",
    "top",
    "unbiased",
    "uniform",
]
