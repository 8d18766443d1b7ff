"""What a sifting Hugging Face Trainer iterates over."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from puresift.data.pools import size
from puresift.errors import SiftError
from puresift.infos import pools
from puresift.records.meters import Meter
from puresift.stream.loader import SiftingDataLoader
from puresift.types import Batch


class Passes(Iterable[Batch]):
    """What the Trainer iterates over: one sifted pass after another, without end. It has no length."""

    def __init__(self, loader: SiftingDataLoader, trainer: Any):
        self.loader, self._trainer = loader, trainer
        self.length = size(loader.loader)  # pools in a pass
        self.pools = 0  # read so far
        self.window, self.whole = Meter(), Meter()  # since the last log, and since training began

    def load(self, folder: str) -> None:
        """Resume from a checkpoint."""
        self.loader.load_state_dict(saved(folder, self._trainer.args))
        self.pools = int(self.loader.state.step)

    @property
    def epoch(self) -> int:
        """Whole passes so far; 0 where their length is not known."""
        return self.pools // self.length if self.length else 0

    def __iter__(self) -> Iterator[Batch]:
        held: int | None = None
        while self._trainer.state.global_step < self._trainer.args.max_steps:
            batches, barren = iter(self.loader), True
            while (batch := self._next(batches)) is not None:
                barren = False
                self._count()
                yield batch
            self._count()  # pools after the last batch
            before, held = held, int(self.loader.state.buffer.fill[0])
            if barren and held == before:
                error = SiftError(
                    "the rule kept nothing of a whole pass over the candidates, so training would never end; "
                    "lower its threshold, or give it a floor: ps.floor(rule, least=0.1)"
                )
                self.loader.fail(error)
                raise error

    def _next(self, batches: Iterator[Batch]) -> Batch:
        try:
            return next(batches, None)
        except KeyError as error:
            if not self._trainer.args.remove_unused_columns:
                raise
            raise SiftError(
                f"there is no {error} in the batch: the Trainer removes entries that the model's forward does not take "
                "before they can be sifted by; pass remove_unused_columns=False to TrainingArguments"
            ) from error

    def _count(self) -> None:
        info = self.loader.info
        assert info is not None
        self.pools += pools(info)
        self.window.update(info)
        self.whole.update(info)


def file(args: Any) -> str:
    """The name of this rank's state in a checkpoint folder."""
    return f"sifting-{args.process_index}.pt"


def saved(folder: str, args: Any) -> dict[str, Any]:
    """This rank's state in a checkpoint folder.

    Raises:
        SiftError: there is none.
    """
    path = os.path.join(folder, file(args))
    if not os.path.isfile(path):
        raise SiftError(
            f"{folder} has no {os.path.basename(path)}: it was saved without sifting, or by another number of "
            f"processes; to start sifting from its weights, load them with from_pretrained({folder!r}) and do not "
            "pass resume_from_checkpoint"
        )
    return torch.load(path, weights_only=True)
