"""Buffers: kept rows go in, full batches come out, in order, each exactly once."""

from puresift.buffers.ring import empty, example, full, lengths, refill, take

__all__ = ["empty", "example", "full", "lengths", "refill", "take"]
