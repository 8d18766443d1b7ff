"""Several ranks: their own random numbers, running in step, and states that know their rank.

Each rank sifts its own share of the data and keeps its own number of rows, so batch counts differ; `in_step` stops
all ranks together. In a single process nothing here has any effect. No other folder imports torch.distributed.
"""

from puresift.distributed.folders import load_state, save_state
from puresift.distributed.gathering import gathered
from puresift.distributed.lockstep import in_step
from puresift.distributed.ranks import place, rank_key
from puresift.distributed.resharding import resharded
from puresift.distributed.saving import stamped, unstamped

__all__ = [
    "gathered",
    "in_step",
    "load_state",
    "place",
    "rank_key",
    "resharded",
    "save_state",
    "stamped",
    "unstamped",
]
