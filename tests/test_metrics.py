"""Infos to numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift.metrics import join
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


def test_nothing_seen_is_nan_not_an_error():
    empty = join([])
    assert laws.equal(join([empty, empty])._replace(extra={}), empty)
    summary = ps.summarize(empty)
    assert summary["seen"] == 0
    assert math.isnan(summary["loss"]) and math.isnan(summary["threshold"])
