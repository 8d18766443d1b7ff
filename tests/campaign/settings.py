"""Which campaign is run: PURESIFT_CAMPAIGN_SEED, 0 by default, and PURESIFT_CAMPAIGN_SIZE, "small" or "full".

PURESIFT_CAMPAIGN_PARTS, 2 by default, is how many processes share what takes longest; the cases are the same.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

SEED = int(os.environ.get("PURESIFT_CAMPAIGN_SEED", "0"))
SIZE = os.environ.get("PURESIFT_CAMPAIGN_SIZE", "small")
PARTS = int(os.environ.get("PURESIFT_CAMPAIGN_PARTS", "2"))
assert SIZE in ("small", "full"), f'PURESIFT_CAMPAIGN_SIZE must be "small" or "full", got {SIZE!r}'
assert PARTS > 0, f"PURESIFT_CAMPAIGN_PARTS must be 1 or more processes, got {PARTS}"
AT_ONCE = 100  # cases that a process takes before it comes back for more


def number(small: int, full: int) -> int:
    """How many cases this campaign has."""
    return full if SIZE == "full" else small


def counted(count: Callable[[range], Counter], cases: int, parts: int = PARTS) -> Counter:
    """The sum of what `count` finds in all cases, some at a time, in so many processes; the first error ends it."""
    if parts == 1:
        return count(range(cases))
    some = [range(first, min(first + AT_ONCE, cases)) for first in range(0, cases, AT_ONCE)]
    with ProcessPoolExecutor(min(parts, len(some)), get_context("spawn")) as processes:
        return sum(processes.map(partial(_strictly, count), some), Counter())


def _strictly(count: Callable[[range], Counter], cases: range) -> Counter:
    """A new process knows nothing of pytest's settings."""
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings(action="error"):
        return count(cases)
