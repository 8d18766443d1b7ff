"""Rows as tensors."""

from __future__ import annotations

from torch import Tensor

from puresift.integrations.smart_sifting.data_model.data_model_interface import SiftingBatch

__all__ = ["TensorBatch"]


class TensorBatch(SiftingBatch):
    """Rows along the first dimension of tensors.

    Args:
        inputs: [B, ...].
        labels: [B, ...], or None.

    Example:
        >>> import torch
        >>> TensorBatch(torch.zeros(2, 3), torch.zeros(2)).inputs.shape
        torch.Size([2, 3])
    """

    def __init__(self, inputs: Tensor, labels: Tensor | None = None):
        self.inputs, self.labels = inputs, labels
