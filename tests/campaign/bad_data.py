"""Batches, losses, columns and keys that do not fit: (name, act, words); words None where it works."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

import puresift as ps
from tests.campaign.bad_settings import POOL, Row

NAN, INF = math.nan, math.inf
score = lambda params, batch: batch["x"]  # noqa: E731
pool = lambda rows=8, **more: {"x": torch.linspace(0, 1, rows), **more}  # noqa: E731


def sifter(of: Any = score, rule: ps.Rule | None = None, **settings: Any) -> ps.Sifter:
    return ps.sifter(of, rule or ps.top(0.5), **{"batch_size": 2, **settings})


def step(batch: Any, first: Any = None, **settings: Any) -> ps.Info:
    """One step of a sifter that was built for `first`."""
    built = sifter(**settings)
    return built.step(built.init(ps.key(0), pool() if first is None else first), {}, batch)[1]


def stream(batch: Any, **settings: Any) -> list[ps.Sifted]:
    built = sifter(**settings)
    return list(ps.sift(built, built.init(ps.key(0), pool()), {}, [pool(), batch]))


def batches() -> Iterator[Row]:
    """Pools that differ from the first."""
    first = pool(tokens=torch.zeros(8, 4, dtype=torch.int64))
    for name, batch, words in [
        ("more rows", pool(9), "pass init the largest pool that will come"),
        ("another dtype", {"x": pool()["x"].double()}, "was torch.float32 in the first batch and is torch.float64"),
        ("half", {"x": pool()["x"].half()}, "cast it"),
        ("a leaf more", pool(y=POOL), "keep the structure of the first one"),
        ("a leaf less", {}, "no tensor in it"),
        ("another name", {"y": POOL}, "keep the structure of the first one"),
        ("a tuple", (POOL,), "keep the structure of the first one"),
        ("a bare tensor", POOL, "keep the structure of the first one"),
        ("rows of vectors", {"x": POOL[:, None]}, "had rows of shape"),
        ("a number", {"x": 3}, "a batch must be a tree of tensors"),
        ("a string", {"x": "text"}, "a batch must be a tree of tensors"),
        ("nothing", {"x": None}, "a batch must be a tree of tensors"),
        ("a 0-d tensor", {"x": torch.tensor(1.0)}, "share their leading dimension"),
        ("sparse", {"x": POOL.to_sparse()}, "leaf.to_dense()"),
        ("nested", {"x": torch.nested.nested_tensor([POOL, POOL[:3]], layout=torch.jagged)}, "to_padded_tensor"),
        ("on meta", {"x": torch.zeros(8, device="meta")}, "on the meta device"),
    ]:
        yield f"a pool: {name}", lambda b=batch: step(b), words
        yield f"a pool of a stream: {name}", lambda b=batch: stream(b), words
    for name, batch, words in [
        ("no rows", pool(0), "the first batch has no rows"),
        ("nothing in it", {}, "no tensor in it"),
        ("a number", 3, "a batch must be a tree of tensors"),
        ("two lengths", pool(y=torch.zeros(7)), "give every leaf one entry a row"),
        ("a 0-d leaf", pool(y=torch.tensor(1.0)), "leave out what belongs to the whole batch"),
        ("on meta", {"x": torch.zeros(8, device="meta")}, "on the meta device"),
    ]:
        yield f"the first pool: {name}", lambda b=batch: step(pool(), b), words
    for name, pads, words in [
        ("too long", {"tokens": ps.Pad(0, 3)}, "truncate the rows or declare the longest length"),
        ("no such leaf", {"words": ps.Pad(0, 9)}, "pad= names ['words']"),
        ("no second dimension", {"x": ps.Pad(0, 9)}, "pad= declares rows of length 9"),
        ("a fraction in whole numbers", {"tokens": ps.Pad(0.5, 9)}, "cannot hold its padding value 0.5"),
        ("a length of none", {"tokens": ps.Pad(0, 0)}, "length"),
        ("no pad", {"tokens": 3}, "ps.Pad"),
    ]:
        yield f"pad: {name}", lambda p=pads: step(first, first, pad=p), words
    yield "fewer rows", lambda: step(pool(3)).mask.shape == (3,), None
    yield "objects beside", lambda: step(pool(text=list("abcdefgh")), pool(text=list("abcdefgh"))) is not None, None


def losses() -> Iterator[Row]:
    """What a score gives, and what becomes of a NaN."""
    for name, values, words in [
        ("reduced", lambda b: b["x"].mean(), 'pass reduction="none"'),
        ("a vector a row", lambda b: b["x"][:, None].expand(-1, 3), "one number a row"),
        ("too few", lambda b: b["x"][:3], "one number a row"),
        ("whole numbers", lambda b: b["x"].long(), "call .float()"),
        ("a list", lambda b: b["x"].tolist(), "must be a tensor of 8 numbers, got list"),
        ("None", lambda b: None, "must be a tensor of 8 numbers, got NoneType"),
    ]:
        yield f"a score: {name}", lambda v=values: step(pool(), of=lambda params, batch: v(batch)), words
        yield f"a score of a stream: {name}", lambda v=values: stream(pool(), of=lambda p, b: v(b)), words
    for bad in (NAN, INF, -INF):
        batch = {"x": torch.where(torch.arange(8) == 3, bad, POOL)}
        yield f"a loss of {bad} in a stream", lambda b=batch: stream(b), 'choose ps.sifter(..., nonfinite="drop")'
        yield f"a loss of {bad}, dropped", lambda b=batch: not step(b, nonfinite="drop").mask[3], None
        yield f"a loss of {bad}, kept", lambda b=batch: bool(step(b, nonfinite="keep").mask[3]), None
        yield f"a loss of {bad}, counted", lambda b=batch: int(step(b, nonfinite="keep").extra["nonfinite"]) == 1, None
        yield (
            f"losses all {bad}, dropped",
            lambda v=bad: not step({"x": POOL * v + v}, nonfinite="drop").mask.any(),
            None,
        )
        told = lambda v: drawn()[0].observe(drawn()[1], torch.arange(2), torch.tensor([1.0, v]))  # noqa: E731
        yield f"observing {bad}", lambda v=bad, f=told: f(v), "NaN or infinite; look for a diverging run"
    yield "observing without a memory", lambda: sifter().observe(fresh(), pool(), POOL), "nothing to observe"
    yield "observing too early", lambda: ps.sift(sifter(), fresh(), {}, [pool()]).observe(POOL), "none was yielded yet"
    forgetful = ps.remembered(score, 9, every=2)
    yield "no ids", lambda: step(pool(), of=forgetful), "ps.with_ids(dataset)"
    ids: dict[str, tuple[Any, str]] = {
        "ids too large": (torch.arange(8) + 4, "pass size=len(dataset)"),
        "ids below 0": (torch.arange(8) - 1, "pass size=len(dataset)"),
        "ids that repeat": (torch.zeros(8, dtype=torch.int64), "draw samples without replacement"),
        "ids of floats": (POOL, "see ps.with_ids"),
        "ids of bools": (POOL > 0, "see ps.with_ids"),
    }
    for name, (values, words) in ids.items():
        yield name, lambda v=values: step(pool(id=v), pool(id=v), of=forgetful), words


def columns() -> Iterator[Row]:
    """Columns that rules need."""
    grouped, covered = ps.by_group(ps.top(0.5), groups=3), ps.cover(ps.top(0.5), size=8, epochs=2)
    for name, rule, column in (("by_group", grouped, "group"), ("cover", covered, "id")):
        yield f"{name} without a column", lambda r=rule: r.select(r.init(), POOL), "declare it with"
        for values, words in [
            (torch.arange(8) + 5, "number them from 0, or make the rule larger"),
            (torch.arange(8) - 1, "number them from 0, or make the rule larger"),
            (POOL, "must hold a whole number a row"),
            (POOL > 0, "must hold a whole number a row"),
            (torch.arange(7), "must hold a whole number a row"),
            (torch.zeros(8, 1, dtype=torch.int64), "must hold a whole number a row"),
        ]:
            kind = f"{values.dtype}{list(values.shape)} from {float(values.float().min())}"
            yield f"{name}: {kind}", lambda r=rule, c=column, v=values: r.select(r.init(), POOL, **{c: v}), words
    for name, rule in {
        "relative": ps.relative(0.5, history=4),
        "threshold": ps.threshold(quantile=0.5, history=4),
        "band": ps.band(0.1, high=0.9, history=4),
        "prune": ps.prune(0.5, history=4),
        "importance": ps.importance(0.5, history=4),
        "drop_top": ps.drop_top(ps.top(0.5), 0.9, history=4),
        "relative by age": ps.relative(0.5, history=4, drift="age"),
        "relative by scale": ps.relative(0.5, history=4, drift="scale"),
    }.items():
        yield f"a short history: {name}", lambda r=rule: r.select(r.init(), POOL), "pass history=8 or more"
    tokens = ps.tokens(ps.top(0.5))
    yield "tokens of rows", lambda: tokens((), ps.key(0), POOL, POOL > 0), "must both have shape [B, T]"
    yield "tokens and another mask", lambda: tokens((), ps.key(0), POOL.view(2, 4), POOL.view(4, 2)), "both have shape"


def keys_and_buffers() -> Iterator[Row]:
    """Keys, and buffers at the wrong moment."""
    for name, key in {
        "a number": 3,
        "None": None,
        "floats": torch.zeros(2),
        "three words": torch.zeros(3, dtype=torch.int64),
        "a generator": torch.Generator(),
        "int32": torch.zeros(2, dtype=torch.int32),
    }.items():
        yield f"a key: {name}", lambda k=key: sifter().init(k, pool()), "ps.key("
        yield f"a prioritizer's key: {name}", lambda k=key: drawn()[0].init(k), "ps.key("
    buffer = ps.empty(POOL, 2)
    yield "take from an empty buffer", lambda: ps.take(buffer, 2), "take only when full(buffer)"
    full = ps.refill(buffer, ps.Kept(POOL, torch.ones(8), POOL >= 0))
    over = ps.refill(full, ps.Kept(POOL, torch.ones(8), POOL >= 0))
    yield "an overflow", lambda: ps.take(over, 2), "take batches while full(buffer), before each refill"
    yield "take from a sifter too early", lambda: sifter().take(fresh()), "take only when full(buffer)"


def fresh(first: Any = None, **settings: Any) -> ps.SiftState:
    return sifter(**settings).init(ps.key(0), pool() if first is None else first)


def drawn(**changes: Any) -> tuple[ps.Prioritizer, ps.PrioritizerState]:
    made = ps.prioritizer(ps.top(0.5), **{"size": 9, "batch_size": 2, "every": 2, **changes})
    return made, made.draw(made.init(ps.key(0)))[0]
