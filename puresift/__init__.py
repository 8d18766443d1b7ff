"""Online data sifting for PyTorch, as pure functions: score, select, draw, refill."""

from puresift import integrations
from puresift import keys
from puresift.adjust import by_error
from puresift.adjust import drop_top
from puresift.adjust import floor
from puresift.adjust import hold
from puresift.adjust import mix
from puresift.adjust import unbiased
from puresift.audit import AuditLog
from puresift.audit import read_log
from puresift.auto import auto
from puresift.buffers import empty
from puresift.buffers import full
from puresift.buffers import refill
from puresift.buffers import take
from puresift.cheap import autocast
from puresift.cheap import chunked
from puresift.cheap import compiled
from puresift.cheap import truncated
from puresift.checkpoint import load_state_dict
from puresift.checkpoint import state_dict
from puresift.checks import check
from puresift.combine import difference
from puresift.combine import rank_mix
from puresift.combine import reducible
from puresift.combine import total
from puresift.cuts import band
from puresift.cuts import prune
from puresift.cuts import threshold
from puresift.draws import bernoulli
from puresift.draws import systematic
from puresift.fits import fitting
from puresift.governor import decisions
from puresift.governor import governor
from puresift.groups import by_group
from puresift.groups import cover
from puresift.ids import with_ids
from puresift.keys import key
from puresift.loader import SiftingDataLoader
from puresift.memory import change
from puresift.memory import remembered
from puresift.metrics import Meter
from puresift.metrics import summarize
from puresift.outputs import el2n
from puresift.outputs import entropy
from puresift.outputs import head_grad_norm
from puresift.outputs import margin
from puresift.pools import epochs
from puresift.pools import peek
from puresift.recorder import Recorder
from puresift.replays import compare
from puresift.replays import replay
from puresift.rules import relative
from puresift.rules import top
from puresift.rules import uniform
from puresift.samplers import infobatch
from puresift.samplers import rs2
from puresift.samplers import skipping
from puresift.scores import batched
from puresift.scores import grad_norm
from puresift.scores import per_sample
from puresift.sifters import sifter
from puresift.stream import fastest
from puresift.stream import live
from puresift.stream import progress
from puresift.stream import sift
from puresift.tokenwise import tokens
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
    "Recorder",
    "Rule",
    "Score",
    "SiftState",
    "Sifted",
    "Sifter",
    "SiftingDataLoader",
    "anneal",
    "auto",
    "autocast",
    "band",
    "batched",
    "bernoulli",
    "by_error",
    "by_group",
    "change",
    "check",
    "chunked",
    "compare",
    "compiled",
    "cover",
    "decisions",
    "delay",
    "difference",
    "drop_top",
    "el2n",
    "empty",
    "entropy",
    "epochs",
    "fastest",
    "fitting",
    "floor",
    "full",
    "governor",
    "grad_norm",
    "head_grad_norm",
    "hold",
    "importance",
    "infobatch",
    "integrations",
    "interrupt",
    "key",
    "keys",
    "live",
    "load_state_dict",
    "margin",
    "mix",
    "peek",
    "per_sample",
    "progress",
    "prune",
    "ramp",
    "rank_mix",
    "ranked",
    "read_log",
    "reducible",
    "refill",
    "relative",
    "remembered",
    "replay",
    "rs2",
    "sift",
    "sifter",
    "skipping",
    "state_dict",
    "summarize",
    "systematic",
    "take",
    "threshold",
    "tokens",
    "top",
    "total",
    "truncated",
    "unbiased",
    "uniform",
    "with_ids",
]
