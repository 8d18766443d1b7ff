"""Scores: (params, batch) -> one number per row, from the live model, its logits, memory, or other scores."""

from puresift.scores.cheap import autocast, chunked, truncated
from puresift.scores.combining import difference, rank_mix, reducible, total
from puresift.scores.compiling import compiled
from puresift.scores.integers import int8
from puresift.scores.logits import el2n, entropy, head_grad_norm, margin
from puresift.scores.losses import batched, grad_norm, per_sample
from puresift.scores.model import live
from puresift.scores.probing import probed
from puresift.scores.remembering import change, recalled, remembered

__all__ = [
    "autocast",
    "batched",
    "change",
    "chunked",
    "compiled",
    "difference",
    "el2n",
    "entropy",
    "grad_norm",
    "head_grad_norm",
    "int8",
    "live",
    "margin",
    "per_sample",
    "probed",
    "rank_mix",
    "recalled",
    "reducible",
    "remembered",
    "total",
    "truncated",
]
