"""Data: where pools come from, and which samples an epoch loads."""

from puresift.data.baselines import balanced, downsampled
from puresift.data.pools import epochs, peek
from puresift.data.prioritized import PrioritizedSampler
from puresift.data.samplers import infobatch, rs2, skipping

__all__ = ["PrioritizedSampler", "balanced", "downsampled", "epochs", "infobatch", "peek", "rs2", "skipping"]
