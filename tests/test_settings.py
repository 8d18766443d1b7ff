"""Settings of numpy's types are taken for the numbers they are, and what was not called is named."""

import numpy as np
import pytest
import torch

import puresift as ps
from tests import laws

NUMBERS = {  # a factory, and its settings as Python's numbers
    "uniform": (ps.uniform, {"keep": 0.25}),
    "relative": (ps.relative, {"keep": 0.5, "history": 64}),
    "relative-beta": (ps.relative, {"beta": 2.0, "history": 40, "drift": "scale"}),
    "top": (ps.top, {"keep": 0.25}),
    "ranked": (ps.ranked, {"keep": 0.25}),
    "threshold": (ps.threshold, {"quantile": 0.5, "history": 64}),
    "band": (ps.band, {"low": 0.25, "high": 0.75, "history": 64}),
    "prune": (ps.prune, {"ratio": 0.5, "history": 64}),
    "importance": (ps.importance, {"keep": 0.5, "floor": 0.25, "bias": 0.5, "history": 64}),
    "floor": (lambda **settings: ps.floor(ps.top(keep=0.5), **settings), {"least": 0.125}),
    "unbiased": (lambda **settings: ps.unbiased(ps.relative(keep=0.5), **settings), {"keep": 0.5, "clip": 4.0}),
    "delay": (lambda **settings: ps.delay(ps.top(keep=0.5), **settings), {"steps": 1, "every": 3}),
    "hold": (lambda **settings: ps.hold(ps.relative(keep=0.5), **settings), {"keep": 0.25}),
    "mix": (
        lambda **settings: ps.mix(ps.top(0.5), ps.uniform(0.5), shares=tuple(settings.values())),
        {"a": 2.0, "b": 1.0},
    ),
    "cover": (lambda **settings: ps.cover(ps.top(keep=0.5), **settings), {"size": 96, "epochs": 3}),
    "by_group": (lambda **settings: ps.by_group(ps.top(keep=0.5), **settings), {"groups": 3}),
    "gate": (lambda **settings: ps.gate(ps.top(keep=0.5), **settings), {"share": 0.5, "pools": 2, "back": 1.25}),
}


def numpys(value):
    if isinstance(value, str):
        return value
    return np.int32(value) if isinstance(value, int) else np.float32(value)


@pytest.mark.parametrize("name", NUMBERS)
def test_numpy_scalars_give_the_bits_of_pythons_numbers(name):
    make, settings = NUMBERS[name]
    one, other = make(**settings), make(**{key: numpys(value) for key, value in settings.items()})
    mine, theirs = one.init(), other.init()
    for pool in range(3):
        losses = ps.keys.uniform(ps.key(pool), 16)
        mine, odds = one.select(mine, losses, **laws.columns(16))
        theirs, same = other.select(theirs, losses, **laws.columns(16))
        assert laws.equal((mine, odds), (theirs, same))


def test_other_settings_may_be_numpys_too():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=np.int64(2))
    state = sifter.init(ps.key(np.uint32(7)), torch.zeros(4))
    assert torch.equal(state.key, ps.key(7))
    assert ps.progress(state, np.int64(4)) == 0.0
    budget = ps.governor(budget=np.float32(0.5), rate=np.float64(0.5), warmup=np.int16(0))
    assert budget.decide(budget.init(), ps.stream.governors.Reading(1, 0, 0.0, 0, 1, 0, 0.0))[1] is True


@pytest.mark.parametrize("value", [np.bool_(True), np.array([0.5]), np.str_("a"), np.float64("nan"), np.float32(1.5)])
def test_what_is_no_such_number_is_refused_as_before(value):
    with pytest.raises(ps.SiftError, match=r"keep must be in \(0, 1\]"):
        ps.top(keep=value)


WRAPS = {
    "sifter": lambda rule: ps.sifter(None, rule, batch_size=2),
    "prioritizer": lambda rule: ps.prioritizer(rule, size=4, batch_size=2),
    "delay": lambda rule: ps.delay(rule, steps=1),
    "interrupt": lambda rule: ps.interrupt(rule, pools=4),
    "mix": lambda rule: ps.mix(ps.top(0.5), rule),
    "floor": lambda rule: ps.floor(rule, 0.1),
    "drop_top": lambda rule: ps.drop_top(rule, 0.9),
    "unbiased": ps.unbiased,
    "hold": lambda rule: ps.hold(rule, keep=0.5),
    "by_group": lambda rule: ps.by_group(rule, groups=2),
    "by_error": ps.by_error,
    "by_root": ps.by_root,
    "gate": ps.gate,
    "cover": lambda rule: ps.cover(rule, size=4, epochs=2),
    "tokens": ps.tokens,
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_rule_that_was_not_called_is_named(name):
    with pytest.raises(
        TypeError, match=r"the rule is the function relative itself; call it, as in ps\.relative\("
    ) as caught:
        WRAPS[name](ps.relative)
    assert isinstance(caught.value, ps.SiftError)
    with pytest.raises(ps.SiftError, match=r"the rule is 0\.5; pass one, such as ps\.relative\(keep=0\.5\)"):
        WRAPS[name](0.5)
