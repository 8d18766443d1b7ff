"""What the published API raises; all three are ValueErrors."""

from __future__ import annotations

from puresift.errors import SiftError


class SiftConfigValidationException(SiftError):
    """A configuration lacks a key, has an unknown one, or holds a value of the wrong type.

    Example:
        >>> from puresift.integrations.smart_sifting.sift_config.sift_configs import SiftingBaseConfig
        >>> try:
        ...     SiftingBaseConfig(sift_delay="soon")
        ... except SiftConfigValidationException as error:
        ...     print("sift_delay" in str(error))
        True
    """


class UnsupportedDataFormatException(SiftError):
    """The rows of a batch cannot be told apart, or cannot be accumulated.

    Example:
        >>> issubclass(UnsupportedDataFormatException, ValueError)
        True
    """


class LossImplementationNotProvidedException(SiftError):
    """There is no loss, or it does not implement the Loss interface.

    Example:
        >>> issubclass(LossImplementationNotProvidedException, ValueError)
        True
    """
