"""The options beside the published API, the warnings that name them, what the loader takes, and what it logs."""

import logging
import math
import re
import warnings

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import puresift as ps
from puresift.integrations.smart_sifting import SiftConfigValidationException
from puresift.integrations.smart_sifting.dataloader import ruling
from puresift.integrations.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from puresift.integrations.smart_sifting.sift_config.sift_configs import (
    LossConfig,
    RelativeProbabilisticSiftConfig,
    SiftingBaseConfig,
)

GUESSING = "ignore:the rule ranks losses while their mean"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def config(delay=0, beta=1.0, history=64, **options):
    return RelativeProbabilisticSiftConfig(beta, history, LossConfig(SiftingBaseConfig(sift_delay=delay)), **options)


class Given:
    """The losses are the batches' own, times a factor that falls."""

    def __init__(self, fall=1.0):
        self.factor, self.fall = 1.0, fall

    def loss(self, model, transformed_batch, original_batch=None):
        self.factor *= self.fall
        x = original_batch["x"] if isinstance(original_batch, dict) else original_batch
        return x[:, 0] * self.factor


def loader_of(batches, sift_config=None, loss=None, **settings):
    return SiftingDataloader(
        sift_config or config(), batches, model=nn.Linear(1, 1), loss_impl=loss or Given(), **settings
    )


def losses(pools, mean=0.7, rows=16):
    """Pools around a mean loss."""
    noise = ps.keys.uniform(ps.key(1), pools * rows).reshape(pools, rows, 1)
    return list(mean * (0.9 + 0.2 * noise))


def told(loader, passes=1):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sizes = [len(batch) for _ in range(passes) for batch in loader]
    return [str(one.message) for one in caught], sum(sizes)


# The gate


@pytest.mark.parametrize("classes", [None, 2])
def test_the_gate_keeps_everything_until_the_mean_loss_has_fallen(classes):
    high, low = losses(12), losses(12, mean=0.2)
    _, kept = told(loader_of(high, config(gate=True, classes=classes)))
    assert kept == 12 * 16
    messages, kept = told(loader_of(high + low, config(gate=True, classes=classes)))
    assert 17 * 16 <= kept <= 20 * 16, "the average takes two pools to fall, and half of the last ten is kept"
    assert messages == []


def test_the_gate_is_the_cores_own():
    """Behind the delay, around what ranks, as a reader would write it."""
    data = losses(12) + losses(30, mean=0.2)
    loader = loader_of(data, config(delay=2, gate=True, classes=2, hold=True, beta=2.0))
    ours = torch.cat(list(loader))
    rule = ps.gate(ps.hold(ps.relative(beta=2.0, history=64), keep=1 / 3), classes=2)
    sifter = ps.sifter(lambda params, x: x[:, 0], ps.delay(rule, steps=2), batch_size=16, draw=ps.systematic)
    theirs = [sifted.batch for sifted in ps.sift(sifter, sifter.init(ps.key(3), data[0]), {}, data)]
    assert torch.equal(ours, torch.cat(theirs))


def test_without_it_a_script_is_told_once_and_why():
    loader = loader_of(losses(40))
    messages, kept = told(loader, passes=2)
    assert kept < 60 * 16
    (text,) = messages
    about = r"0\.(69|70)\d?"
    assert re.search(f"their mean is {about}, not below 0.8 of the {about} of the first 8", text)
    assert "Pass gate=True to RelativeProbabilisticSiftConfig" in text and "puresift.gate" in text


def test_known_classes_tell_at_the_first_pool():
    (text,) = told(loader_of(losses(1), config(classes=2)))[0]
    assert "not below 0.8 * ln(2)" in text
    assert told(loader_of(losses(1, mean=2.0), config(classes=1000)))[0] == []


QUIET = {
    "losses fall": (losses(4) + losses(20, mean=0.2), config()),
    "no classifier guesses at such a loss": (losses(20, mean=0.8 * math.log(2) - 0.1), config()),
    "nothing is ranked yet": (losses(20), config(delay=99)),
    "too few pools to know": (losses(8), config()),
    "the gate is on": (losses(20), config(gate=True)),
}


@pytest.mark.parametrize("name", QUIET)
def test_it_is_not_told_where(name):
    assert told(loader_of(*QUIET[name]))[0] == []


# The share


@pytest.mark.filterwarnings(GUESSING)
def test_a_collapse_names_the_option_that_cures_it():
    falling = losses(70)
    with pytest.warns(UserWarning, match=r"less than half of the 0\.5 that it planned.*pass hold=True to Relative"):
        collapsed = sum(len(batch) for batch in loader_of(falling, config(history=2000), Given(0.9)))
    assert collapsed < 0.25 * 70 * 16
    messages, kept = told(loader_of(falling, config(history=2000, hold=True), Given(0.9)))
    assert not any("planned" in message for message in messages)
    assert kept == 70 * 8


def test_a_held_share_is_the_same_on_every_rank():
    """So that ranks end their epochs together: the option that the rank warning names."""
    assert "hold=True" in ruling.RANKS
    counts = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        counts.append([len(batch) for batch in loader_of(losses(8), config(hold=True))])
    assert counts[0] == counts[1] == [16] * 4


@pytest.mark.parametrize("option", [{"gate": 1}, {"hold": "yes"}, {"classes": 1}, {"classes": 2.5}])
def test_a_wrong_option_is_refused(option):
    with pytest.raises(SiftConfigValidationException, match=f"{next(iter(option))} must be"):
        config(**option)


# What it takes


def test_scalars_of_numpy_and_torch_are_numbers():
    base = SiftingBaseConfig(numpy.int64(3), numpy.bool_(True))
    given = RelativeProbabilisticSiftConfig(numpy.float32(0.5), torch.tensor(100), LossConfig(base), hold=numpy.True_)
    assert given == RelativeProbabilisticSiftConfig(0.5, 100, LossConfig(SiftingBaseConfig(3, True)), hold=True)
    assert type(given.beta_value) is float and type(base.sift_delay) is int
    with pytest.raises(SiftConfigValidationException, match="sift_delay must be a whole number"):
        SiftingBaseConfig(numpy.float64(0.5))
    with pytest.raises(SiftConfigValidationException, match="loss_history_length must be a whole number"):
        RelativeProbabilisticSiftConfig(1, numpy.array([100]))


@pytest.mark.parametrize("whole", [None, True, 0.5, "train", torch.tensor(3), numpy.int64(3)], ids=repr)
def test_what_belongs_to_the_whole_batch_passes_through(whole):
    pools = [{"before": whole, "x": pool, "after": None} for pool in losses(4)]
    got = list(loader_of(pools, config(beta=0.01)))
    assert len(got) >= 3
    for batch in got:
        assert list(batch) == ["before", "x", "after"]
        assert batch["before"] is whole and batch["after"] is None and batch["x"].shape == (16, 1)


def test_a_column_of_losses_is_one_loss_a_row():
    class Column(Given):
        def loss(self, *given):
            return super().loss(*given)[:, None]

    torch.manual_seed(3)
    ours = list(loader_of(losses(6), loss=Column()))
    torch.manual_seed(3)
    assert torch.equal(torch.cat(ours), torch.cat(list(loader_of(losses(6)))))


def test_the_loader_has_the_wrapped_ones_attributes():
    data = DataLoader(torch.zeros(10, 1), 4, drop_last=True, num_workers=2)
    loader = loader_of(data)
    for name in ("dataset", "num_workers", "drop_last", "collate_fn", "batch_size", "sampler", "batch_sampler"):
        assert getattr(loader, name) is getattr(data, name) or getattr(loader, name) == getattr(data, name)
    bare = loader_of(losses(2))
    assert not hasattr(bare, "dataset") and (bare.num_workers, bare.drop_last, bare.collate_fn) == (0, False, None)


def test_accelerate_does_not_lose_the_sifting_when_it_resumes():
    accelerate = pytest.importorskip("accelerate")
    with pytest.raises(ps.SiftError, match="ignore_data_skip=True"):
        accelerate.skip_first_batches(loader_of(DataLoader(torch.zeros(10, 1), 4)), 1)


# What is logged

REGEXES = {  # as notebooks give them to a training job
    "seen": r"num_orig_samples_seen: ([0-9.]+)",
    "kept": r"num_orig_samples_kept: ([0-9.]+)",
    "size": r"Batch size for next sifted batch: ([0-9.]+)",
    "latency": r"sifted_batch_creation_latency: ([0-9.]+)",
    "function": r"func:.* latency: ([0-9.]+)",
    "relevance": r"relevance_values: \[([0-9.]+)",
}


@pytest.mark.filterwarnings(GUESSING)
def test_the_published_regexes_match_without_any_set_up(capsys):
    loader = loader_of(losses(20))
    batches = list(loader)
    lines = capsys.readouterr().err.splitlines()
    found = {name: [m for m in (re.search(regex, line) for line in lines) if m] for name, regex in REGEXES.items()}
    assert all(len(found[name]) == len(batches) for name in ("seen", "kept", "size", "latency"))
    assert len(found["relevance"]) == 20 and len(found["function"]) >= len(batches)
    sums = {name: sum(float(match[1]) for match in matches) for name, matches in found.items()}
    assert sums["size"] == 16 * len(batches)
    assert 19 * 16 <= sums["seen"] <= 20 * 16 and sums["kept"] <= loader.meter.read()["kept"]
    assert all(line.count("num_orig_samples_seen") <= 1 for line in lines)


def test_each_sample_is_named_with_its_loss_and_its_fate(capsys):
    data = losses(4)
    loader = loader_of(data, config(delay=1), log_batch_data=True)
    list(loader)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pool ")]
    assert lines[:16] == [f"pool 0, sample {n}: not scored, kept" for n in range(16)]
    assert len(lines) == 64
    values = [re.fullmatch(r"pool (\d+), sample (\d+): loss (\S+), (kept|sifted out)", line) for line in lines[16:]]
    for place, match in enumerate(values):
        number, sample = divmod(place + 16, 16)
        assert (int(match[1]), int(match[2])) == (number, sample)
        assert float(match[3]) == pytest.approx(float(data[number][sample]), abs=1e-4)
    assert sum(match[4] == "kept" for match in values) + 16 == loader.meter.read()["kept"]


def test_nothing_prints_nan_during_the_delay(capsys, caplog):
    caplog.set_level(logging.INFO, "smart_sifting.dataloader.sift_dataloader")
    list(loader_of(losses(3), config(delay=9), log_batch_data=True))
    shown = capsys.readouterr().err + caplog.text
    assert "num_orig_samples_seen: 16" in shown and "kept 16 of 16 samples" in shown
    assert "nan" not in shown and "relevance_values" not in shown


def test_the_lines_can_be_silenced(capsys):
    logger = logging.getLogger("smart_sifting.metrics")
    logger.setLevel(logging.WARNING)
    try:
        list(loader_of(losses(3)))
    finally:
        logger.setLevel(logging.INFO)
    assert capsys.readouterr().err == ""
