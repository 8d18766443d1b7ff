"""Random configurations of a sifted stream: every choice that `ps.sift` and `ps.sifter` leave to a user."""

from __future__ import annotations

import math
from random import Random
from typing import Any, NamedTuple

import torch

import puresift as ps
from tests.campaign import references as by_hand
from tests.campaign.references import Reference

MOST = 12  # rows in a pool
WIDTH = 6  # the longest row


class Configuration(NamedTuple):
    """A stream to be, and all that the model of it needs."""

    text: str  # to find it again
    rule: ps.Rule
    reference: Reference
    pools: list[dict[str, torch.Tensor]]
    losses: dict[int, float]  # by row
    lengths: dict[int, int]
    seed: int
    batch_size: int
    window: int
    draw: str
    passes: int
    nonfinite: str
    padded: bool
    bucket: bool
    length: bool
    stops: float  # the probability of a stop after each batch


def configuration(chance: Random) -> Configuration:
    """One of them."""
    padded = chance.random() < 0.5
    pools, losses, lengths = _data(chance, padded)
    name, rule, reference = _wrapped(chance, chance.choice([0, 0, 1, 1, 2, 3]))
    bucket = chance.random() < 0.3
    settings: dict[str, Any] = {
        "seed": chance.randrange(2**64),
        "batch_size": chance.choice([1, 2, 3, 5, 8, 13]),
        "window": chance.choice([1, 2, 3]) if bucket else 1,
        "draw": chance.choice(["bernoulli", "systematic"]),
        "passes": chance.choice([1, 1, 1, 2, 3]),
        "nonfinite": chance.choice(["drop", "keep"]) if any(not math.isfinite(x) for x in losses.values()) else "raise",
        "padded": padded,
        "bucket": bucket,
        "length": chance.random() < 0.5,
        "stops": chance.choice([0.0, 0.0, 0.1, 0.4]),
    }
    sizes = [len(pool["row"]) for pool in pools]
    return Configuration(f"{name}, pools of {sizes}, {settings}", rule, reference, pools, losses, lengths, **settings)


def sifter(one: Configuration) -> ps.Sifter:
    """The sifter of it."""
    pads = {"tokens": ps.Pad(-1, WIDTH)} if one.padded else None
    real = lambda batch: batch["length"]  # noqa: E731
    return ps.sifter(
        lambda params, batch: batch["loss"],
        one.rule,
        batch_size=one.batch_size,
        draw=getattr(ps, one.draw),
        columns={"id": lambda batch: batch["row"], "group": lambda batch: batch["row"] % 2},
        pad=pads,
        length=real if one.length and one.padded else None,
        bucket=real if one.bucket else None,
        window=one.window if one.bucket else None,
        nonfinite=one.nonfinite,
    )


def _data(chance: Random, ragged: bool) -> tuple[list[dict[str, torch.Tensor]], dict[int, float], dict[int, int]]:
    most, number = chance.choice([1, 4, 7, MOST]), chance.choice([1, 2, 3, 4, 6])
    sizes = [most, *(chance.choice([most, most, chance.randint(1, most)]) for _ in range(number - 1))]
    draw = {
        "plain": lambda: chance.random(),
        "ties": lambda: float(chance.randrange(3)),
        "equal": lambda: 0.75,
        "falling": lambda: 2.0 ** -chance.randrange(12),
        "broken": lambda: chance.choice([math.nan, math.inf, *[chance.random()] * 6]),
    }[chance.choice(["plain", "plain", "ties", "equal", "falling", "broken"])]
    pools, losses, lengths, first = [], {}, {}, 0
    for size in sizes:
        rows = torch.arange(first, first + size)
        loss = torch.tensor([draw() for _ in range(size)])
        length = torch.tensor([chance.randint(1, WIDTH) for _ in range(size)])
        width = int(length.max()) if ragged else WIDTH
        tokens = torch.where(torch.arange(width) < length[:, None], rows[:, None], -1)
        pools.append({"row": rows, "loss": loss, "length": length, "tokens": tokens})
        losses |= dict(zip(rows.tolist(), loss.tolist(), strict=True))
        lengths |= dict(zip(rows.tolist(), length.tolist(), strict=True))
        first += size
    return pools, losses, lengths


def _wrapped(chance: Random, depth: int) -> tuple[str, ps.Rule, Reference]:
    if not depth:
        return _plain(chance)
    kind = chance.choice(list(_WRAPPERS))
    return _WRAPPERS[kind](chance, depth - 1)


def _plain(chance: Random) -> tuple[str, ps.Rule, Reference]:
    keep, history = chance.choice([0.2, 0.35, 0.5, 0.8, 1.0]), chance.choice([MOST, 17, 40])
    low, floor, bias = chance.choice([0.0, 0.25]), chance.choice([0.0, 0.1, 1.0]), chance.choice([0.0, 0.5, 1.0])
    kinds = {
        "uniform": lambda: (ps.uniform(keep), by_hand.Uniform(keep)),
        "top": lambda: (ps.top(keep), by_hand.Top(keep)),
        "ranked": lambda: (ps.ranked(keep), by_hand.Ranked(keep)),
        "relative": lambda: (ps.relative(keep, history=history), by_hand.Relative(keep, history)),
        "window": lambda: (ps.relative(keep, drift="window"), by_hand.Relative(keep, 0)),
        "value": lambda: (ps.threshold(low), by_hand.Value(low)),
        "quantile": lambda: (ps.threshold(quantile=low, history=history), by_hand.Band(low, 1.0, history)),
        "band": lambda: (ps.band(low, high=0.8, history=history), by_hand.Band(low, 0.8, history)),
        "prune": lambda: (ps.prune(low, history=history), by_hand.Prune(low, history)),
        "importance": lambda: (
            ps.importance(keep, floor=floor, bias=bias),
            by_hand.Importance(keep, floor, bias),
        ),
    }
    kind = chance.choice(list(kinds))
    rule, reference = kinds[kind]()
    return f"{kind}({keep}, {history}, {low}, {floor}, {bias})", rule, reference


def _one(name: str, wrap: Any, by: Any, *choices: Any) -> Any:
    """A wrapper of one rule, with one setting."""

    def build(chance: Random, depth: int) -> tuple[str, ps.Rule, Reference]:
        inner, rule, reference = _wrapped(chance, depth)
        setting = chance.choice(choices)
        return f"{name}({inner}, {setting})", wrap(rule, setting), by(reference, setting)

    return build


def _mix(chance: Random, depth: int) -> tuple[str, ps.Rule, Reference]:
    (one, rule, first), (other, second, then) = _wrapped(chance, depth), _wrapped(chance, 0)
    shares = chance.choice([(1.0, 1.0), (3.0, 1.0)])
    mixed = by_hand.Mix([first, then], shares)
    return f"mix({one}, {other}, {shares})", ps.mix(rule, second, shares=shares), mixed


def _unbiased(chance: Random, depth: int) -> tuple[str, ps.Rule, Reference]:
    inner, rule, reference = _wrapped(chance, depth)
    exponent, clip = chance.choice([0.0, 0.5, 1.0]), chance.choice([1.5, 8.0])
    reference = by_hand.Unbiased(by_hand.Floor(reference, 0.05), exponent, clip)
    name = f"unbiased(floor({inner}, .05), {exponent}, {clip})"
    return name, ps.unbiased(ps.floor(rule, 0.05), exponent=exponent, clip=clip), reference


def _by_group(chance: Random, depth: int) -> tuple[str, ps.Rule, Reference]:
    state = chance.getstate()
    inner, rule, first = _wrapped(chance, 0)
    after = chance.getstate()
    chance.setstate(state)
    second = _wrapped(chance, 0)[2]  # the same once more, for the other group
    chance.setstate(after)
    return f"by_group({inner})", ps.by_group(rule, groups=2), by_hand.ByGroup([first, second])


def _delay(rule: ps.Rule, setting: tuple[int, int | None]) -> ps.Rule:
    return ps.delay(rule, setting[0], every=setting[1])


def _delayed(reference: Reference, setting: tuple[int, int | None]) -> Reference:
    steps, every = setting
    return by_hand.While(reference, lambda seen: (seen if every is None else seen % every) >= steps)


_WRAPPERS: dict[str, Any] = {
    "floor": _one("floor", ps.floor, by_hand.Floor, 0.1, 0.5),
    "hold": _one("hold", ps.hold, by_hand.Hold, 0.3, 0.5, 1.0),
    "drop_top": _one(
        "drop_top", lambda r, q: ps.drop_top(r, q, history=20), lambda r, q: by_hand.DropTop(r, q, 20), 0.7, 1.0
    ),
    "delay": _one("delay", _delay, _delayed, (0, None), (1, None), (3, None), (1, 2), (2, 3)),
    "interrupt": _one(
        "interrupt",
        lambda r, every: ps.interrupt(r, pools=8, start=0.125, end=0.75, every=every),
        lambda r, every: by_hand.While(r, lambda t: 1 <= t < 6 and (not every or (t + 1) % every != 0)),
        0,
        3,
    ),
    "anneal": _one(
        "anneal",
        lambda r, keep: ps.anneal(ps.ranked, ps.ramp(keep, pools=8, full=0.5)),
        lambda r, keep: by_hand.While(by_hand.Ranked(keep), lambda t: t < 4),
        0.25,
        0.5,
    ),
    "cover": _one(
        "cover", lambda r, n: ps.cover(r, size=MOST * 6, epochs=n), lambda r, n: by_hand.Cover(r, n), 1, 2, 3
    ),
    "by_root": _one("by_root", lambda r, _: ps.by_root(r), lambda r, _: by_hand.Shown(r, math.sqrt), None),
    "by_error": _one("by_error", lambda r, _: ps.by_error(r), lambda r, _: by_hand.Shown(r, _error), None),
    "mix": _mix,
    "unbiased": _unbiased,
    "by_group": _by_group,
}


def _error(loss: float) -> float:
    return -math.expm1(-loss)
