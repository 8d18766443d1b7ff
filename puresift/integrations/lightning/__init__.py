"""Lightning: train a LightningModule on sifted or drawn batches, with a callback and a wrapped loader or data."""

from puresift.integrations.lightning.callback import SiftingCallback
from puresift.integrations.lightning.drawing import DrawingCallback

__all__ = ["DrawingCallback", "SiftingCallback"]
