"""Sifting with the Hugging Face Trainer: an existing trainer, or a Trainer class."""

from __future__ import annotations

import inspect
from typing import Any

from puresift.errors import SiftError
from puresift.integrations.huggingface import refuse
from puresift.integrations.huggingface.drawn import Drawing, Drawn, planned
from puresift.integrations.huggingface.saving import Keeper, Saver
from puresift.integrations.huggingface.settings import Loss, Settings, prepared
from puresift.integrations.huggingface.sifting import WEIGHTS, Sifting
from puresift.prioritizers import Prioritizer
from puresift.stream.governors import Governor
from puresift.types import Rule, Score, ScoreFn

try:
    import transformers
except ImportError as error:
    raise ImportError("this integration needs transformers: pip install 'puresift[huggingface]'") from error
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (4, 57):
    raise ImportError(
        f"this integration needs transformers >= 4.57, and {transformers.__version__} is installed: "
        "pip install 'puresift[huggingface]'"
    )
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

__all__ = ["WEIGHTS", "SiftingTrainer", "sift"]


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
            classifier or of a masked, causal or token-classifying model, from the batch's "labels".
        score: `score(params, batch)`, or a `ps.Score` that remembers, which then receives training losses; by default
            `ps.batched(trainer.model, loss)`, in the precision set by the arguments (bf16, fp16).
        batch_size: rows in a batch; by default as many as in a pool, the per-device train batch size.
        governor: `ps.governor()`, as in `ps.sift`; it measures again in each pass.
        settings: the other settings of `ps.sifter`: draw, columns, pad, length, bucket, window, nonfinite; without
            pad, batches may be padded to different lengths, as with `SiftingDataLoader(pad="auto")`; with a
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
    refuse.neither(rule, prioritizer)
    if isinstance(trainer, _Resuming):
        raise SiftError("this trainer is sifted already; make a new Trainer to sift it in another way")
    refuse.changed(trainer, Trainer, loss)
    if rule is not None:
        ready = prepared(trainer, rule, loss, score, batch_size, governor, settings)
        _install(_with(trainer, _Sifting), ready)
        return trainer
    assert prioritizer is not None
    refuse.scoring(score, batch_size, governor)
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


class _Sifting(Sifting, _Resuming):
    """What a sifting trainer changes."""


class _Drawing(Drawing, _Resuming):
    """What a drawing trainer changes."""


class _Saver(Saver, TrainerCallback):
    """Saves what draws."""


class _Keeper(Keeper, TrainerCallback):
    """Saves what sifts."""


class SiftingTrainer(Drawing, Sifting, _Resuming):
    """A Trainer that sifts or draws: `sift` as a class. Further arguments are the Trainer's own.

    Args:
        args: as the Trainer's.
        rule: this, or `prioritizer`; both and `loss`, `score`, `batch_size`, `governor` and the settings are as in
            `sift`.
        prioritizer: see above.

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
        rule: Rule | None = None,
        prioritizer: Prioritizer | None = None,
        loss: Loss | None = None,
        score: ScoreFn | Score | None = None,
        batch_size: int | None = None,
        governor: Governor | None = None,
        **kwargs: Any,
    ):
        refuse.neither(rule, prioritizer)
        names = kwargs.keys() - inspect.signature(Trainer.__init__).parameters.keys()
        settings = {name: kwargs.pop(name) for name in names}
        super().__init__(*args, **kwargs)
        if type(self).compute_loss is not SiftingTrainer.compute_loss:
            raise SiftError(
                f"{type(self).__name__} overrides compute_loss, so the weights would not reach the loss; "
                "pass loss(model, batch) -> Float[B] instead"
            )
        if rule is not None:
            _install(self, prepared(self, rule, loss, score, batch_size, governor, settings))
            return
        assert prioritizer is not None
        refuse.scoring(score, batch_size, governor)
        _draw(self, planned(self, prioritizer, loss, settings))


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
