"""Far less kept than planned is told once, with the cure; what keeps its plan is left in peace."""

import warnings

import pytest
import torch

import puresift as ps
from puresift.stream.shares import POOLS, Shares


def run(rule, pools=POOLS + 10, fall=0.9, rows=16, resume=False):
    """A stream whose losses fall by a factor at each pool; how many warnings there were, and their text."""
    noise = ps.keys.uniform(ps.key(1), pools * rows).reshape(pools, rows) + 0.5
    data = [row * fall**number for number, row in enumerate(noise)]
    sifter = ps.sifter(lambda params, batch: batch, rule, batch_size=8)
    state = sifter.init(ps.key(0), data[0])
    if resume:
        state, _ = sifter.step(state, {}, data[0])
        data = data[1:]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in ps.sift(sifter, state, {}, data, skip=0):
            pass
    return [str(one.message) for one in caught]


SAID = {
    "relative": ps.relative(keep=0.5, history=1024),
    "after a delay": ps.delay(ps.relative(keep=0.5), steps=60),
    "a quantile": ps.threshold(quantile=0.5, history=1024),
    "behind an open gate": ps.gate(ps.relative(keep=0.5), share=0.9, pools=2),
}


@pytest.mark.parametrize("name", SAID)
def test_a_collapse_is_told_once(name):
    (text,) = run(SAID[name], pools=3 * POOLS)
    assert "less than half of the 0.5 that it planned" in text
    assert "ps.hold(rule, keep)" in text and "drift=" in text and "shorter history" in text


SILENT = {
    "the losses do not change": (ps.relative(keep=0.5), 1.0),
    "held": (ps.hold(ps.relative(keep=0.25), keep=0.25), 0.9),
    "ranked in the pool": (ps.relative(keep=0.5, drift="window"), 0.9),
    "a fixed threshold means to": (ps.threshold(0.9), 0.9),
    "a schedule means to": (ps.anneal(ps.uniform, ps.ramp(0.2, last=1.0, pools=60, full=0.0)), 1.0),
    "everything is kept": (ps.uniform(keep=1.0), 0.9),
    "a gate that stays closed": (ps.gate(ps.relative(keep=0.25), classes=1000, share=1e-3), 1.0),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_rule_that_keeps_its_plan_is_left_in_peace(name):
    rule, fall = SILENT[name]
    assert run(rule, fall=fall) == []


def test_rows_without_a_gradient_may_become_more():
    pools = [(torch.arange(16.0) >= place / 8).float() for place in range(120)]
    sifter = ps.sifter(lambda params, batch: batch, ps.nonzero(), batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools):
            pass


def test_the_plan_of_a_resumed_run_is_not_known():
    assert run(ps.relative(keep=0.5), resume=True) == []


def test_rising_losses_keep_more_than_twice_the_plan():
    (text,) = run(ps.relative(keep=0.2), fall=1.1)
    assert "more than twice of the 0.2" in text


def test_a_loader_counts_over_its_passes():
    """No pass is as long as what the warning looks at."""
    losses = torch.ones(())

    def score(params, batch):
        losses.mul_(0.9)
        return batch * losses

    pools = list((ps.keys.uniform(ps.key(1), 160) + 0.5).split(16))
    loader = ps.SiftingDataLoader(pools, score, ps.relative(keep=0.5), params={}, batch_size=4)
    with pytest.warns(UserWarning, match="less than half of the 0.5 that it planned"):
        for _ in range(6):
            list(loader)


def test_a_known_plan_and_a_cure_of_its_own():
    shares, ones = Shares(0.5, cure="turn it off"), torch.ones(4)
    info = ps.Info(ones, ps.Odds(ones * 0.1, ones), torch.zeros(4, dtype=torch.bool), {})
    with pytest.warns(UserWarning, match="kept 0 of the last 50 pools, less than half .*; turn it off"):
        for _ in range(POOLS):
            shares.see(info)
    for _ in range(POOLS):
        shares.see(info)
