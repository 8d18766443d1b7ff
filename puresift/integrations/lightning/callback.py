"""Lightning: train a LightningModule on sifted batches, with a callback and a wrapped loader or data module.

Lightning must know an epoch's last batch before it trains on it: there it takes the optimizer step of a partial group
of accumulated batches, steps the schedulers and validates. It trusts a loader's length; without one, it reads one
batch ahead. A sifted epoch has no length, and a batch sifted ahead is scored with parameters one step old. So the
loader yields each batch as an empty container, and fills it when Lightning asks for the next: just before it trains on
this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from puresift import keys
from puresift.data.pools import size
from puresift.errors import MomentError, SiftError
from puresift.integrations.lightning import refuse, resuming
from puresift.integrations.lightning.checking import Checks
from puresift.integrations.lightning.epochs import Epochs, Probe
from puresift.integrations.lightning.framework import _Callback, _new_enough
from puresift.integrations.lightning.loading import Loader as _Loader
from puresift.integrations.lightning.loading import through
from puresift.integrations.lightning.refuse import distributed as _distributed
from puresift.records.meters import Meter
from puresift.scores.model import live
from puresift.stream.budget import progress
from puresift.stream.loader import SiftingDataLoader
from puresift.types import Batch, Key, Rule, Score, ScoreFn

__all__ = ["SiftingCallback", "_Callback", "_distributed", "_new_enough"]
_LOGGED = ("keep", "loss", "kept_loss", "threshold", "nonfinite")


class SiftingCallback(_Callback):
    """Sifts the batches a LightningModule trains on, saves the state in checkpoints and logs what was kept.

    Give it to the Trainer, and `wrap` the training loader or the data module. The module's `training_step` gets the
    kept rows; where the rule gives weights, it multiplies its per-sample losses by them.

    An epoch is one pass over the candidates and ends with the batch that takes in the last of them; with
    `Trainer(limit_train_batches=n)` it is n sifted batches, pass after pass. Scores are those of the newest parameters,
    also under gradient accumulation.

    A checkpoint of any step resumes bit for bit, but for what draws on torch's global generators, which Lightning does
    not save: dropout, and the shuffles of `DataLoader(shuffle=True)` without a generator of its own. There the pass
    under way goes on in its order, and those after it have another one; a resumed run says so.

    Args:
        score: as in `ps.sifter`.
        rule: as in `ps.sifter`.
        batch_size: rows in a batch; by default as many as the loader's own batches have.
        key: Int64[2]; by default `ps.key(0)`. Each process derives its own.
        weights: how the weights, Float[batch_size], reach `training_step`: a name puts them into dict batches, True
            makes the batch `[batch, weights]`, None is for rules whose weights are all 1.
        prefix: of the logged names: keep, loss, kept_loss, threshold and nonfinite, as `ps.summarize` defines them.
        settings: the other settings of `ps.SiftingDataLoader`; in a single process, pad is "auto" by default.

    Attributes: `loader`, the `ps.SiftingDataLoader` that sifts; None before the first epoch.

    Raises:
        SiftError: here or when `fit` begins, for an invalid setting or setup; when a checkpoint of another kind of rule
            or score is resumed; at the first batch whose weights are not all 1, when no gradient reaches them.

    Warns:
        UserWarning: a run was resumed whose later passes are shuffled by torch's global generator.

    Example:
        >>> import puresift as ps, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> score = ps.batched(model, lambda model, x: model(x)[:, 0].square())
        >>> sifting = SiftingCallback(score, ps.relative(keep=0.5), weights=True)
        >>> loader = sifting.wrap(torch.utils.data.DataLoader(torch.zeros(8, 2), 4))
        >>> # Trainer(callbacks=[sifting]).fit(module, loader)
    """

    loader: SiftingDataLoader | None = None

    def __init__(
        self,
        score: ScoreFn | Score | None,
        rule: Rule,
        *,
        batch_size: int | None = None,
        key: Key | None = None,
        weights: str | bool | None = None,
        prefix: str = "sift/",
        **settings: Any,
    ):
        def build(pools: Iterable[Batch], params: Any, key: Key) -> SiftingDataLoader:
            alone = self._trainer is None or self._trainer.world_size == 1
            ragged = {"pad": "auto"} if alone and settings.get("pad") is None else {}  # ranks must save equal shapes
            others = {"in_step": False, "batch_size": batch_size, "key": key, "weights": weights, **settings, **ragged}
            return SiftingDataLoader(pools, score, rule, params=params, **others)

        self._trainer: Any = None
        self._pad = settings.get("pad")
        self._key = keys.key(0) if key is None else key
        build([], {}, self._key)  # settings are checked now
        self._build, self._mode, self._prefix = build, weights or None, prefix
        self._epochs: Epochs | None = None
        self._saved: Mapping[str, Any] | None = None
        self._resumed = False  # from a checkpoint, and no batch was read yet
        self._probe = Probe(weights)
        self._recent, self._epoch, self._steps = Meter(), Meter(), 0
        self._checks, self._sized = Checks(), False  # whether a pass over what was wrapped may have a length

    def wrap(self, data: Any) -> Any:
        """The loader, or the data module, with sifted batches for training.

        Args:
            data: an iterable of batches that can be iterated again, or a LightningDataModule (copied, then changed).

        Returns:
            What to pass to `Trainer.fit` instead.

        Raises:
            SiftError: it is sifted already.
        """
        if isinstance(data, SiftingDataLoader | _Loader):
            raise SiftError("this loader is sifted already; wrap the loader inside of it, once")
        if not hasattr(data, "train_dataloader"):
            self._build(data, {}, self._key)  # anything but a loader is refused now
            self._sized = size(data) is not None
            return _Loader(data, self)
        self._sized = True
        return through(data, self.wrap)

    @property
    def progress(self) -> float:
        """The part of `max_epochs` passes read so far, in [0, 1]: for `LambdaLR(optimizer, lambda _: 1 - progress)`.

        Raises:
            SiftError: the total is unknown, because the loader has no length or the Trainer no max_epochs.
        """
        if self.loader is None:
            return 0.0
        pools, epochs = size(self.loader.loader), self._trainer.max_epochs
        if pools is None or epochs in (None, -1) or isinstance(self._trainer.limit_train_batches, int):
            raise SiftError(
                "progress needs a loader with a length and Trainer(max_epochs=...) without limit_train_batches; "
                "let the schedule count steps instead"
            )
        return progress(self.loader.state, epochs * pools)

    # Called by Lightning.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        refuse.setup(trainer, pl_module, self._sized)
        refuse.ragged(trainer, self._pad)
        self._trainer = trainer
        self._checks.take(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._checks.give_back(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._probe.explain(exception)
        self._checks.give_back(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not isinstance(trainer.train_dataloader, _Loader) or trainer.train_dataloader.callback is not self:
            raise SiftError("the training loader is not sifted; give fit() what sifting.wrap(loader) returns")
        self._steps = trainer.global_step
        loop = trainer.fit_loop.epoch_loop
        if loop.restarting and loop.batch_progress.is_last_batch:
            # Resumed where an epoch ended: without a length Lightning continues that epoch's batch count, and groups
            # of accumulated batches shift. Its next step may add one completed batch; the count must then be zero.
            loop.batch_progress.current.completed = -int(loop.restarted_on_train_batch_end)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if isinstance(batch, dict | list) and not batch:
            raise MomentError(
                "this Lightning reads ahead in a way puresift does not know; pip install lightning==2.6.*"
            )
        self._probe.before(batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if outputs or not pl_module.automatic_optimization:  # else the step was skipped
            self._probe.after()
        self._count()
        assert self._epochs is not None
        self._checks.after(trainer, self._epochs.share)
        if trainer.global_step != self._steps and trainer.global_step % trainer.log_every_n_steps == 0:
            self._log(pl_module, self._recent)
            self._recent = Meter()
        self._steps = trainer.global_step

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._log(pl_module, self._epoch, "_epoch")
        self._epoch = Meter()

    def state_dict(self) -> dict[str, Any]:
        flat: Any = self._epochs.state_dict() if self._epochs is not None else self._saved or {}
        ranks = 1 if self._trainer is None else self._trainer.world_size
        if ranks > 1:  # only one rank saves
            refuse.listed(flat)
            flat = self._trainer.lightning_module.all_gather(flat)
        return {"ranks": ranks, "loader": flat}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        ranks, flat = state_dict["ranks"], state_dict["loader"]
        if self._trainer is not None and ranks != self._trainer.world_size:
            raise SiftError(f"the state was saved by {ranks} ranks, and there are {self._trainer.world_size} now")
        if ranks > 1:
            rank = self._trainer.global_rank  # cloned: torch.set_rng_state crashes on a view
            flat = {n: t[rank].clone() if isinstance(t, Tensor) else t for n, t in flat.items()}
        self._saved, self._resumed = flat, True

    # Called by the wrapped loader.

    def _begin(self, pools: Iterable[Batch]) -> Iterator[Any]:
        """The batches of an epoch."""
        trainer = self._trainer
        if trainer is None:
            raise SiftError("the SiftingCallback that wrapped this loader is missing; Trainer(callbacks=[sifting])")
        if self._epochs is None or self._epochs.loader.loader is not pools:
            key = self._key
            if trainer.world_size > 1:
                key = keys.fold_in(key, trainer.global_rank)
                _distributed(pools)
            if self._saved is None and self._epochs is not None:
                self._saved = self._epochs.state_dict()
            self.loader = self._build(pools, live(trainer.lightning_module), key)
            self.loader.endless = True  # Lightning counts the batches
            self._epochs = Epochs(self.loader, self._count)
        if self._saved:
            self._epochs.load_state_dict(self._saved)
            if self._resumed:
                resuming.warn(pools)
        self._saved, self._resumed = None, False
        self._checks.begin(trainer, pools, self._epochs.share)
        if not isinstance(trainer.limit_train_batches, int):
            yield from self._epochs.ahead(self._mode)
            return
        while True:  # Lightning counts the batches and stops asking
            yield self._epochs.next()[0]

    def _count(self) -> None:
        assert self.loader is not None and self.loader.info is not None
        for meter in (self._recent, self._epoch):
            meter.update(self.loader.info)

    def _log(self, pl_module: Any, meter: Meter, suffix: str = "") -> None:
        values, epoch = meter.read(), bool(suffix)
        named = {f"{self._prefix}{name}{suffix}": values[name] for name in _LOGGED}
        pl_module.log_dict(named, on_step=not epoch, on_epoch=epoch, batch_size=1, sync_dist=epoch)
