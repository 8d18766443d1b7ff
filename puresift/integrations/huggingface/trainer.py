"""Sifting with the Hugging Face Trainer: an existing trainer, or a Trainer class."""

from __future__ import annotations

import inspect
import math
import os
from typing import Any

import torch

from puresift import keys
from puresift.errors import SiftError
from puresift.integrations.huggingface.drawn import Drawing, Drawn, found, planned
from puresift.integrations.huggingface.passes import Passes, file
from puresift.integrations.huggingface.settings import Loss, Settings, prepared
from puresift.prioritizers import Prioritizer
from puresift.records.meters import Meter
from puresift.scores import autocast, batched
from puresift.scores.model import live, per_row
from puresift.stream.governors import Governor
from puresift.stream.loader import SiftingDataLoader
from puresift.types import Rule, Score, ScoreFn

try:
    import transformers
except ImportError as error:
    raise ImportError("this integration needs transformers: pip install 'puresift[huggingface]'") from error
if int(transformers.__version__.split(".")[0]) < 5:
    raise ImportError(
        f"this integration needs transformers >= 5, and {transformers.__version__} is installed: "
        "pip install 'puresift[huggingface]'"
    )
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

WEIGHTS = "sift_weights"  # the batch entry that passes weights from the loader to the loss


def sift(
    trainer: Trainer,
    rule: Rule | None = None,
    *,
    prioritizer: Prioritizer | None = None,
    loss: Loss | None = None,
    score: ScoreFn | Score | None = None,
    batch_size: int | None = None,
    governor: Governor | None = None,
    **settings: Any,
) -> Trainer:
    """Let a Trainer train on what a rule keeps of its candidates, or on what a prioritizer draws.

    The trainer's own loader gives the pools, which are scored with the newest weights. The training loss becomes
    `(weights * loss(model, batch)).mean()`; evaluation is unchanged. `num_train_epochs` is ignored, because the number
    of batches in a sifted pass is not known ahead: passes follow one another until `max_steps`, and the state's
    `epoch` counts them. Checkpoints hold the sifter's state, and `resume_from_checkpoint` resumes from it, bit for
    bit; `args.ignore_data_skip` is set for that. Logs gain what `ps.summarize` gives, as "sift/keep" and so on.

    With a prioritizer nothing is scored: a `ps.PrioritizedSampler` gives the batches, and the losses of training go
    back to it. An epoch has a length, so that `num_train_epochs` counts; checkpoints hold the sampler's state.

    The draw's key and the order of the candidates follow from `args.seed`.

    Args:
        trainer: any Trainer that has not begun to train. It is changed in place: its class gains a base class.
        rule: losses to odds; this, or a prioritizer.
        prioritizer: from `ps.prioritizer`; its size is len(train_dataset), its batch_size that of all processes, and
            its steps, if given, the batches that the Trainer takes.
        loss: `loss(model, batch)`, Float[B], one number per row; by default the cross entropy of a sequence
            classifier, from the batch's "labels" and the model's logits.
        score: `score(params, batch)`, or a `ps.Score` that remembers, which then receives training losses; by default
            `ps.batched(trainer.model, loss)`, in the precision set by the arguments (bf16, fp16).
        batch_size: rows in a batch; by default as many as in a pool, the per-device train batch size.
        governor: `ps.governor()`, as in `ps.sift`; it measures again in each pass.
        settings: the other settings of `ps.sifter`: draw, columns, pad, length, bucket, window, nonfinite; with a
            prioritizer those of `ps.PrioritizedSampler`: prefetch, sync.

    Returns:
        The trainer.

    Raises:
        SiftError: the trainer cannot be sifted (the message names the fix), or a setting is out of range; at the first
            batch, when the loss is not one number per row or a column is missing.
        TypeError: there is no such setting.

    Example:
        >>> import tempfile, puresift as ps
        >>> config = transformers.BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
        >>> rows = [{"input_ids": [row % 9, 1], "labels": row % 2} for row in range(16)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     args = transformers.TrainingArguments(folder, max_steps=2, report_to=[], use_cpu=True)
        ...     trainer = Trainer(transformers.BertForSequenceClassification(config), args, train_dataset=rows)
        ...     metrics = sift(trainer, ps.top(keep=0.5)).train().metrics
        {...}
        >>> metrics["sift/seen"], metrics["sift/keep"]
        (32.0, 0.5)
    """
    if (rule is None) == (prioritizer is None):
        raise SiftError("pass either a rule, sift(trainer, rule), or a prioritizer, sift(trainer, prioritizer=...)")
    if isinstance(trainer, _Resuming):
        raise SiftError("this trainer is sifted already; make a new Trainer to sift it in another way")
    if loss is None and type(trainer).compute_loss is not Trainer.compute_loss:
        raise SiftError(
            f"{type(trainer).__name__} overrides compute_loss, which gives one number per batch, and sifting needs "
            "one per row; pass it as loss(model, batch) -> Float[B]"
        )
    if replaced := sorted({"compute_loss", "get_train_dataloader", "train", "log"} & vars(trainer).keys()):
        raise SiftError(f"{', '.join(replaced)} was set on the trainer itself; define it in a subclass of Trainer")
    if rule is not None:
        ready = prepared(trainer, rule, loss, score, batch_size, governor, settings)
        _install(_with(trainer, _Sifting), ready)
        return trainer
    assert prioritizer is not None
    if any(setting is not None for setting in (score, batch_size, governor)):
        raise SiftError("score, batch_size and governor are for a rule; a prioritizer scores nothing: leave them out")
    drawn = planned(trainer, prioritizer, loss, settings)
    _draw(_with(trainer, _Drawing), drawn)
    return trainer


class _Resuming(Trainer):
    """A Trainer that is told of the checkpoint before it makes its loader."""

    _resume: str | None = None

    def train(self: Any, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, with the state of what gives the batches restored."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True
        self._resume = None if isinstance(resume_from_checkpoint, bool) else resume_from_checkpoint
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._resume = None


class _Sifting(_Resuming):
    """What a sifting trainer changes; comes before any other Trainer among its bases."""

    _sifting: Settings

    def get_train_dataloader(self: Any) -> Any:
        """Passes over the trainer's own loader, sifted outside of any prefetching."""
        settings, args = self._sifting, self.args
        with torch.random.fork_rng(devices=[]):  # accelerate seeds its shuffle from the global generator
            torch.default_generator.manual_seed(args.seed)
            inner = super().get_train_dataloader()
        if isinstance(inner, Passes | SiftingDataLoader):
            raise SiftError("get_train_dataloader() gives a sifted loader already; let it give the plain one")
        loader = SiftingDataLoader(
            inner,
            settings.score or _score(self, settings.loss),
            settings.rule,
            params=lambda: live(self.model)(),  # the Trainer may replace its model
            batch_size=self._train_batch_size if settings.batch_size is None else settings.batch_size,
            key=keys.key(args.seed),
            weights=WEIGHTS,
            governor=settings.governor,
            **settings.others,
        )
        passes = Passes(loader, self)
        if self._resume is not None:
            passes.load(self._resume)
        return passes

    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of per-sample losses for sifted batches; the Trainer's own loss for all others."""
        if WEIGHTS not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = {name: leaf for name, leaf in inputs.items() if name != WEIGHTS}
        weights = inputs[WEIGHTS]
        losses = per_row(self._sifting.loss(model, batch), len(weights))
        score = self._sifting.score
        if isinstance(score, Score) and score.observe is not None:
            self.callback_handler.train_dataloader.loader.observe(losses.detach(), batch)
        return (weights * losses).mean()

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, with the numbers of rows seen and kept."""
        passes = self.callback_handler.train_dataloader
        if isinstance(passes, Passes) and ("loss" in logs or "train_loss" in logs):
            meter, passes.window = (passes.window, Meter()) if "loss" in logs else (passes.whole, Meter())
            logs |= {f"sift/{name}": value for name, value in meter.read().items() if math.isfinite(value)}
        super().log(logs, *args, **kwargs)


class _Drawing(Drawing, _Resuming):
    """What a drawing trainer changes."""


class SiftingTrainer(_Sifting):
    """A Trainer that sifts: `sift` as a class. Further arguments are the Trainer's own.

    Args:
        args: as the Trainer's.
        rule: this and `loss`, `score`, `batch_size`, `governor` and the settings of `ps.sifter` are as in `sift`.

    Raises:
        SiftError: as `sift`; and a subclass overrides compute_loss.
        TypeError: as `sift`.

    Example:
        >>> import tempfile, puresift as ps
        >>> config = transformers.BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     args = transformers.TrainingArguments(folder, max_steps=2, report_to=[], use_cpu=True)
        ...     trainer = SiftingTrainer(
        ...         transformers.BertForSequenceClassification(config), args, rule=ps.top(keep=0.5), batch_size=4
        ...     )
        >>> isinstance(trainer, Trainer)
        True
    """

    def __init__(
        self,
        *args: Any,
        rule: Rule,
        loss: Loss | None = None,
        score: ScoreFn | Score | None = None,
        batch_size: int | None = None,
        governor: Governor | None = None,
        **kwargs: Any,
    ):
        names = kwargs.keys() - inspect.signature(Trainer.__init__).parameters.keys()
        settings = {name: kwargs.pop(name) for name in names}
        super().__init__(*args, **kwargs)
        if type(self).compute_loss is not SiftingTrainer.compute_loss:
            raise SiftError(
                f"{type(self).__name__} overrides compute_loss, so the weights would not reach the loss; "
                "pass loss(model, batch) -> Float[B] instead"
            )
        _install(self, prepared(self, rule, loss, score, batch_size, governor, settings))


class _Saver(TrainerCallback):
    """Saves the state of what gives the batches with each checkpoint."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found(kwargs["train_dataloader"], args, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_hyper_param_search:  # the search owns these folders, and trials are not resumed
            return
        folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        os.makedirs(folder, exist_ok=True)
        torch.save(self.state(kwargs["train_dataloader"]), os.path.join(folder, file(args)))

    def state(self, loader: Any) -> dict[str, Any]:
        return loader.batch_sampler.sampler.state_dict()


class _Keeper(_Saver):
    """Counts epochs by the candidates read."""

    _epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch = kwargs["train_dataloader"].epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        passes = kwargs["train_dataloader"]
        # For the Trainer all passes are one epoch, which never ends.
        state.epoch = passes.pools / passes.length if passes.length else state.global_step / state.max_steps
        if passes.epoch > self._epoch and state.global_step < state.max_steps:  # the Trainer itself handles the last
            self._epoch = passes.epoch
            control.should_log |= args.logging_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch" and args.eval_delay <= state.epoch
            control.should_save |= args.save_strategy == "epoch"

    def state(self, loader: Any) -> dict[str, Any]:
        return loader.loader.state_dict()


def _with(trainer: Any, base: type) -> Any:
    trainer.__class__ = type(f"Sifting{type(trainer).__name__}", (base, type(trainer)), {})
    return trainer


def _install(trainer: Any, settings: Settings) -> None:
    trainer._sifting = settings
    trainer.args.ignore_data_skip = True  # positions count sifted batches, not batches of candidates
    _scaled(trainer)
    trainer.add_callback(_Keeper)


def _draw(trainer: Any, drawn: Drawn) -> None:
    trainer._drawn = drawn
    _scaled(trainer)
    trainer.add_callback(_Saver)


def _scaled(trainer: Any) -> None:
    """Our loss is a mean over one micro-batch, so the Trainer must divide it; it reads one flag or both, by version."""
    trainer.loss_is_scaled_for_ga = trainer.model_accepts_loss_kwargs = False


def _score(trainer: Any, loss: Loss) -> ScoreFn:
    score, args = batched(trainer.model, loss), trainer.args
    if args.bf16 or args.fp16:
        return autocast(score, torch.bfloat16 if args.bf16 else torch.float16)
    return score
