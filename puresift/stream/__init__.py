"""The stream: the loop that reads pools and yields sifted batches; the loader around it, and the governor it uses."""

from puresift.stream.budget import progress
from puresift.stream.governors import Governor, decisions, governor
from puresift.stream.loader import SiftingDataLoader
from puresift.stream.prioritized import prioritize
from puresift.stream.stream import Stream, sift

__all__ = ["Governor", "SiftingDataLoader", "Stream", "decisions", "governor", "prioritize", "progress", "sift"]
