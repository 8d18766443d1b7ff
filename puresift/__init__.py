"""Online data sifting for PyTorch, as pure functions: score, select, draw, refill."""

from puresift import keys
from puresift.adjust import drop_top
from puresift.adjust import floor
from puresift.adjust import hold
from puresift.adjust import mix
from puresift.adjust import unbiased
from puresift.audit import AuditLog
from puresift.audit import read_log
from puresift.buffers import empty
from puresift.buffers import full
from puresift.buffers import refill
from puresift.buffers import take
from puresift.cheap import autocast
from puresift.cheap import chunked
from puresift.checkpoint import load_state_dict
from puresift.checkpoint import state_dict
from puresift.checks import check
from puresift.cuts import band
from puresift.cuts import prune
from puresift.cuts import threshold
from puresift.draws import bernoulli
from puresift.draws import systematic
from puresift.governor import decisions
from puresift.governor import governor
from puresift.groups import by_group
from puresift.groups import cover
from puresift.keys import key
from puresift.metrics import Meter
from puresift.metrics import summarize
from puresift.pools import epochs
from puresift.pools import peek
from puresift.replays import compare
from puresift.replays import replay
from puresift.rules import relative
from puresift.rules import top
from puresift.rules import uniform
from puresift.scores import batched
from puresift.scores import per_sample
from puresift.sifters import sifter
from puresift.stream import fastest
from puresift.stream import live
from puresift.stream import progress
from puresift.stream import sift
from puresift.types import Buffer
from puresift.types import Info
from puresift.types import Kept
from puresift.types import Odds
from puresift.types import Pad
from puresift.types import Rule
from puresift.types import Score
from puresift.types import SiftState
from puresift.types import Sifted
from puresift.types import Sifter
from puresift.weighted import importance
from puresift.weighted import ranked
from puresift.wrappers import anneal
from puresift.wrappers import delay
from puresift.wrappers import interrupt
from puresift.wrappers import ramp

__version__ = "0.1.0"
__all__ = [
    "AuditLog",
    "Buffer",
    "Info",
    "Kept",
    "Meter",
    "Odds",
    "Pad",
    "Rule",
    "Score",
    "SiftState",
    "Sifted",
    "Sifter",
    "anneal",
    "autocast",
    "band",
    "batched",
    "bernoulli",
    "by_group",
    "check",
    "chunked",
    "compare",
    "cover",
    "decisions",
    "delay",
    "drop_top",
    "empty",
    "epochs",
    "fastest",
    "floor",
    "full",
    "governor",
    "hold",
    "importance",
    "interrupt",
    "key",
    "keys",
    "live",
    "load_state_dict",
    "mix",
    "peek",
    "per_sample",
    "progress",
    "prune",
    "ramp",
    "ranked",
    "read_log",
    "refill",
    "relative",
    "replay",
    "sift",
    "sifter",
    "state_dict",
    "summarize",
    "systematic",
    "take",
    "threshold",
    "top",
    "unbiased",
    "uniform",
]
