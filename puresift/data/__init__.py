"""Data: where pools come from, and which samples an epoch loads."""

from puresift.data.pools import epochs, peek
from puresift.data.samplers import infobatch, rs2, skipping

__all__ = ["epochs", "infobatch", "peek", "rs2", "skipping"]
