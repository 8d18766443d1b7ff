"""What the published API raises; all three are ValueErrors."""

from __future__ import annotations

from puresift.errors import SiftError


class SiftConfigValidationException(SiftError):
    """A configuration lacks a key, has an unknown one, or holds a value of the wrong type."""


class UnsupportedDataFormatException(SiftError):
    """The rows of a batch cannot be told apart, or cannot be accumulated."""


class LossImplementationNotProvidedException(SiftError):
    """There is no loss, or it does not implement the Loss interface."""
