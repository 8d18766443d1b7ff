"""Settings that are one of a few, that exclude each other, or that are no rule: (name, act, words)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

import puresift as ps
from tests.campaign.bad_settings import POOL, SEEDED, Row, labels, plain, rule


def choices() -> Iterator[Row]:
    """Settings that are one of a few words, calls with too few or too many, and settings that exclude each other."""
    sifter = lambda **given: lambda: ps.sifter(given.pop("score", plain), rule, batch_size=2, **given)  # noqa: E731
    for value in ("Window", "", 3, True, ["age"]):
        yield f"relative drift={value!r}", lambda v=value: ps.relative(0.5, drift=v), 'drift must be None, "window"'
        yield (
            f"by_group fractions={value!r}",
            lambda v=value: ps.by_group(rule, groups=2, fractions=v),
            "fractions must",
        )
        yield f"sifter nonfinite={value!r}", sifter(nonfinite=value), 'nonfinite must be "raise", "drop" or "keep"'
        yield f"governor bar={value!r}", lambda v=value: ps.governor(bar=v), 'bar must be "full" or "shortened"'
    for value in (0, 3, 1.5, None, "1", True):
        yield f"change order={value!r}", lambda v=value: ps.change(plain, 9, order=v), "order must be 1 or 2"
    for value in (torch.int64, torch.bool, torch.float64):
        yield f"autocast to {value}", lambda v=value: ps.autocast(plain, v), "dtype must be torch.float32, torch.bfl"
    for value in (torch.int64, torch.bool):
        yield (
            f"a table of {value}",
            lambda v=value: ps.prioritizer(rule, size=9, batch_size=2, dtype=v),
            "dtype must be",
        )
    for value in (-1, 2**64, 1.0, "1", None, True, math.nan, torch.tensor(1)):
        for name, factory in SEEDED.items():
            yield f"{name} of {value!r}", lambda f=factory, v=value: f(v), "seed must be a whole number in [0, 2**64)"
    for name, given in {"both": {"keep": 0.5, "beta": 1.0}, "neither": {}}.items():
        yield f"relative of {name}", lambda g=given: ps.relative(**g), "give exactly one of keep"
    for name, given in {"both": {"value": 0.5, "quantile": 0.5}, "neither": {}}.items():
        yield f"threshold of {name}", lambda g=given: ps.threshold(**g), "give exactly one of value"
    yield "a sketch with drift", lambda: ps.relative(0.5, sketch=64, drift="age"), "leave one out"
    yield "mix of none", lambda: ps.mix(), "mix needs two rules or more, got 0"
    yield "mix of one", lambda: ps.mix(rule), "mix needs two rules or more, got 1"
    yield "mix of one share", lambda: ps.mix(rule, rule, shares=(1.0,)), "a number for each of the 2 rules, got 1"
    yield "a band upside down", lambda: ps.band(0.7, high=0.3), "low must lie below high"
    yield "an empty band", lambda: ps.band(0.5, high=0.5), "low must lie below high"
    yield "an empty interrupt", lambda: ps.interrupt(rule, pools=9, start=0.6, end=0.5), "start must lie below end"
    yield "interrupt of each pool", lambda: ps.interrupt(rule, pools=9, every=1), "give 0 for no breaks"
    yield "delay for ever", lambda: ps.delay(rule, steps=3, every=3), "every must be larger than steps"
    yield "a gate that closes at once", lambda: ps.gate(rule, back=0.9), "back must be >= 1"
    yield "unbiased top", lambda: ps.unbiased(ps.top(0.5)), "ps.floor(rule, least=0.05)"
    yield "unbiased threshold", lambda: ps.unbiased(ps.threshold(0.5)), "ps.floor(rule, least=0.05)"
    yield "unbiased floored", lambda: ps.unbiased(ps.floor(ps.top(0.5), 0.1)) is not None, None
    yield "a schedule of numbers", lambda: ps.anneal(ps.uniform, lambda seen: 0.5), "schedule must map pools seen"
    yield "a schedule of whole", lambda: ps.anneal(ps.uniform, lambda seen: seen), "schedule must map pools seen"
    yield "a schedule above 1", lambda: ps.anneal(ps.uniform, lambda s: s + 2.0), "schedule(0) must be in (0, 1]"
    yield "a window without bucket", sifter(window=2), "needs bucket="
    yield "no score", sifter(score=None), "this rule looks at losses, so it needs a score"
    yield "no draw", sifter(draw=None), "pass ps.bernoulli or ps.systematic"
    for name in ("nonfinite", "sifting", "phi", "reading"):
        yield f"a column {name}", sifter(columns={name: torch.sum}), "columns= may not use the names"
    for wrong in (["id"], torch.sum, "id"):
        yield f"columns as {wrong!r}", sifter(columns=wrong), "pass functions of the batch by name"
    yield "a column of values", sifter(columns={"id": torch.zeros(3)}), "pass a function of the batch"
    yield "length without pad", lambda: ps.chunked(plain, 4, length=torch.sum), "give length= and pad= together"
    yield "truncated nothing", lambda: ps.truncated(plain, 4, pad={}), "pad must name the leaves to cut"
    yield "total of none", lambda: ps.total(), "there is no score to combine"
    yield "rank_mix of none", lambda: ps.rank_mix(), "there is no score to combine"
    yield (
        "a draw of one's own",
        lambda: ps.prioritizer(rule, size=9, batch_size=2, draw=torch.add),
        "draw must be ps.sy",
    )
    yield "no common label", lambda: ps.downsampled(labels, keep=0.5, epochs=2, common=9), "no sample has the label 9"
    yield "float labels", lambda: ps.balanced(labels.float(), epochs=2), "labels must be a class for each sample"
    yield "labels of pairs", lambda: ps.balanced(labels.view(6, 2), epochs=2), "labels must be a class for each sample"
    yield "a log that is none", lambda: ps.Meter({}), "log must be a callable"
    yield "compare nothing", lambda: ps.compare({}, POOL), "pass at least one rule"
    yield "fastest of nothing", lambda: ps.fastest({}, {}, POOL), "fastest needs at least one score"
    yield "fastest in no time", lambda: ps.fastest({"a": plain}, {}, POOL, step=0.0), "step must be in (0, inf)"
    yield "8 bits of a memory", lambda: ps.int8(ps.recalled(9)), "int8 rounds a plain score"
    yield "8 bits of no width", lambda: ps.int8(plain, least=0), "least must be a whole number >= 1"


def wrapped() -> Iterator[Row]:
    """A wrapper around what is no rule: a factory that was not called, a number, nothing."""
    wrappers: dict[str, Callable[[Any], Any]] = {
        "delay": lambda r: ps.delay(r, 2),
        "interrupt": lambda r: ps.interrupt(r, pools=9),
        "mix": lambda r: ps.mix(rule, r),
        "floor": lambda r: ps.floor(r, 0.1),
        "drop_top": lambda r: ps.drop_top(r, 0.9),
        "unbiased": ps.unbiased,
        "hold": lambda r: ps.hold(r, 0.5),
        "by_group": lambda r: ps.by_group(r, groups=2),
        "by_error": ps.by_error,
        "by_root": ps.by_root,
        "gate": ps.gate,
        "cover": lambda r: ps.cover(r, size=9, epochs=2),
        "tokens": ps.tokens,
        "sifter": lambda r: ps.sifter(plain, r, batch_size=2),
        "prioritizer": lambda r: ps.prioritizer(r, size=9, batch_size=2),
    }
    for name, wrap in wrappers.items():
        yield f"{name} of a factory", lambda w=wrap: w(ps.relative), "call it, as in ps.relative(...)"
        yield f"{name} of a number", lambda w=wrap: w(0.5), "pass one, such as ps.relative(keep=0.5)"
        yield f"{name} of nothing", lambda w=wrap: w(None), "pass one, such as ps.relative(keep=0.5)"
