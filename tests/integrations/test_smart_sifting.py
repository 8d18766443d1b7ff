"""Smart Sifting's names: the published API's scripts run, and keep what the pure core keeps."""

import logging
import os
import subprocess
import sys
from collections import UserDict, defaultdict, namedtuple
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import puresift as ps
from puresift.buffers import chunks
from puresift.integrations.smart_sifting import (
    LossImplementationNotProvidedException,
    SiftConfigValidationException,
    UnsupportedDataFormatException,
    register,
)
from puresift.integrations.smart_sifting.__main__ import main
from puresift.integrations.smart_sifting.data_model.data_model_interface import SiftingBatch, SiftingBatchTransform
from puresift.integrations.smart_sifting.data_model.list_batch import ListBatch
from puresift.integrations.smart_sifting.data_model.tensor_batch import TensorBatch
from puresift.integrations.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from puresift.integrations.smart_sifting.integrations.trainer import enable_sifting
from puresift.integrations.smart_sifting.loss.abstract_sift_loss_module import Loss
from puresift.integrations.smart_sifting.sift_config.sift_configs import (
    LossConfig,
    RelativeProbabilisticSiftConfig,
    SiftingBaseConfig,
)

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = {
    "sift_config.sift_configs": "RelativeProbabilisticSiftConfig LossConfig SiftingBaseConfig",
    "dataloader.sift_dataloader": "SiftingDataloader",
    "loss.abstract_sift_loss_module": "Loss",
    "data_model.data_model_interface": "SiftingBatch SiftingBatchTransform",
    "data_model.list_batch": "ListBatch",
    "data_model.tensor_batch": "TensorBatch",
    "metrics.lightning": "TrainingMetricsRecorder",
    "integrations.trainer": "enable_sifting",
}
# Lightning and what it calls; each is theirs, and none is about the loader.
lightning = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),  # lightning on torch 2.13
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*trainer.estimated_stepping_batches is:UserWarning"),  # ours: tested apart
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


class Squares(Loss):
    """Per-sample losses of a linear model; remembers what it was given."""

    def __init__(self):
        self.seen = []

    def loss(self, model, transformed_batch, original_batch=None):
        self.seen.append((transformed_batch, original_batch))
        x = original_batch[0] if isinstance(original_batch, list | tuple) else original_batch
        return model(x).square().sum(1)


def config(delay=0, beta=1.0, history=64, repeat=False):
    base = SiftingBaseConfig(sift_delay=delay, repeat_delay_per_epoch=repeat)
    return RelativeProbabilisticSiftConfig(beta, history, LossConfig(base))


def loader_of(batches, model=None, loss=None, **settings):
    settings = {"sift_config": config(), **settings}
    return SiftingDataloader(
        orig_dataloader=batches, model=model or nn.Linear(2, 1), loss_impl=loss or Squares(), **settings
    )


# Names


@pytest.mark.parametrize("module", NAMES)
def test_every_published_name_is_one_object_under_both_packages(module):
    register()
    ours = import_module(f"puresift.integrations.smart_sifting.{module}")
    alias = import_module(f"smart_sifting.{module}")
    assert alias is ours and ours.__spec__.name == ours.__name__
    for name in NAMES[module].split():
        assert getattr(alias, name) is getattr(ours, name)


def test_only_what_exists_is_registered():
    register()
    with pytest.raises(ModuleNotFoundError, match=r"smart_sifting\.nothing"):
        import_module("smart_sifting.nothing")


def test_another_smart_sifting_is_not_overwritten(monkeypatch):
    monkeypatch.setitem(sys.modules, "smart_sifting", type(sys)("smart_sifting"))
    with pytest.raises(ImportError, match="another smart_sifting is imported already"):
        register()


# Configurations


def test_dicts_configure_as_objects_do():
    base = {"sift_delay": 7, "repeat_delay_per_epoch": True}
    given = {"beta_value": 0.5, "loss_history_length": 500, "loss_based_sift_config": {"sift_config": base}}
    loader = loader_of([], sift_config=given)
    assert loader.sift_config == RelativeProbabilisticSiftConfig(0.5, 500, LossConfig(SiftingBaseConfig(7, True)))


GOOD = {"beta_value": 0.5, "loss_history_length": 500}
WRONG = {
    "unknown key": ({**GOOD, "beta": 1}, "no key 'beta'.* has beta_value, loss_history_length, loss_based"),
    "unknown inner key": ({**GOOD, "loss_based_sift_config": {"delay": 1}}, "no key 'delay'.* LossConfig has sift_con"),
    "unknown innermost key": (
        {**GOOD, "loss_based_sift_config": {"sift_config": {"delay": 1}}},
        "no key 'delay'.* has sift_delay, repeat_delay_per_epoch",
    ),
    "missing key": ({"beta_value": 1}, "lacks the key 'loss_history_length'"),
    "not a config": (0.5, "must be a RelativeProbabilisticSiftConfig or a dict"),
    "inner not a config": ({**GOOD, "loss_based_sift_config": 3}, "loss_based_sift_config must be a LossConfig"),
    "beta of zero": ({**GOOD, "beta_value": 0}, "beta_value must be a positive number, got 0"),
    "beta a word": ({**GOOD, "beta_value": "1"}, "beta_value must be a positive number"),
    "no history": ({**GOOD, "loss_history_length": 0}, "loss_history_length must be a whole number >= 1"),
    "part of a delay": (
        {**GOOD, "loss_based_sift_config": {"sift_config": {"sift_delay": 0.5}}},
        "sift_delay must be a whole number >= 0",
    ),
    "no truth value": (
        {**GOOD, "loss_based_sift_config": {"sift_config": {"repeat_delay_per_epoch": 1}}},
        "repeat_delay_per_epoch must be True or False",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_refused_in_words(name):
    given, words = WRONG[name]
    with pytest.raises(SiftConfigValidationException, match=words):
        loader_of([], sift_config=given)


def test_the_other_arguments_are_checked_too():
    with pytest.raises(SiftConfigValidationException, match="got NoneType"):
        SiftingDataloader(config(), [], loss_impl=Squares())
    with pytest.raises(SiftConfigValidationException, match="orig_dataloader must be a loader"):
        loader_of(3)
    with pytest.raises(SiftConfigValidationException, match="batch_format_index must be 0 or 1"):
        loader_of([], batch_format_index=2)
    with pytest.raises(SiftConfigValidationException, match=r"batch_transforms must be an object with transform\(\)"):
        loader_of([], batch_transforms=Pairs)


# The loss


class Empty(Loss):
    pass


@pytest.mark.parametrize("loss", [None, Empty(), Squares, nn.MSELoss()], ids=["none", "abstract", "class", "other"])
def test_a_missing_loss_is_refused_at_once(loss):
    with pytest.raises(LossImplementationNotProvidedException):
        SiftingDataloader(config(), [], model=nn.Linear(1, 1), loss_impl=loss)
    with pytest.raises(LossImplementationNotProvidedException):
        enable_sifting(None, config(), loss=loss) if loss is None else Loss().loss(None, None)


def test_a_loss_that_is_reduced_is_named():
    class Mean(Squares):
        def loss(self, *given):
            return super().loss(*given).mean()

    with pytest.raises(ValueError, match='pass reduction="none"'):
        next(iter(loader_of(torch.zeros(8, 2).split(4), loss=Mean())))


# Formats: with the delay on, a loader gives back what it reads

Pair = namedtuple("Pair", "x y")
x, y = torch.arange(8.0).reshape(4, 2), torch.arange(4)
FORMATS = {
    "tensor": (x, None),
    "tensor, features first": (x.T.contiguous(), 1),
    "list": ([x, y], None),
    "tuple": ((x, y), None),
    "named tuple": (Pair(x, y), None),
    "dict": ({"x": x, "y": y}, None),
    "mapping": (UserDict({"x": x, "y": y}), None),
    "dict with texts": ({"x": x, "text": ["a", "b", "c", "d"]}, None),
    "nested dict": ({"in": {"x": x, "mask": y > 1}, "y": y}, None),
    "lists of numbers": ([[1, 2, 3, 4], [5, 6, 7, 8]], None),
    "samples": ([(x[i], int(y[i])) for i in range(4)], None),
    "ragged samples": ([torch.ones(n) for n in range(1, 5)], None),
    "as many features": ([x, y, y, y], 1),
    "as many samples": ([x, x + 1, x + 2, x + 3], 0),
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict | UserDict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


class Source(list):
    """Batches, with the size a DataLoader would tell."""

    batch_size = 4


@pytest.mark.parametrize("name", FORMATS)
def test_batches_come_back_as_they_went_in(name):
    batch, index = FORMATS[name]
    got = list(loader_of(Source([batch, batch]), sift_config=config(delay=9), batch_format_index=index))
    assert len(got) == 2
    assert all(type(each) is type(batch) and same(each, batch) for each in got)


UNFIT = {
    "an object": ([object()], "Batches of type object are not supported by default; write a SiftingBatchTransform"),
    "a number": ([torch.tensor(1.0)], "Batches of type Tensor are not supported"),
    "nothing": ([[]], "Unable to index the batch of type list"),
    "both dimensions": (
        [[x, y, y, y]],
        "Both dimension 0 and dimension 1 match the batch size of 4.*format_index",
    ),
    "neither dimension": ([[torch.ones(2), torch.ones(3)]], "Batch size 4 does not match dimension 0 or dimension 1"),
    "unequal entries": ([{"x": x, "y": y[:3]}], "has 3 entries where 4 rows are"),
    "what has no rows": ([{"x": x, "epoch": 1}], "has a int where 4 rows are"),
    "other shapes later": ([x, x[:, :1]], "pad every batch to one shape, or pass batch_transforms= with a ListBatch"),
    "another structure later": ([[x, y], [x]], "must keep the structure of the first one"),
    "more rows later": ([x, torch.cat([x, x])], "a batch of 8 rows came after a first one of 4"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_format_that_cannot_be_sifted_is_refused_in_words(name):
    batches, words = UNFIT[name]
    with pytest.raises(UnsupportedDataFormatException, match=words):
        list(loader_of(Source(batches), sift_config=config(delay=9)))


class Pairs(SiftingBatchTransform):
    """Rows of a batch that is no tree at all, as lists or tensors; keeps the labels or not."""

    def __init__(self, kind, labels=True):
        self.kind, self.labels = kind, labels

    def transform(self, batch):
        inputs, labels = batch.x, batch.y
        if self.kind is ListBatch:
            inputs, labels = inputs.tolist(), labels.tolist()
        return self.kind(inputs, labels) if self.labels else self.kind(inputs)

    def reverse_transform(self, batch):
        inputs = torch.as_tensor(batch.inputs)
        return inputs, torch.as_tensor(batch.labels) if self.labels else batch.labels


class Opaque:
    def __init__(self, x, y):
        self.x, self.y = x, y


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("kind", [ListBatch, TensorBatch])
def test_a_transform_goes_there_and_back_and_the_loss_sees_both_ends(kind, labels):
    class Original(Squares):
        def loss(self, model, transformed_batch, original_batch=None):
            super().loss(model, transformed_batch, original_batch.x)
            return model(original_batch.x).square().sum(1)

    loss, batches = Original(), [Opaque(x, y), Opaque(x + 8, y + 4)]
    loader = loader_of(batches, loss=loss, batch_transforms=Pairs(kind, labels), sift_config=config(beta=1e-9))
    got = list(loader)
    assert same([inputs for inputs, _ in got], [x, x + 8])
    assert same([kept for _, kept in got], [y, y + 4] if labels else [None, None])
    transformed, original = loss.seen[1]
    assert isinstance(transformed, kind) and original is batches[1].x
    assert len(list(transformed)) == 1 + labels


def test_a_batch_class_of_ones_own_needs_attributes_only():
    class Triple(SiftingBatch):
        def __init__(self, a, b, c):
            self.a, self.b, self.c = a, b, c

    class Triples(SiftingBatchTransform):
        def transform(self, batch):
            return Triple(batch[:, 0], {"b": batch[:, 1]}, batch.tolist())

        def reverse_transform(self, batch):
            assert batch.c == torch.stack([batch.a, batch.b["b"]], 1).tolist()
            return torch.tensor(batch.c)

    assert same(list(loader_of([x, x], batch_transforms=Triples(), sift_config=config(delay=9))), [x, x])


def test_a_transform_must_give_a_sifting_batch():
    class Lists(SiftingBatchTransform):
        def transform(self, batch):
            return batch.tolist()

        def reverse_transform(self, batch):
            return batch

    with pytest.raises(UnsupportedDataFormatException, match=r"Lists.transform\(\) must return a Sifting.*got list"):
        list(loader_of([x], batch_transforms=Lists()))


# What is kept


def steps(batches, model, optimizer):
    for batch in batches:
        optimizer.zero_grad()
        model(batch[0]).square().mean().backward()
        optimizer.step()
        yield batch


@pytest.mark.parametrize(("delay", "cut"), [(0, False), (3, False), (0, True)])
def test_it_keeps_what_the_pure_core_keeps(delay, cut, monkeypatch):
    if cut:  # as rows of a megabyte would be
        monkeypatch.setattr(chunks, "SIZE", 1)
    data = TensorDataset(torch.randn(160, 2), torch.arange(160))
    shuffled = lambda: DataLoader(data, 16, shuffle=True, generator=torch.Generator().manual_seed(5))  # noqa: E731
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]

    loader = loader_of(shuffled(), models[0], sift_config=config(delay, beta=2.0, history=100))
    ours = [batch[1] for _ in range(3) for batch in steps(loader, models[0], optimizers[0])]

    score = ps.batched(models[1], lambda model, batch: model(batch[0]).square().sum(1))
    rule = ps.delay(ps.relative(beta=2.0, history=100), steps=delay)
    sifter, plain, theirs = ps.sifter(score, rule, batch_size=16), shuffled(), []
    state = sifter.init(ps.key(3), list(data[:16]))  # 3, the seed of the fixture
    for _ in range(3):
        stream = ps.sift(sifter, state, ps.live(models[1]), plain, skip=0)
        theirs += [batch[1] for batch in steps((sifted.batch for sifted in stream), models[1], optimizers[1])]
        state = stream.state
    assert len(ours) > 5
    assert same(ours, theirs)


@pytest.mark.parametrize(("beta", "keep"), [(0.25, 0.8), (0.5, 2 / 3), (1, 0.5), (2, 1 / 3), (3, 0.25)])
def test_the_published_table_of_beta_values_holds(beta, keep):
    loader = loader_of(torch.randn(6400, 2).split(64), sift_config=config(beta=beta, history=500))
    rows = sum(len(batch) for batch in loader)
    assert rows / 6400 == pytest.approx(keep, abs=0.04)
    assert loader.meter.read()["keep"] == pytest.approx(keep, abs=0.025)


@pytest.mark.parametrize(("repeat", "scored"), [(False, [2, 5, 5]), (True, [2, 2, 2])])
def test_delayed_batches_are_handed_through_unscored(repeat, scored):
    loss = Squares()
    loader = loader_of(torch.randn(20, 2).split(4), loss=loss, sift_config=config(delay=3, repeat=repeat))
    counts = []
    for _ in scored:
        before, epoch = len(loss.seen), list(loader)
        counts.append(len(loss.seen) - before)
        assert all(len(batch) == 4 for batch in epoch)
    assert counts == scored
    assert int(loader.state.rule.seen) == (5 if repeat else 15)


def test_rows_accumulate_until_a_batch_is_full():
    loader, kept = loader_of(torch.randn(42, 2).split(4)), 0
    for _ in range(3):
        sizes = [len(batch) for batch in loader]
        kept += sum(sizes)
        assert len(sizes) > 2 and set(sizes) == {4}
        assert int(loader.state.buffer.fill[0]) == loader.meter.read()["kept"] - kept < 4


def test_an_epoch_that_fills_no_batch_gives_a_short_one():
    loader = loader_of([torch.randn(16, 2)], sift_config=config(beta=1.0))
    for _ in range(3):
        (batch,) = loader
        assert 0 < len(batch) < 16
    assert int(loader.state.buffer.fill[0]) == 0


def test_a_history_shorter_than_a_batch_ranks_the_batch():
    sizes = [len(batch) for batch in loader_of([torch.randn(64, 2)] * 8, sift_config=config(history=10))]
    assert len(sizes) >= 2 and set(sizes) == {64}


def test_losses_that_are_not_finite_are_kept():
    rows = torch.ones(8, 2)
    rows[2] = torch.nan
    kept = torch.cat(list(loader_of([rows] * 8, sift_config=config(beta=3.0))))
    assert int(kept.isnan().any(1).sum()) >= len(kept) / 8


def test_the_model_and_the_global_generator_are_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))
    before, generator = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    list(loader_of(torch.randn(32, 2, generator=torch.Generator().manual_seed(0)).split(8), model))
    assert model.training and torch.equal(torch.get_rng_state(), generator)
    assert same(before, dict(model.state_dict()))


def test_a_mapping_that_cannot_be_made_out_of_a_dict_becomes_one():
    (batch,) = loader_of([defaultdict(list, x=x)], sift_config=config(delay=9))
    assert type(batch) is dict and same(batch, {"x": x})


def test_a_model_without_parameters_can_score():
    loader = loader_of(torch.randn(32, 2).split(8), nn.Identity())
    assert {len(batch) for batch in loader} == {8}


def test_ranks_draw_apart(monkeypatch):
    loader = loader_of([x])
    assert torch.equal(loader._key(), ps.key(3))
    monkeypatch.setattr("puresift.distributed.ranks.place", lambda: (1, 2))
    assert torch.equal(loader._key(), ps.keys.fold_in(ps.key(3), 1))


def test_batch_data_are_logged_on_request(caplog):
    caplog.set_level(logging.INFO, "smart_sifting.dataloader.sift_dataloader")
    list(loader_of(torch.randn(16, 2).split(8)))
    assert not caplog.records
    loader = loader_of(torch.randn(16, 2).split(8), log_batch_data=True)
    list(loader)
    kept, seen = (sum(record.args[i] for record in caplog.records) for i in (0, 1))
    assert (kept, seen) == (loader.meter.read()["kept"], 16)
    assert "losses sifted out: [" in caplog.text


def test_it_has_no_length_and_tells_the_epoch_to_the_loader_inside():
    class Epochs(Source):
        def set_epoch(self, epoch):
            self.epoch = epoch

    inner = Epochs([x])
    loader = loader_of(inner)
    loader.set_epoch(4)
    assert inner.epoch == 4 and loader.batch_size == 4
    with pytest.raises(TypeError):
        len(loader)


# The command


def test_the_command_answers_for_itself(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "SCRIPT ARGS" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert main([str(tmp_path / "none.py")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"puresift: there is no script {tmp_path / 'none.py'}"


def test_a_script_sees_its_arguments_and_its_neighbours(capsys, tmp_path):
    (tmp_path / "beside_it.py").write_text("word = 'neighbour'")
    script = tmp_path / "script.py"
    script.write_text("import sys, beside_it\nprint(__name__, sys.argv[1:], beside_it.word)\nsys.exit(7)")
    before = (sys.argv, sys.path)
    with pytest.raises(SystemExit) as ended:
        main([str(script), "--beta", "3"])
    assert ended.value.code == 7
    assert capsys.readouterr().out == "__main__ ['--beta', '3'] neighbour\n"
    assert (sys.argv, sys.path) == before


def test_a_script_that_misuses_the_api_gets_one_line(capsys, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from smart_sifting.sift_config.sift_configs import LossConfig\n\nLossConfig({'delay': 1})\n")
    assert main([str(script)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("puresift: script.py:3: SiftConfigValidationException: sift_config has no key 'delay'")


def test_the_processes_that_a_script_starts_know_the_names_too(capfd, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess, sys\n"
        "from smart_sifting.sift_config.sift_configs import SiftingBaseConfig\n"
        "print(SiftingBaseConfig(sift_delay=len(sys.argv)), flush=True)\n"
        "if len(sys.argv) == 1:\n    subprocess.run([sys.executable, sys.argv[0], 'again'], check=True)\n"
    )
    before = os.environ.get("PYTHONPATH")
    assert main([str(script)]) == 0
    delays = [f"SiftingBaseConfig(sift_delay={n}, repeat_delay_per_epoch=False)" for n in (1, 2)]
    assert capfd.readouterr().out.splitlines() == delays
    assert os.environ.get("PYTHONPATH") == before


def printed(capsys, *arguments):
    """The numbers in the last line that a script prints."""
    assert main([str(SCRIPTS / arguments[0]), *arguments[1:]]) == 0
    words = capsys.readouterr().out.splitlines()[-1].split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def test_the_list_script_learns(capsys):
    assert printed(capsys, "list_transform.py", "--epochs", "8")["loss"] < 0.6


# Trainers


@pytest.mark.filterwarnings(*[mark.args[0] for mark in lightning])
@pytest.mark.parametrize("transform", [["--transform"], []], ids=["tensors", "lists"])
def test_the_lightning_script_learns(capsys, tmp_path, transform):
    pytest.importorskip("pytorch_lightning")
    numbers = printed(capsys, "tensor_transform.py", "--strategy", "auto", "--folder", str(tmp_path), *transform)
    assert numbers["accuracy"] > 0.9  # a schedule made from an estimate of -1 steps would learn nothing
    assert numbers["seen"] == 3 * 256 and 0.35 < numbers["kept"] < 0.6
    assert numbers["steps"] <= 3 * 256 * numbers["kept"] / 16


@pytest.fixture
def linear():
    """A LightningModule of one step an epoch more or less, and what it saw."""
    pl = pytest.importorskip("pytorch_lightning")

    class Linear(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.estimate, self.rates = nn.Linear(2, 1), None, []

        def forward(self, batch):
            assert self._trainer is None or self.training  # the scoring twin knows no trainer
            return self.net(batch)

        def training_step(self, batch, index):
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return self(batch).square().mean()

        def configure_optimizers(self):
            self.estimate = self.trainer.estimated_stepping_batches
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=self.estimate)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def fit(model, loader, **settings):
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        settings |= dict.fromkeys(quiet, False)
        pl.Trainer(accelerator="cpu", devices=1, **settings).fit(model, loader)
        return model

    return Linear, fit


@pytest.mark.filterwarnings(*[mark.args[0] for mark in lightning[:2]])
def test_a_schedule_made_from_the_trainers_estimate_runs_over_the_steps_without_sifting(linear, tmp_path):
    kind, fit = linear
    model = kind()
    loader = loader_of(DataLoader(torch.randn(64, 2), 8), model, sift_config=config(delay=4))
    with pytest.warns(UserWarning, match="estimated_stepping_batches is 16, the steps of a run without sifting"):
        fit(model, loader, max_epochs=2, default_root_dir=tmp_path)
    assert model.estimate == 16
    assert 8 <= len(model.rates) < 16  # 4 of the delay, and about half of the other 12
    assert model.rates[:3] == pytest.approx([1, 15 / 16, 14 / 16])


@pytest.mark.filterwarnings(*[mark.args[0] for mark in lightning[:2]])
@pytest.mark.parametrize(("epochs", "steps"), [(-1, 11), (9, 3)])
def test_the_steps_that_a_script_sets_are_its_own(linear, tmp_path, epochs, steps):
    kind, fit = linear
    model = kind()
    loader = loader_of(DataLoader(torch.randn(64, 2), 8), model)
    fit(model, loader, max_epochs=epochs, max_steps=steps, default_root_dir=tmp_path)
    assert model.estimate == len(model.rates) == steps


@pytest.mark.filterwarnings(*[mark.args[0] for mark in lightning])
def test_the_recorder_keeps_a_dict_an_epoch(linear, tmp_path):
    kind, fit = linear
    model, recorder = kind(), import_module("smart_sifting.metrics.lightning").TrainingMetricsRecorder()
    loader = loader_of(DataLoader(torch.randn(64, 2), 8), model)
    fit(model, loader, max_epochs=3, callbacks=[recorder], default_root_dir=tmp_path)
    assert [epoch["epoch"] for epoch in recorder.metrics] == [0, 1, 2]
    assert [epoch["sift/seen"] for epoch in recorder.metrics] == [64, 64, 64]
    assert sum(epoch["steps"] for epoch in recorder.metrics) == len(model.rates)
    assert all(epoch["seconds"] > 0 and epoch["sift/kept_loss"] > epoch["sift/loss"] for epoch in recorder.metrics)


@pytest.mark.slow
def test_the_lightning_script_trains_on_two_ranks_and_ends(tmp_path):
    script = [str(SCRIPTS / "tensor_transform.py"), "--devices", "2", "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "puresift.integrations.smart_sifting", *script]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert run.returncode == 0, run.stderr
    words = run.stdout.splitlines()[-1].split()
    numbers = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    assert numbers["seen"] == 3 * 128  # each rank its half
    assert numbers["accuracy"] > 0.85


@pytest.mark.parametrize("epochs", [["--set_epochs"], []], ids=["epochs", "max_steps"])
def test_the_hugging_face_script_runs(capsys, tmp_path, epochs):
    pytest.importorskip("transformers")
    taken = printed(capsys, "enable_sifting.py", "--folder", str(tmp_path), *epochs)["steps"]
    assert (10 <= taken <= 22) if epochs else taken == 5  # two epochs of 16 batches, of which half is kept


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        return {"input_ids": torch.tensor([row % 9, 1]), "labels": row % 2}


class Entropy(Loss):
    def loss(self, model, transformed_batch, original_batch=None):
        return nn.functional.cross_entropy(model(**original_batch).logits, original_batch["labels"], reduction="none")


def hugging_face(folder, kind=None, **arguments):
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    arguments = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", **arguments}
    args = transformers.TrainingArguments(folder, per_device_train_batch_size=4, **arguments)
    return (kind or transformers.Trainer)(transformers.BertForSequenceClassification(bert), args, train_dataset=Rows())


def test_a_trainer_that_overrides_its_loader_sifts(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Sifting(transformers.Trainer):
        def get_train_dataloader(self):
            inner = super().get_train_dataloader()
            self.sifted = SiftingDataloader(config(), inner, model=self.model, loss_impl=Entropy())
            return self.sifted

    trainer = hugging_face(tmp_path, Sifting, max_steps=6)
    trainer.train()
    assert trainer.state.global_step == 6
    read = trainer.sifted.meter.read()
    assert read["seen"] >= 40 and read["keep"] < 0.8  # more than one pass, as ten batches of which half is kept


def test_epochs_are_counted_where_steps_are_not_set(tmp_path):
    trainer = hugging_face(tmp_path, num_train_epochs=3, max_steps=-1, gradient_accumulation_steps=2, learning_rate=1.0)
    with pytest.raises(ValueError, match="pass set_epochs=True to train for num_train_epochs"):
        enable_sifting(trainer, config(delay=1000), loss=Entropy())
    enable_sifting(trainer, config(delay=1000), loss=Entropy(), set_epochs=True)
    trainer.train()
    assert trainer.args.max_steps == trainer.state.global_step == 15  # nothing was sifted yet
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}
    assert trainer.state.log_history[-1]["epoch"] == 3
