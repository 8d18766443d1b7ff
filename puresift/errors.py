"""What puresift raises about its input: one base class, so that a caller can tell it from everybody else's."""


class SiftError(ValueError):
    """A setting, a batch, a state or a file does not fit; the message names the cure.

    Errors of the caller's own score, model or loader pass through as they are, and so do those of the operating system.

    Example:
        >>> import puresift as ps
        >>> try:
        ...     ps.relative(keep=1.5)
        ... except ps.SiftError as error:
        ...     print(error)
        keep must be in (0, 1], got 1.5
    """


class MomentError(SiftError, RuntimeError):
    """A call came at a moment at which it has no answer."""


class ArgumentError(SiftError, TypeError):
    """An argument is of the wrong kind, or there is no such argument."""
