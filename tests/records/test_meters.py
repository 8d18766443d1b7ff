"""Infos to numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift.infos import join
from tests import laws
from tests.strategies import losses, seeds


def info(values, seed=0):
    noise = ps.keys.uniform(ps.key(seed), 2 * len(values)).split(len(values)) if len(values) else [values, values]
    odds = ps.Odds(noise[0], noise[1] + 0.5)
    return ps.Info(values, odds, ps.bernoulli(ps.key(seed), noise[0]), {"nonfinite": torch.tensor([0])})


@given(pools=st.lists(losses(), min_size=1, max_size=4), seed=seeds)
def test_a_meter_over_pools_is_the_summary_of_the_join(pools, seed):
    infos = [info(pool, seed) for pool in pools]
    meter = ps.Meter()
    for part in infos:
        meter.update(part)
    whole = ps.summarize(join(infos))
    assert meter.read() == pytest.approx(whole, nan_ok=True, rel=1e-5)


def test_the_numbers_are_what_they_say():
    odds = ps.Odds(torch.tensor([0.2, 0.4, 0.9, 1.0]), torch.tensor([1.0, 1.0, 2.0, 1.0]))
    mask = torch.tensor([False, True, True, True])
    one = ps.Info(torch.tensor([1.0, 2.0, 4.0, math.nan]), odds, mask, {"nonfinite": torch.tensor([1])})
    assert ps.summarize(one) == pytest.approx(
        {
            "seen": 4,
            "scored": 4,
            "kept": 3,
            "keep": 0.75,
            "planned": 0.625,
            "loss": 7 / 3,
            "kept_loss": 3.0,
            "threshold": 2.0,
            "ess": 16 / 6,
            "nonfinite": 1,
        }
    )


def test_a_meter_hands_its_sums_to_any_callable_and_starts_afresh():
    handed = []
    pools = [info(torch.arange(4.0) + at, at) for at in range(5)]
    governed = [{"phi": torch.tensor([at / 8]), "sifting": torch.tensor([at > 0])} for at in range(5)]
    meter = ps.Meter(handed.append, every=2)
    for at, (pool, more) in enumerate(zip(pools, governed, strict=True)):
        meter.update(pool._replace(extra={**pool.extra, **more}), torch.tensor(10 + at))
    assert [scalars["sift/pool"] for scalars in handed] == [11.0, 13.0]
    meter.flush()
    meter.flush()
    assert [scalars["sift/pool"] for scalars in handed] == [11.0, 13.0, 14.0]
    assert [scalars["sift/phi"] for scalars in handed] == [1 / 8, 3 / 8, 4 / 8]
    assert [scalars["sift/sifting"] for scalars in handed] == [0.5, 1.0, 1.0]
    for scalars, part in zip(handed, (pools[:2], pools[2:4], pools[4:]), strict=True):
        assert all(isinstance(value, float) and math.isfinite(value) for value in scalars.values())
        expected = {f"sift/{name}": value for name, value in ps.summarize(join(part)).items() if math.isfinite(value)}
        assert {name: scalars[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_without_a_step_a_meter_counts_pools():
    handed = []
    meter = ps.Meter(handed.append, every=1)
    meter.update(join([info(torch.arange(2.0)), info(torch.arange(2.0))]))
    meter.update(info(torch.full((2,), math.nan)))
    assert [scalars["sift/pool"] for scalars in handed] == [2.0, 3.0]
    assert "sift/loss" in handed[0] and "sift/loss" not in handed[1], "loggers get no NaN"


def test_a_tensorboard_writer_takes_the_documented_line(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", exc_type=ImportError)
    with tensorboard.SummaryWriter(tmp_path) as writer:
        meter = ps.Meter(lambda s: [writer.add_scalar(n, s[n], int(s["sift/pool"])) for n in s], every=1)
        meter.update(info(torch.arange(4.0)), 7)
    assert any(path.stat().st_size for path in tmp_path.iterdir())


def test_a_meter_refuses_what_cannot_be_called():
    with pytest.raises(ValueError, match=r"log must be a callable that takes a dict, such as run\.log, got str"):
        ps.Meter("wandb")
    with pytest.raises(ValueError, match="every must be a whole number >= 1, got 0"):
        ps.Meter(print, every=0)


def test_nothing_seen_is_nan_not_an_error():
    empty = join([])
    assert laws.equal(join([empty, empty])._replace(extra={}), empty)
    summary = ps.summarize(empty)
    assert summary["seen"] == 0
    assert math.isnan(summary["loss"]) and math.isnan(summary["threshold"])
