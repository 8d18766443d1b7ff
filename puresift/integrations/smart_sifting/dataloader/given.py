"""What the loader is given, checked when it is made."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

from puresift.errors import SiftError
from puresift.integrations.smart_sifting.exceptions import SiftConfigValidationException
from puresift.stream.given import batch_size


def check(model: Any, orig_dataloader: Any, batch_transforms: Any, batch_format_index: Any) -> None:
    """Refuse what cannot be sifted.

    Raises:
        SiftConfigValidationException: naming the argument.
    """
    if not isinstance(model, nn.Module):
        raise SiftConfigValidationException(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(orig_dataloader, Iterable):
        raise SiftConfigValidationException(f"orig_dataloader must be a loader, got {type(orig_dataloader).__name__}")
    if batch_format_index not in (None, 0, 1):
        raise SiftConfigValidationException(f"batch_format_index must be 0 or 1, got {batch_format_index!r}")
    for name in ("transform", "reverse_transform") if batch_transforms is not None else ():
        if isinstance(batch_transforms, type) or not callable(getattr(batch_transforms, name, None)):
            raise SiftConfigValidationException(
                f"batch_transforms must be an object with {name}(), got {batch_transforms!r}"
            )


class Facade:
    """The wrapped loader's own attributes, which trainers and scripts look for."""

    orig_dataloader: Any

    @property
    def batch_size(self) -> int | None:
        """Rows in a batch, where the wrapped loader says so."""
        return batch_size(self.orig_dataloader)

    @property
    def sampler(self) -> Any:
        """The wrapped loader's, for trainers that tell it the epoch."""
        return getattr(self.orig_dataloader, "sampler", None)

    @property
    def batch_sampler(self) -> Any:
        """The wrapped loader's."""
        return getattr(self.orig_dataloader, "batch_sampler", None)

    @property
    def dataset(self) -> Any:
        """The wrapped loader's; there is none where that has none."""
        if sys._getframe(1).f_code.co_name == "skip_first_batches":
            # Accelerate would build a plain loader from it, and the run would go on without sifting and without a word.
            raise SiftError(
                "the Trainer cannot pass over sifted batches to resume within an epoch; pass ignore_data_skip=True to "
                "TrainingArguments"
            )
        return self.orig_dataloader.dataset

    @property
    def collate_fn(self) -> Any:
        """The wrapped loader's."""
        return getattr(self.orig_dataloader, "collate_fn", None)

    @property
    def num_workers(self) -> int:
        """The wrapped loader's."""
        return getattr(self.orig_dataloader, "num_workers", 0)

    @property
    def drop_last(self) -> bool:
        """The wrapped loader's."""
        return getattr(self.orig_dataloader, "drop_last", False)

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the wrapped loader, if it has one."""
        if hasattr(self.orig_dataloader, "set_epoch"):
            self.orig_dataloader.set_epoch(epoch)
