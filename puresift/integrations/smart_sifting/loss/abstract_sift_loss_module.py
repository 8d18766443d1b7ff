"""The loss interface: how a script defines its per-sample loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from puresift.integrations.smart_sifting.exceptions import LossImplementationNotProvidedException

__all__ = ["Loss", "LossImplementationNotProvidedException"]


class Loss:
    """Subclass it and write `loss`.

    Example:
        >>> class Squares(Loss):
        ...     def loss(self, model, transformed_batch, original_batch=None):
        ...         return model(original_batch).square().sum(1)
    """

    def loss(self, model: nn.Module, transformed_batch: Any, original_batch: Any = None) -> Tensor:
        """The loss of each sample, with no reduction.

        Args:
            model: an eval-mode copy of the model, with its newest parameters; no gradient is recorded.
            transformed_batch: the output of the batch transform; without one, the batch.
            original_batch: the loader's batch; without a transform, on the model's device.

        Returns:
            Float[B].
        """
        raise LossImplementationNotProvidedException(f"{type(self).__name__} does not implement loss()")


def provided(loss: Any) -> Any:
    """The loss, if it implements the interface; it need not be a `Loss`.

    Raises:
        LossImplementationNotProvidedException: it is missing, a class rather than an object, or does not define `loss`.
    """
    if loss is None:
        raise LossImplementationNotProvidedException("there is no loss; pass an object of a class that extends Loss")
    if isinstance(loss, type):
        raise LossImplementationNotProvidedException(f"the loss is the class {loss.__name__}; pass {loss.__name__}()")
    if not callable(getattr(loss, "loss", None)) or getattr(type(loss), "loss", None) is Loss.loss:
        raise LossImplementationNotProvidedException(
            f"{type(loss).__name__} does not implement loss(model, transformed_batch, original_batch=None)"
        )
    return loss
