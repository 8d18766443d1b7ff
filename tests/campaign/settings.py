"""Which campaign is run: PURESIFT_CAMPAIGN_SEED, 0 by default, and PURESIFT_CAMPAIGN_SIZE, "small" or "full"."""

import os

SEED = int(os.environ.get("PURESIFT_CAMPAIGN_SEED", "0"))
SIZE = os.environ.get("PURESIFT_CAMPAIGN_SIZE", "small")
assert SIZE in ("small", "full"), f'PURESIFT_CAMPAIGN_SIZE must be "small" or "full", got {SIZE!r}'


def number(small: int, full: int) -> int:
    """How many cases this campaign has."""
    return full if SIZE == "full" else small
