"""Lightning: train a LightningModule on sifted batches, with a callback and a wrapped loader or data module."""

from puresift.integrations.lightning.callback import SiftingCallback

__all__ = ["SiftingCallback"]
