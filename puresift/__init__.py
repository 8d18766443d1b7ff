"""Online data sifting for PyTorch, as pure functions: score, select, draw, refill."""

from puresift import keys
from puresift.buffers import empty
from puresift.buffers import full
from puresift.buffers import refill
from puresift.buffers import take
from puresift.cheap import autocast
from puresift.cheap import chunked
from puresift.checkpoint import load_state_dict
from puresift.checkpoint import state_dict
from puresift.draws import bernoulli
from puresift.draws import systematic
from puresift.keys import key
from puresift.metrics import Meter
from puresift.metrics import summarize
from puresift.pools import epochs
from puresift.pools import peek
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
from puresift.types import Sifted
from puresift.types import Sifter
from puresift.types import SiftState
from puresift.wrappers import delay
from puresift.outputs import el2n
from puresift.outputs import entropy
from puresift.outputs import head_grad_norm
from puresift.outputs import margin
from puresift.scores import grad_norm
from puresift.combine import difference
from puresift.combine import rank_mix
from puresift.combine import reducible
from puresift.combine import total
from puresift.memory import change
from puresift.memory import remembered
from puresift.tokenwise import tokens
from puresift.ids import with_ids
from puresift.samplers import infobatch
from puresift.samplers import rs2
from puresift.samplers import skipping

__version__ = "0.1.0"
__all__ = [
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
    "autocast",
    "batched",
    "bernoulli",
    "change",
    "chunked",
    "delay",
    "difference",
    "el2n",
    "empty",
    "entropy",
    "epochs",
    "fastest",
    "full",
    "grad_norm",
    "head_grad_norm",
    "infobatch",
    "key",
    "keys",
    "live",
    "load_state_dict",
    "margin",
    "peek",
    "per_sample",
    "progress",
    "rank_mix",
    "reducible",
    "refill",
    "relative",
    "remembered",
    "rs2",
    "sift",
    "sifter",
    "skipping",
    "state_dict",
    "summarize",
    "systematic",
    "take",
    "tokens",
    "top",
    "total",
    "uniform",
    "with_ids",
]
