"""The door to Lightning, against the real library: what its Trainer does is what the plain loop does."""

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import puresift as ps
from puresift.scores.model import Twin
from tests import laws
from tests.doors import safely
from tests.strategies import data, net

lightning = pytest.importorskip("lightning.pytorch")
door = pytest.importorskip("puresift.integrations.lightning")

ROOT = Path(__file__).parents[2]
BATCH = 8
LOOP = "epoch_loop.batch_progress"
# Lightning's own warnings, which no Trainer flag turns off; each is about the machine or the small problem.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "Checkpoint directory .* exists and is not empty",  # the resumed runs of a test share a folder
        "The dirpath has changed from",  # and it is not that of the run they resume
        "You defined a `validation_step` but have no `val_dataloader`",  # tests without validation
    )
]


def per_sample(model, batch):
    x, y, *_ = batch.values() if isinstance(batch, dict) else batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


class Module(lightning.LightningModule):
    """The small classifier, with BatchNorm and dropout, and a note of what it trained on."""

    def __init__(self, *, weights=None, schedule=None, estimate=False, ignores=False):
        super().__init__()
        self.net, self.mode, self.schedule = net(), weights, schedule
        self.estimate, self.ignores, self.automatic_optimization = estimate, ignores, True
        self.ids, self.rates, self.steps, self.validated = [], [], 0, []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        weights = torch.ones(())
        if self.mode is True:
            batch, weights = batch
        elif self.mode:
            weights = batch[self.mode]
        self.ids.append((batch["id"] if isinstance(batch, dict) else batch[2]).tolist())
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        torch.manual_seed(sum(self.ids[-1]))  # dropout as in the plain loop, wherever the run began
        losses = per_sample(self, batch)
        return losses.mean() if self.ignores else (weights * losses).mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(len(self.ids))

    def configure_optimizers(self):
        if self.estimate:
            _ = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        if self.schedule is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Pools(torch.utils.data.IterableDataset):
    """The same pools from a loader without a length."""

    def __init__(self, inner):
        self.inner = inner

    def set_epoch(self, epoch):
        self.inner.sampler.set_epoch(epoch)

    def __iter__(self):
        return iter(self.inner)


def pools(*, kind="list", rows=130, size=12):
    """Pools of (x, y, id), their order a function of seed and epoch."""
    dataset = torch.utils.data.TensorDataset(*data(rows).tensors, torch.arange(rows))
    sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=1, rank=0, seed=1)

    def collate(items):
        return dict(zip(("x", "y", "id"), torch.utils.data.default_collate(items), strict=True))

    loader = torch.utils.data.DataLoader(dataset, size, sampler=sampler, collate_fn=collate if kind == "dict" else None)
    return torch.utils.data.DataLoader(Pools(loader), batch_size=None) if kind == "unsized" else loader


def sifting(module, rule=None, **settings):
    rule = ps.importance(keep=0.6) if rule is None else rule
    return door.SiftingCallback(ps.batched(module, per_sample), rule, batch_size=BATCH, key=ps.key(3), **settings)


def trainer(*callbacks, **flags):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saves = any(isinstance(callback, lightning.callbacks.ModelCheckpoint) for callback in callbacks)
    flags = {"accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": saves, **quiet, **flags}
    return lightning.Trainer(callbacks=list(callbacks), **flags)


def plain(loader, *, accumulate=1, epochs=2, rule=None, sized=True, limit=None):
    """The same problem in a loop of one's own: epochs end with the batch that takes in a pass's last pool."""
    module = Module()
    rule = ps.importance(keep=0.6) if rule is None else rule
    sifter = ps.sifter(ps.batched(module, per_sample), rule, batch_size=BATCH)
    stream = ps.sift(sifter, sifter.init(ps.key(3), ps.peek(loader)), ps.live(module), ps.epochs(loader, 9), skip=0)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    ids, infos, ends, micro, length = [], [], [], 0, len(pools())
    for batch, weights, state, info in stream:
        micro += 1
        ids.append((batch["id"] if isinstance(batch, dict) else batch[2]).tolist())
        infos.append(info)
        torch.manual_seed(sum(ids[-1]))
        ((weights * per_sample(module, batch)).mean() / accumulate).backward()
        read = int(state.step) if sized else int(state.step) - 1
        last = read >= (len(ends) + 1) * length and not bool(ps.full(state.buffer))
        if limit is not None:
            last = micro == limit
        if micro % accumulate == 0 or last:
            optimizer.step()
            optimizer.zero_grad()
        if last:
            ends.append(len(ids))
            micro = 0
        if len(ends) == epochs:
            break
    return SimpleNamespace(ids=ids, module=module, ends=ends, infos=infos)


def same(module, loop):
    assert module.ids == loop.ids
    assert laws.equal(dict(module.state_dict()), dict(loop.module.state_dict()))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("kind", "weights"), [("dict", "w"), ("list", True), ("unsized", True)])
def test_it_trains_as_the_plain_loop_does(kind, weights, accumulate):
    loop = plain(pools(kind=kind), accumulate=accumulate, sized=kind != "unsized")
    module = Module(weights=weights)
    callback = sifting(module, weights=weights)
    run = trainer(callback, accumulate_grad_batches=accumulate)
    run.fit(module, callback.wrap(pools(kind=kind)))
    same(module, loop)
    begins = [0, *loop.ends]
    batches = [end - begin for begin, end in zip(begins, loop.ends, strict=False)]
    assert run.global_step == sum(-(-n // accumulate) for n in batches)
    assert accumulate == 1 or any(n % accumulate for n in batches), "a group that is not full is part of the test"


def test_a_sifted_loader_without_the_callback_is_one_step_stale():
    """Why `wrap` is needed: Lightning reads a loader without a length one batch ahead."""
    loop, module = plain(pools()), Module()
    loader = ps.SiftingDataLoader(
        pools(), ps.batched(module, per_sample), ps.importance(keep=0.6), params=ps.live(module), batch_size=BATCH,
        key=ps.key(3), weights=True,
    )  # fmt: skip
    module.mode = True
    trainer(max_steps=6).fit(module, loader)
    assert module.ids[0] == loop.ids[0]
    assert module.ids != loop.ids[: len(module.ids)]


@pytest.mark.parametrize(
    ("accumulate", "kind", "estimate"), [(1, "list", True), (3, "list", False), (3, "unsized", True)]
)
def test_a_checkpoint_of_any_step_goes_on_to_the_bit(tmp_path, accumulate, kind, estimate):
    def fit(path=None):
        module = Module(weights=True, estimate=estimate, schedule=lambda step: 0.9**step)
        callback = sifting(module, weights=True)
        folder = tmp_path / ("again" if path else "")
        saver = lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
        run = trainer(callback, saver, accumulate_grad_batches=accumulate)
        run.fit(module, callback.wrap(pools(kind=kind)), ckpt_path=path, **safely(run.fit))
        return module, run

    whole, run = fit()
    saved = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("step=")[1]))
    assert len(saved) == run.global_step > 4
    ends = [
        path for path in saved[:-1] if torch.load(path, weights_only=True)["loops"]["fit_loop"][LOOP]["is_last_batch"]
    ]
    assert len(ends) == 1, "the last batch of an epoch is among them"
    for path in {*ends, *random.Random(accumulate).sample(saved[:-1], 2)}:
        module, again = fit(path)
        assert again.global_step == run.global_step, path
        assert module.ids == whole.ids[-len(module.ids) :], path
        assert laws.equal(dict(module.state_dict()), dict(whole.state_dict())), path


def test_the_state_is_the_callbacks_where_lightning_loses_the_loaders(tmp_path):
    """`estimated_stepping_batches` sets the loader up before Lightning puts its state back."""
    module = Module(weights=True, estimate=True)
    callback = sifting(module, weights=True)
    run = trainer(callback, max_steps=3)
    run.fit(module, callback.wrap(pools()))
    run.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{}]
    assert int(saved["callbacks"]["SiftingCallback"]["loader"][":SiftState/step"]) == int(callback.loader.state.step)


@pytest.mark.parametrize("limit", [None, 7])
def test_an_epoch_of_a_fixed_number_of_batches_goes_on_where_the_last_one_stopped(limit):
    loop = plain(pools(), accumulate=3, limit=7)
    module = Module(weights=True)
    callback = sifting(module, weights=True)
    run = trainer(callback, accumulate_grad_batches=3, limit_train_batches=7)
    run.fit(module, callback.wrap(pools()))
    same(module, loop)
    assert run.global_step == 6, "ceil(7 / 3) an epoch"


def test_a_schedule_by_progress_ends_at_zero_with_the_last_step():
    module = Module(weights=True)
    callback = sifting(module, weights=True)
    module.schedule = lambda step: 1 - callback.progress
    run = trainer(callback, accumulate_grad_batches=3)
    run.fit(module, callback.wrap(pools()))
    assert module.rates[0] == 0.05 and min(module.rates) > 0
    assert module.rates == sorted(module.rates, reverse=True)
    assert run.optimizers[0].param_groups[0]["lr"] == 0


def test_validation_and_epoch_schedules_come_at_the_end_of_each_epoch():
    loop, module = plain(pools()), Module(weights=True)
    callback = sifting(module, weights=True)

    def optimizers():
        optimizer = torch.optim.Adam(module.parameters(), 0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    module.configure_optimizers = optimizers
    run = trainer(callback, num_sanity_val_steps=0)
    run.fit(module, callback.wrap(pools()), pools(rows=12))
    assert module.validated == loop.ends
    assert run.optimizers[0].param_groups[0]["lr"] == 0.05 / 4


class Log(lightning.loggers.logger.Logger):
    """Keeps what is logged."""

    name, version = "log", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args):
        pass


def test_metrics_are_those_of_the_pools_read_since():
    loop, module, log = plain(pools(), accumulate=2), Module(weights=True), Log()
    callback = sifting(module, weights=True)
    run = trainer(callback, accumulate_grad_batches=2, logger=log, log_every_n_steps=2)
    run.fit(module, callback.wrap(pools()))
    rows = {step: row for step, row in log.rows if "sift/keep" in row}
    assert sorted(rows) == list(range(1, run.global_step, 2)), "every second step"
    first = ps.Meter()
    for info in loop.infos[:4]:
        first.update(info)
    for name in ("keep", "loss", "kept_loss", "threshold", "nonfinite"):
        assert rows[1][f"sift/{name}"] == pytest.approx(first.read()[name])
    whole = ps.Meter()
    for info in loop.infos[loop.ends[0] : loop.ends[1]]:
        whole.update(info)
    assert float(run.callback_metrics["sift/kept_loss_epoch"]) == pytest.approx(whole.read()["kept_loss"])


class DataModule(lightning.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.asked = 0

    def train_dataloader(self):
        self.asked += 1
        return pools()

    def val_dataloader(self):
        return pools(rows=12)


def test_a_data_module_is_wrapped_in_a_copy():
    loop, module, source = plain(pools()), Module(weights=True), DataModule()
    callback = sifting(module, weights=True)
    wrapped = callback.wrap(source)
    trainer(callback, num_sanity_val_steps=0).fit(module, datamodule=wrapped)
    same(module, loop)
    assert module.validated == loop.ends
    assert isinstance(wrapped, DataModule) and source.train_dataloader().__class__ is torch.utils.data.DataLoader


def test_a_loader_made_anew_each_epoch_keeps_the_state():
    loop, module, source = plain(pools()), Module(weights=True), DataModule()
    callback = sifting(module, weights=True)
    trainer(callback, reload_dataloaders_every_n_epochs=1, limit_val_batches=0).fit(
        module, datamodule=callback.wrap(source)
    )
    same(module, loop)


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_rules_without_weights_leave_the_batches_as_they_are(kind):
    rule = ps.relative(keep=0.6)
    loop, module = plain(pools(kind=kind), rule=rule), Module()
    callback = sifting(module, rule)
    trainer(callback).fit(module, callback.wrap(pools(kind=kind)))
    same(module, loop)


def ddp():
    loop, module = plain(pools()), Module(weights=True)
    callback = sifting(module, weights=True)
    trainer(callback, strategy="ddp", devices=1).fit(module, callback.wrap(pools()))
    same(module, loop)


def test_ddp_scores_the_inner_module():
    """In a process of its own, for Lightning leaves a process group and its environment behind."""
    code = "import torch; torch.set_num_threads(1); from tests.integrations import test_lightning; test_lightning.ddp()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_the_other_import_name():
    other = pytest.importorskip("pytorch_lightning")
    body = {name: value for name, value in vars(Module).items() if callable(value) and name != "__init__"}
    loop = plain(pools())

    def begin(self):
        other.LightningModule.__init__(self)
        self.net, self.mode, self.schedule, self.estimate, self.ignores = net(), True, None, False, False
        self.ids, self.rates, self.validated = [], [], []

    module = type("Other", (other.LightningModule,), {**body, "__init__": begin})()
    callback = sifting(module, weights=True)
    run = other.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    run.fit(module, callback.wrap(pools()))
    same(module, loop)


def test_a_twin_leaves_out_those_who_train_the_module():
    module = Module()
    module.inner = Module()
    module.trainer = module.inner.trainer = trainer()
    module._fabric, module._fabric_optimizers = object(), [torch.optim.Adam(module.parameters())]
    twin = Twin(module, per_sample)
    for copied in (twin.model, twin.model.inner):
        assert copied._trainer is None and copied._fabric is None and not copied._fabric_optimizers
    assert module._trainer is module.inner._trainer is not None, "and the module keeps them"
    batch = next(iter(pools()))
    expected = per_sample(module.eval(), batch)
    assert torch.equal(ps.batched(module, per_sample)(ps.live(module), batch), expected.detach())


# Errors, each with its cure.


def fit(module, callback, loader=None, **flags):
    trainer(callback, **{"max_epochs": 1, **flags}).fit(module, callback.wrap(loader or pools()))


def test_a_loss_that_leaves_the_weights_out_is_refused():
    module = Module(weights=True, ignores=True)
    with pytest.raises(ValueError, match="no gradient reached them, so the loss leaves them out; in training_step"):
        fit(module, sifting(module, weights=True))
    assert len(module.ids) == 1
    module = Module(weights=True, ignores=True)
    fit(module, sifting(module, ps.relative(keep=0.6), weights=True))  # weights of 1 may be left out
    with pytest.raises(ValueError, match=r'nothing has read them.*pass weights="name"'):
        fit(Module(), sifting(module))


def test_the_probe_of_the_weights_ends_with_the_first_batch_that_answers():
    module = Module(weights="w")
    seen, step = [], module.training_step
    module.training_step = lambda batch, batch_idx: (seen.append(batch["w"].requires_grad), step(batch, batch_idx))[1]
    fit(module, sifting(module, weights="w"), pools(kind="dict"))
    assert seen[0] and not any(seen[1:])


def test_what_is_sifted_already_is_refused():
    callback = sifting(Module())
    once = callback.wrap(pools())
    for loader in (once, ps.SiftingDataLoader(pools(), None, ps.uniform(keep=0.5), params={})):
        with pytest.raises(ValueError, match="sifted already"):
            callback.wrap(loader)


def test_a_one_shot_iterator_and_a_wrong_setting_are_refused_at_once():
    with pytest.raises(ValueError, match="one-shot iterator"):
        sifting(Module()).wrap(iter(pools()))
    with pytest.raises(TypeError, match="there is no setting keeps"):
        sifting(Module(), keeps=0.5)


def test_callback_and_loader_belong_together():
    module = Module()
    with pytest.raises(ValueError, match=r"is missing; Trainer\(callbacks"):
        trainer().fit(module, sifting(module).wrap(pools()))
    with pytest.raises(ValueError, match=r"is not sifted; give fit\(\) what sifting.wrap"):
        trainer(sifting(module)).fit(module, pools())


def test_bare_tensors_need_a_container():
    module = Module()
    callback = door.SiftingCallback(lambda params, batch: batch[:, 0], ps.relative(keep=0.5), batch_size=2)
    with pytest.raises(ValueError, match=r"a batch that is a Tensor .* pass weights=True"):
        fit(module, callback, torch.utils.data.DataLoader(torch.rand(8, 2), 4))


def test_a_rule_that_keeps_nothing_ends(monkeypatch):
    module = Module()
    callback = sifting(module, ps.delay(ps.threshold(1e9), steps=len(pools())))
    with pytest.raises(ValueError, match="passes over the loader fill no batch"):
        fit(module, callback, max_epochs=9)


def test_what_sifting_cannot_do_is_refused_before_the_first_batch():
    module = Module()
    with pytest.raises(ValueError, match="overfit_batches repeats"):
        fit(module, sifting(module), overfit_batches=2)
    callback, fake = sifting(module), SimpleNamespace(strategy=object(), overfit_batches=0, world_size=2)
    fake.limit_train_batches = 1.0
    with pytest.raises(ValueError, match="limit_train_batches=n"):
        callback.setup(fake, module, "fit")
    fake.strategy = type("FSDPStrategy", (), {})()
    with pytest.raises(ValueError, match="FSDPStrategy shards"):
        callback.setup(fake, module, "fit")
    module.training_step = lambda dataloader_iter: None
    with pytest.raises(ValueError, match="dataloader_iter"):
        fit(module, sifting(module))


@pytest.mark.parametrize("kind", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_a_strategy_whose_parameters_cannot_be_scored_is_refused(kind):
    """The first two keep them in a form of their own; the third may split rows of weights, not only samples."""
    module, fake = Module(), SimpleNamespace(overfit_batches=0, world_size=4, limit_train_batches=2)
    fake.val_check_interval = 1.0
    made = type("Mine", (getattr(lightning.strategies, kind),), {"device_mesh": {"tensor_parallel": Mesh(2)}})
    fake.strategy = made.__new__(made)
    with pytest.raises(ps.SiftError, match=r"data_parallel_size=[n4], tensor_parallel_size=1"):
        sifting(module).setup(fake, module, "fit")
    if kind == "ModelParallelStrategy":
        made.device_mesh = {"tensor_parallel": Mesh(1)}
        sifting(module).setup(fake, module, "fit")


class Mesh:
    """So many ranks."""

    def __init__(self, ranks):
        self.size = lambda: ranks


def test_progress_needs_a_budget():
    module = Module(weights=True)
    callback = sifting(module, weights=True)
    fit(module, callback, limit_train_batches=2)
    with pytest.raises(ValueError, match="let the schedule count steps"):
        _ = callback.progress


def test_ranks_need_rows_of_their_own():
    with pytest.raises(ValueError, match="sampler=DistributedSampler"):
        door.callback._distributed(torch.utils.data.DataLoader(data(), 4))
    door.callback._distributed(pools())


def test_another_number_of_ranks_is_refused():
    callback = sifting(Module())
    callback._trainer = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match="saved by 1 ranks, and there are 2"):
        callback.load_state_dict({"ranks": 1, "loader": {}})


def test_a_rank_takes_its_own_state():
    callback = sifting(Module())
    callback._trainer = SimpleNamespace(world_size=2, global_rank=1)
    callback.load_state_dict({"ranks": 2, "loader": {"rng": torch.arange(6).reshape(2, 3)}})
    mine = callback._saved["rng"]
    assert mine.tolist() == [3, 4, 5] and mine.storage_offset() == 0, "set_rng_state crashes on a view"


def test_an_old_lightning_is_named():
    with pytest.raises(ImportError, match=r"lightning.pytorch 1.9.5 is too old, puresift needs"):
        door.callback._new_enough("lightning.pytorch", "1.9.5")
    door.callback._new_enough("lightning.pytorch", "2.6.0.dev1")
