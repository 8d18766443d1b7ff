"""Bad settings of every factory, and good ones of unusual types: (name, act, words); words None where it must work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

import puresift as ps

Row = tuple[str, Callable[[], Any], str | None]
MODEL = nn.Linear(3, 2)
plain = lambda params, batch: batch.float()  # noqa: E731
outputs = lambda model, batch: (model(batch[0]), batch[1])  # noqa: E731
rule = ps.relative(keep=0.5)
labels = torch.arange(12) % 3
POOL = torch.linspace(0, 1, 8)

# factory, setting, kind. The factory takes the setting's value.
SETTINGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "uniform keep": (ps.uniform, "(0, 1]"),
    "top keep": (ps.top, "(0, 1]"),
    "ranked keep": (ps.ranked, "(0, 1]"),
    "relative keep": (ps.relative, "(0, 1]"),
    "relative beta": (lambda v: ps.relative(beta=v), "[0, inf)"),
    "relative history": (lambda v: ps.relative(0.5, history=v), ">= 1"),
    "relative sketch": (lambda v: ps.relative(0.5, sketch=v), ">= 16"),
    "threshold value": (ps.threshold, "(-inf, inf)"),
    "threshold quantile": (lambda v: ps.threshold(quantile=v), "[0, 1)"),
    "threshold history": (lambda v: ps.threshold(quantile=0.5, history=v), ">= 1"),
    "band low": (lambda v: ps.band(v, high=1.0), "[0, 1)"),
    "band high": (lambda v: ps.band(0.0, high=v), "(0, 1]"),
    "band history": (lambda v: ps.band(0.1, high=0.5, history=v), ">= 1"),
    "prune ratio": (ps.prune, "[0, 1)"),
    "prune history": (lambda v: ps.prune(0.5, history=v), ">= 1"),
    "importance keep": (ps.importance, "(0, 1]"),
    "importance floor": (lambda v: ps.importance(0.5, floor=v), "[0, 1]"),
    "importance bias": (lambda v: ps.importance(0.5, bias=v), "[0, inf)"),
    "importance history": (lambda v: ps.importance(0.5, history=v), ">= 1"),
    "delay steps": (lambda v: ps.delay(rule, steps=v), ">= 0"),
    "delay every": (lambda v: ps.delay(rule, steps=0, every=v), ">= 1"),
    "interrupt pools": (lambda v: ps.interrupt(rule, pools=v), ">= 1"),
    "interrupt start": (lambda v: ps.interrupt(rule, pools=9, start=v, end=1.0), "[0, 1]"),
    "interrupt end": (lambda v: ps.interrupt(rule, pools=9, start=0.0, end=v), "[0, 1]"),
    "interrupt every": (lambda v: ps.interrupt(rule, pools=9, every=v), ">= 0"),
    "ramp first": (lambda v: ps.ramp(v, pools=9), "(0, 1]"),
    "ramp last": (lambda v: ps.ramp(0.5, last=v, pools=9), "(0, 1]"),
    "ramp pools": (lambda v: ps.ramp(0.5, pools=v), ">= 1"),
    "ramp full": (lambda v: ps.ramp(0.5, pools=9, full=v), "[0, 1)"),
    "floor least": (lambda v: ps.floor(rule, v), "(0, 1]"),
    "drop_top quantile": (lambda v: ps.drop_top(rule, v), "(0, 1]"),
    "drop_top history": (lambda v: ps.drop_top(rule, 0.5, history=v), ">= 1"),
    "unbiased keep": (lambda v: ps.unbiased(rule, keep=v), "(0, 1]"),
    "unbiased clip": (lambda v: ps.unbiased(rule, clip=v), "(0, inf)"),
    "unbiased exponent": (lambda v: ps.unbiased(rule, exponent=v), "[0, inf)"),
    "hold keep": (lambda v: ps.hold(rule, v), "(0, 1]"),
    "by_group groups": (lambda v: ps.by_group(rule, groups=v), ">= 1"),
    "gate share": (lambda v: ps.gate(rule, v), "(0, 1]"),
    "gate classes": (lambda v: ps.gate(rule, classes=v), ">= 2"),
    "gate pools": (lambda v: ps.gate(rule, pools=v), ">= 1"),
    "cover size": (lambda v: ps.cover(rule, size=v, epochs=2), ">= 1"),
    "cover epochs": (lambda v: ps.cover(rule, size=9, epochs=v), ">= 1"),
    "mix shares": (lambda v: ps.mix(rule, rule, shares=(1.0, v)), "(0, inf)"),
    "sifter batch_size": (lambda v: ps.sifter(plain, rule, batch_size=v), ">= 1"),
    "sifter window": (lambda v: ps.sifter(plain, rule, batch_size=2, bucket=torch.sum, window=v), ">= 1"),
    "prioritizer size": (lambda v: ps.prioritizer(rule, size=v, batch_size=2), ">= 1"),
    "prioritizer batch_size": (lambda v: ps.prioritizer(rule, size=9, batch_size=v), ">= 1"),
    "prioritizer every": (lambda v: ps.prioritizer(rule, size=9, batch_size=2, every=v), ">= 1"),
    "prioritizer steps": (lambda v: ps.prioritizer(rule, size=9, batch_size=2, steps=v), ">= 1"),
    "prioritizer start": (lambda v: ps.prioritizer(rule, size=9, batch_size=2, start=v), "[0, inf)"),
    "prioritizer end": (lambda v: ps.prioritizer(rule, size=9, batch_size=2, end=v), "[0, 1)"),
    "governor budget": (lambda v: ps.governor(budget=v), "(0, 1]"),
    "governor rate": (lambda v: ps.governor(rate=v), "(0, 1]"),
    "governor warmup": (lambda v: ps.governor(warmup=v), ">= 0"),
    "grad_norm chunk": (lambda v: ps.grad_norm(MODEL, torch.sub, chunk=v), ">= 1"),
    "chunked size": (lambda v: ps.chunked(plain, v), ">= 1"),
    "truncated width": (lambda v: ps.truncated(plain, v, pad={"x": ps.Pad(0, 4)}), ">= 1"),
    "compiled pad_to": (lambda v: ps.compiled(plain, pad_to=v), ">= 1"),
    "remembered size": (lambda v: ps.remembered(plain, v, every=2), ">= 1"),
    "remembered every": (lambda v: ps.remembered(plain, 9, every=v), ">= 1"),
    "change size": (lambda v: ps.change(plain, v), ">= 1"),
    "reducible size": (lambda v: ps.reducible(plain, torch.zeros(24), size=v), ">= 1"),
    "epochs n": (lambda v: ps.epochs([POOL], v), ">= 1"),
    "infobatch size": (lambda v: ps.infobatch(v, epochs=2), ">= 1"),
    "infobatch epochs": (lambda v: ps.infobatch(9, epochs=v), ">= 1"),
    "infobatch ratio": (lambda v: ps.infobatch(9, epochs=2, ratio=v), "(0, 1"),
    "infobatch anneal": (lambda v: ps.infobatch(9, epochs=2, anneal=v), "(0, 1]"),
    "rs2 size": (lambda v: ps.rs2(v, keep=0.5, epochs=2), ">= 1"),
    "rs2 keep": (lambda v: ps.rs2(9, keep=v, epochs=2), "(0, 1]"),
    "rs2 epochs": (lambda v: ps.rs2(9, keep=0.5, epochs=v), ">= 1"),
    "downsampled keep": (lambda v: ps.downsampled(labels, keep=v, epochs=2), "(0, 1]"),
    "downsampled epochs": (lambda v: ps.downsampled(labels, keep=0.5, epochs=v), ">= 1"),
    "balanced epochs": (lambda v: ps.balanced(labels, epochs=v), ">= 1"),
    "Meter every": (lambda v: ps.Meter(print, every=v), ">= 1"),
}
SEEDED: dict[str, Callable[[Any], Any]] = {
    "key": ps.key,
    "infobatch seed": lambda v: ps.infobatch(9, epochs=2, seed=v),
    "rs2 seed": lambda v: ps.rs2(9, keep=0.5, epochs=2, seed=v),
    "balanced seed": lambda v: ps.balanced(labels, epochs=2, seed=v),
    "downsampled seed": lambda v: ps.downsampled(labels, keep=0.5, epochs=2, seed=v),
}
# Values outside of each kind; those of the wrong type are outside of all of them.
WRONG: tuple[Any, ...] = (math.nan, "0.5", [0.5], True, 1j, torch.ones(2), torch.tensor(1, dtype=torch.int32))
OUTSIDE: dict[str, tuple[Any, ...]] = {
    "(0, 1]": (0, -0.5, 1.5, math.inf),
    "(0, 1": (0, -0.5, 1.5, 1, math.inf),
    "[0, 1)": (-0.1, 1, math.inf),
    "[0, 1]": (-0.1, 1.1, -math.inf),
    "[0, inf)": (-1, math.inf),
    "(0, inf)": (0, -1, math.inf),
    "(-inf, inf)": (math.inf, -math.inf),
    ">= 0": (-1, 2.5, 3.0),
    ">= 1": (0, -1, 2.5, 3.0),
    ">= 2": (1, 0, 2.5, 3.0),
    ">= 16": (15, 0, 16.5, 17.0),
}
NUMPY: dict[str, tuple[Any, ...]] = {">=": (np.int64(24), np.int32(24)), "(": (np.float64(0.5), np.float32(0.5))}


def settings() -> Iterator[Row]:
    """Each setting with what lies outside of it, with what is no number at all, and with numpy's numbers."""
    for name, (factory, kind) in SETTINGS.items():
        setting = name.split()[1] if name != "mix shares" else "each of shares"
        for value in OUTSIDE[kind]:
            yield f"{name}={value!r}", lambda f=factory, v=value: f(v), f"{setting} must be"
        for value in WRONG:
            yield f"{name}={value!r}", lambda f=factory, v=value: f(v), f"{setting} must be"
        for value in NUMPY[">=" if kind.startswith(">") else "("]:
            yield f"{name}={value!r}", lambda f=factory, v=value: f(v) is not None, None


def numpy_is_python() -> Iterator[Row]:
    """Numpy's numbers give what Python's give, to the bit, in each rule."""
    fraction = [("uniform", ps.uniform), ("top", ps.top), ("ranked", ps.ranked), ("relative", ps.relative)]
    fraction += [("prune", ps.prune), ("importance", ps.importance), ("threshold", ps.threshold)]
    fraction += [("hold", lambda v: ps.hold(rule, v)), ("floor", lambda v: ps.floor(rule, v))]
    fraction += [("drop_top", lambda v: ps.drop_top(rule, v)), ("unbiased", lambda v: ps.unbiased(rule, clip=v))]
    fraction += [("by_root", lambda v: ps.by_root(ps.top(v))), ("mix", lambda v: ps.mix(rule, rule, shares=(v, 1)))]
    for name, factory in fraction:
        for value in (np.float32(0.3), np.float64(0.3), np.float16(0.25), torch.tensor(0.5, dtype=torch.float64)):
            yield f"{name} of {value!r}", lambda f=factory, v=value: _same(f(v), f(float(v))), None
        yield f"{name} of a fraction", lambda f=factory: f(Fraction(1, 2)), "must be in"
    for name in ("size", "batch_size", "every"):
        counts = {"size": 8, "batch_size": 2, "every": 2}

        def ids(value: Any, name: str = name, counts: Any = counts) -> torch.Tensor:
            drawer = ps.prioritizer(ps.top(0.5), **{**counts, name: value})
            return drawer.draw(drawer.init(ps.key(1)))[1]

        yield f"ids of numpy {name}", lambda f=ids, n=name, c=counts: torch.equal(f(np.int64(c[n])), f(c[n])), None


def _same(one: ps.Rule, other: ps.Rule) -> bool:
    return torch.allclose(one.select(one.init(), POOL)[1].probs, other.select(other.init(), POOL)[1].probs)
