"""A Trainer whose batches are sifted: its loader, its loss and its logs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from puresift import keys
from puresift.errors import SiftError
from puresift.integrations.huggingface.losses import Entropy, weighed
from puresift.integrations.huggingface.passes import Passes
from puresift.integrations.huggingface.settings import Loss, Settings
from puresift.records.meters import Meter
from puresift.scores import autocast, batched
from puresift.scores.model import live, per_row
from puresift.stream.loader import SiftingDataLoader
from puresift.stream.padding import collated
from puresift.types import Params, Score, ScoreFn

WEIGHTS = "sift_weights"  # the batch entry that passes weights from the loader to the loss


class Sifting:
    """What a sifting trainer changes; comes before any Trainer among its bases."""

    _sifting: Settings | None = None  # a trainer that draws has none
    _resume: str | None
    _tokens: Tensor | None = None  # in a batch of this step

    def get_train_dataloader(self: Any) -> Any:
        """Passes over the trainer's own loader, sifted outside of any prefetching."""
        settings, args = self._sifting, self.args
        if settings is None:
            return super().get_train_dataloader()  # type: ignore[misc]
        with torch.random.fork_rng(devices=[]):  # accelerate seeds its shuffle from the global generator
            torch.default_generator.manual_seed(args.seed)
            inner = super().get_train_dataloader()  # type: ignore[misc]
        if isinstance(inner, Passes | SiftingDataLoader):
            raise SiftError("get_train_dataloader() gives a sifted loader already; let it give the plain one")
        others = {"in_step": False, **settings.others}  # passes follow without end, so ranks need not end together
        if others.get("pad") in (None, "auto"):
            others["pad"] = collated(inner, tokenizer=getattr(self, "processing_class", None))
        loader = SiftingDataLoader(
            inner,
            settings.score or _score(self, settings.loss),
            settings.rule,
            params=_Newest(self),
            batch_size=self._train_batch_size if settings.batch_size is None else settings.batch_size,
            key=keys.key(args.seed),
            weights=WEIGHTS,
            governor=settings.governor,
            **others,
        )
        loader.endless = True
        passes = Passes(loader, self)
        if self._resume is not None:
            passes.load(self._resume)
        return passes

    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of per-sample losses for sifted batches; the Trainer's own loss for all others."""
        if WEIGHTS not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        batch = {name: leaf for name, leaf in inputs.items() if name != WEIGHTS}
        weights = inputs[WEIGHTS]
        losses = per_row(self._sifting.loss(model, batch), len(weights))
        score = self._sifting.score
        if isinstance(score, Score) and score.observe is not None:
            self.callback_handler.train_dataloader.loader.observe(losses.detach(), batch)
        return (weights * weighed(self._sifting.loss, model, batch, losses, self._tokens)).mean()

    def get_batch_samples(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's batches of one step; the losses of their tokens are averaged over all of them."""
        samples, items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        self._tokens = _tokens(self, samples) if self._sifting is not None else None
        return samples, items

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, with the numbers of rows seen and kept."""
        passes = self.callback_handler.train_dataloader
        if isinstance(passes, Passes) and ("loss" in logs or "train_loss" in logs):
            meter, passes.window = (passes.window, Meter()) if "loss" in logs else (passes.whole, Meter())
            logs |= {f"sift/{name}": value for name, value in meter.read().items() if math.isfinite(value)}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]


class _Newest:
    """The parameters of the model that a Trainer has now: it may replace it."""

    def __init__(self, trainer: Any):
        self._trainer = trainer

    @property
    def model(self) -> Any:
        return self._trainer.model

    def __call__(self) -> Params:
        return live(self.model)()


def _tokens(trainer: Any, samples: list[Any]) -> Tensor | None:
    """How many tokens with a loss one of these batches has on average; None where rows count as one each."""
    loss = trainer._sifting.loss
    counts = [loss.tokens(trainer.model, batch) for batch in samples] if isinstance(loss, Entropy) else []
    counted = [count.sum() for count in counts if count is not None]
    if not counted:
        return None
    mean = torch.stack(counted).float().mean()
    if trainer.args.world_size > 1 and trainer.args.average_tokens_across_devices:
        mean = trainer.accelerator.gather(mean.to(trainer.args.device)).mean()
    return mean


def _score(trainer: Any, loss: Loss) -> ScoreFn:
    score, args = batched(trainer.model, loss), trainer.args
    if args.bf16 or args.fp16:
        return autocast(score, torch.bfloat16 if args.bf16 else torch.float16)
    return score
