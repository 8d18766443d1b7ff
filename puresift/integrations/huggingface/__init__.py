"""Sifting with the Hugging Face Trainer: an existing trainer, or a Trainer class."""

from puresift.integrations.huggingface.trainer import WEIGHTS, SiftingTrainer, sift

__all__ = ["WEIGHTS", "SiftingTrainer", "sift"]
