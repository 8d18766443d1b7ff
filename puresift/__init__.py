"""Online data sifting for PyTorch, as pure functions: score, select, draw, refill."""

from typing import TYPE_CHECKING

# The namespaces: ps.rules. and the tab key show all rules, and so on.
from puresift import buffers, data, draws, integrations, keys, rules, scores, types

# The nouns.
from puresift.errors import SiftError
from puresift.types import Buffer, Info, Kept, Odds, Pad, Rule, Score, Sifted, Sifter, SiftState

# The four verbs, and their composition.
from puresift.scores import (
    autocast,
    batched,
    change,
    chunked,
    compiled,
    difference,
    el2n,
    entropy,
    grad_norm,
    head_grad_norm,
    int8,
    live,
    margin,
    per_sample,
    probed,
    rank_mix,
    recalled,
    reducible,
    remembered,
    total,
    truncated,
)
from puresift.rules import (
    anneal,
    band,
    by_error,
    by_group,
    by_root,
    cover,
    delay,
    drop_top,
    floor,
    gate,
    hold,
    importance,
    interrupt,
    mix,
    nonzero,
    prune,
    ramp,
    ranked,
    relative,
    threshold,
    tokens,
    top,
    unbiased,
    uniform,
)
from puresift.draws import bernoulli, systematic
from puresift.buffers import empty, full, refill, take
from puresift.cascades import cascade
from puresift.sifters import sifter
from puresift.prioritizers import Prioritizer, PrioritizerState, Table, TableState, prioritizer, table
from puresift.keys import key
from puresift.checkpoint import load_state_dict, state_dict

# Data in, batches out.
from puresift.ids import with_ids
from puresift.data import PrioritizedSampler, balanced, downsampled, epochs, infobatch, peek, rs2, skipping
from puresift.stream import Governor, SiftingDataLoader, Stream, decisions, governor, prioritize, progress, sift
from puresift.recipes import auto

# Before a run, and during it.
from puresift.trials import advise, check, compare, fastest, fitting, replay
from puresift.records import AuditLog, Meter, Recorder, read_log, summarize

if TYPE_CHECKING:
    from puresift import testing
else:

    def __getattr__(name: str):
        """The laws for users' own tests, imported on first use."""
        if name != "testing":
            raise AttributeError(f"module 'puresift' has no attribute {name!r}")
        from importlib import import_module

        return import_module("puresift.testing")


__version__ = "0.2.0"
# fmt: off
__all__ = [
    "AuditLog", "Buffer", "Governor", "Info", "Kept", "Meter", "Odds", "Pad", "PrioritizedSampler", "Prioritizer",
    "PrioritizerState", "Recorder", "Rule", "Score", "SiftError", "SiftState", "Sifted", "Sifter", "SiftingDataLoader",
    "Stream", "Table", "TableState", "advise", "anneal", "auto", "autocast", "balanced", "band", "batched", "bernoulli",
    "buffers", "by_error", "by_group", "by_root", "cascade", "change", "check", "chunked", "compare", "compiled",
    "cover", "data", "decisions", "delay", "difference", "downsampled", "draws", "drop_top", "el2n", "empty", "entropy",
    "epochs", "fastest", "fitting", "floor", "full", "gate", "governor", "grad_norm", "head_grad_norm", "hold",
    "importance", "infobatch", "int8", "integrations", "interrupt", "key", "keys", "live", "load_state_dict", "margin",
    "mix", "nonzero", "peek", "per_sample", "prioritize", "prioritizer", "probed", "progress", "prune", "ramp",
    "rank_mix", "ranked", "read_log", "recalled", "reducible", "refill", "relative", "remembered", "replay", "rs2",
    "rules", "scores", "sift", "sifter", "skipping", "state_dict", "summarize", "systematic", "table", "take",
    "testing", "threshold", "tokens", "top", "total", "truncated", "types", "unbiased", "uniform", "with_ids",
]
# fmt: on
