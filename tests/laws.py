"""The laws, and the tables of members they are run over. A newcomer is entered in a table, and inherits the tests."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

import puresift as ps
from puresift import paths, trees
from puresift.scores.losses import lift
from puresift.testing import comparing, ruling
from tests.strategies import cross_entropy, data, net


class Member(NamedTuple):
    """A rule and what it claims."""

    rule: ps.Rule
    monotone: bool = True  # a larger loss is never less likely to be kept
    scale_free: bool = True  # scaling all losses by a positive number changes nothing
    by_loss: bool = True  # rows of equal loss share their odds, whatever their columns say


RULES: dict[str, Callable[[], Member]] = {
    "uniform": lambda: Member(ps.uniform(keep=0.3)),
    "uniform-all": lambda: Member(ps.uniform(keep=1.0)),
    "relative": lambda: Member(ps.relative(keep=0.5, history=64)),
    "relative-harsh": lambda: Member(ps.relative(beta=3.0, history=64)),
    "relative-mild": lambda: Member(ps.relative(beta=0.25, history=40)),
    "relative-ordered": lambda: Member(ps.relative(keep=0.4, history=5000)),
    "relative-sketch": lambda: Member(ps.relative(keep=0.4, history=500, sketch=64), scale_free=False),
    "relative-all": lambda: Member(ps.relative(beta=0.0, history=64)),
    "top": lambda: Member(ps.top(keep=0.4)),
    "relative-window": lambda: Member(ps.relative(keep=0.4, drift="window")),
    "relative-age": lambda: Member(ps.relative(keep=0.4, history=48, drift="age")),
    "relative-scale": lambda: Member(ps.relative(keep=0.4, history=48, drift="scale")),
    "threshold": lambda: Member(ps.threshold(quantile=0.7, history=64)),
    "threshold-value": lambda: Member(ps.threshold(0.4), scale_free=False),
    "band": lambda: Member(ps.band(0.2, high=0.85, history=64), monotone=False),
    "prune": lambda: Member(ps.prune(ratio=0.6, history=64)),
    "importance": lambda: Member(ps.importance(keep=0.4)),
    "importance-pure": lambda: Member(ps.importance(keep=0.3, floor=0.0, bias=0.5)),
    "importance-mean": lambda: Member(ps.importance(keep=0.4, floor=0.3, history=64)),
    "ranked": lambda: Member(ps.ranked(keep=0.3)),
    "nonzero": lambda: Member(ps.nonzero(), monotone=False),
}
WRAPPERS: dict[str, Callable[[], Member]] = {
    "delay": lambda: Member(ps.delay(ps.relative(keep=0.5, history=64), steps=2)),
    "delay-none": lambda: Member(ps.delay(ps.top(keep=0.5), steps=0)),
    "delay-again": lambda: Member(ps.delay(ps.relative(keep=0.5, history=64), steps=1, every=3)),
    "interrupt": lambda: Member(ps.interrupt(ps.prune(history=64), pools=8, start=0.1, every=3)),
    "anneal": lambda: Member(ps.anneal(lambda keep: ps.relative(keep, history=64), ps.ramp(0.2, last=0.6, pools=6))),
    "anneal-importance": lambda: Member(ps.anneal(ps.importance, ps.ramp(0.3, pools=9, full=0.4))),
    "mix": lambda: Member(ps.mix(ps.importance(keep=0.3), ps.relative(keep=0.5, history=64), shares=(2.0, 1.0))),
    "mix-delay": lambda: Member(ps.mix(ps.uniform(keep=0.2), ps.delay(ps.prune(history=64), steps=2))),
    "floor": lambda: Member(ps.floor(ps.threshold(quantile=0.5, history=64), 0.1)),
    "drop_top": lambda: Member(ps.drop_top(ps.relative(keep=0.5, history=64), 0.9, history=64), monotone=False),
    "unbiased": lambda: Member(ps.unbiased(ps.relative(keep=0.5, history=64))),
    "unbiased-clip": lambda: Member(ps.unbiased(ps.floor(ps.top(0.3), 0.05), keep=0.3, clip=4.0, exponent=0.8)),
    "hold": lambda: Member(ps.hold(ps.relative(beta=2.0, history=64), keep=0.4)),
    "hold-delay": lambda: Member(ps.hold(ps.delay(ps.threshold(0.4), steps=2), keep=0.3), scale_free=False),
    "by_group": lambda: Member(ps.by_group(ps.relative(keep=0.5, history=64), groups=4), monotone=False, by_loss=False),
    "by_group-equal": lambda: Member(
        ps.by_group(ps.importance(keep=0.5), groups=4, fractions="equal"), monotone=False, by_loss=False
    ),
    "by_group-balanced": lambda: Member(
        ps.by_group(ps.top(keep=0.5), groups=4, fractions="balanced"), monotone=False, by_loss=False
    ),
    "by_group-loss": lambda: Member(
        ps.by_group(ps.delay(ps.prune(history=64), steps=1), groups=3, fractions="loss"), monotone=False, by_loss=False
    ),
    "by_error": lambda: Member(ps.by_error(ps.importance(0.4, floor=0.3, history=64)), scale_free=False),
    "by_root": lambda: Member(ps.by_root(ps.importance(0.4, floor=0.2)), scale_free=False),
    "gate": lambda: Member(ps.gate(ps.relative(keep=0.5, history=64), 0.9, pools=2)),
    "gate-classes": lambda: Member(ps.gate(ps.importance(keep=0.4), classes=2, pools=2), scale_free=False),
    "cover": lambda: Member(ps.cover(ps.relative(keep=0.3, history=64), size=96, epochs=3), False, by_loss=False),
    "cover-unbiased": lambda: Member(
        ps.unbiased(ps.cover(ps.interrupt(ps.importance(0.3), pools=8), size=96, epochs=2)), False, by_loss=False
    ),
}
MEMBERS = {**RULES, **WRAPPERS}
# What rules by column see: of a batch of the small classifier's rows, and of bare losses.
COLUMNS: dict[str, Callable[[Any], Tensor]] = {
    "label": lambda batch: batch[1],
    "group": lambda batch: batch[1],
    "id": lambda batch: (batch[0][:, 0].abs() * 1e4).long() % 96,
}
DRAWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bernoulli": ps.bernoulli, "systematic": ps.systematic}
SCORES: dict[str, Callable[[], Any]] = {
    "batched": lambda: ps.batched(net(), cross_entropy),
    "per_sample": lambda: ps.per_sample(net(), cross_entropy),
    "autocast": lambda: ps.autocast(ps.batched(net(), cross_entropy), torch.bfloat16),
    "int8": lambda: ps.int8(ps.batched(net(), cross_entropy), least=3, anyway=True),
    "chunked": lambda: ps.chunked(ps.batched(net(), cross_entropy), 5),
    "compiled": lambda: _compiled(),
    "truncated": lambda: ps.truncated(_widened(ps.batched(net(), cross_entropy)), 3, pad={"0": ps.Pad(0.0, 4)}),
    "grad_norm": lambda: ps.grad_norm(net(), cross_entropy, chunk=7),
    "grad_norm-head": lambda: ps.grad_norm(net(), cross_entropy, only=lambda name: name.startswith("4.")),
    "el2n": lambda: ps.el2n(net(), outputs),
    "margin": lambda: ps.margin(net(), outputs),
    "entropy": lambda: ps.entropy(net(), outputs),
    "head_grad_norm": lambda: ps.head_grad_norm(net(), with_features),
    "difference": lambda: ps.difference(_remembering(), ps.el2n(net(), outputs)),
    "total": lambda: ps.total(ps.batched(net(), cross_entropy), ps.el2n(net(), outputs)),
    "rank_mix": lambda: ps.rank_mix(ps.batched(net(), cross_entropy), ps.margin(net(), outputs)),
    "reducible": lambda: ps.reducible(ps.batched(net(), cross_entropy), TABLE, size=SAMPLES, id=last),
    "reducible-model": lambda: ps.reducible(ps.batched(net(), cross_entropy), lambda batch: TABLE[batch[2]]),
    "remembered": lambda: ps.remembered(ps.batched(net(), cross_entropy), SAMPLES, every=3, id=last),
    "remembered-fixed": lambda: _remembering(),
    "recalled": lambda: _recalling(),
    "change": lambda: ps.change(ps.batched(net(), cross_entropy), SAMPLES, id=last),
    "change-first": lambda: ps.change(_remembering(), SAMPLES, order=1, id=last),
}
# Means by id, and how much of what was known an id keeps.
TABLES: dict[str, Callable[[], tuple[ps.Table, float]]] = {
    "table": lambda: (ps.table(NUMBERED), 0.9),
    "table-half": lambda: (ps.table(NUMBERED, decay=0.5), 0.5),
    "table-all": lambda: (ps.table(NUMBERED, decay=1.0), 1.0),
    "table-last": lambda: (ps.table(NUMBERED, decay=0), 0.0),
}
DYNAMIC = {"remembered"}  # whose shapes hang on data: neither compiled in one frame nor mapped
SAMPLES = 100
NUMBERED = 12  # samples of a table
TABLE = ps.keys.uniform(ps.key(77), SAMPLES)


def _widened(score: Any) -> Any:
    """The score of rows that were cut, filled up with zeros to what the net takes."""
    return lambda params, batch: score(params, (torch.nn.functional.pad(batch[0], (0, 1)), *batch[1:]))


def last(batch: tuple[Tensor, ...]) -> Tensor:
    return batch[-1]


def candidates(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A pool for the small classifier, with ids."""
    ids = ps.keys.uniform(ps.key(seed + 1), SAMPLES).argsort()[:rows]
    return (*data(rows, seed).tensors, ids)


def with_features(model: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and what enters the head."""
    features = batch[0]
    for layer in list(model)[:-1]:
        features = layer(features)
    return model[-1](features), batch[1], features


def outputs(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return with_features(model, batch)[:2]


def _remembering() -> ps.Score:
    return ps.remembered(ps.batched(net(), cross_entropy), SAMPLES, every=2, id=last, gather=False)


def _recalling() -> ps.Score:
    """One that was told the loss of every sample."""
    score = ps.recalled(SAMPLES, id=last)
    state = score.init()
    return score._replace(init=lambda: state._replace(losses=TABLE.clone()))


def once(score: Any) -> Callable[[Any, Any], Tensor]:
    """A score, remembering or not, as a plain one that starts anew at each call."""
    memory = lift(score)
    return lambda params, batch: memory.apply(memory.init(), params, batch)[1]


def naive(name: str, model: Any, pool: Any) -> list[float]:
    """What a score is by its definition, row by row, in double precision and plain Python."""
    model = copy.deepcopy(model).double().eval()
    x, y, ids = pool[0].double(), pool[1].tolist(), pool[2].tolist()
    if name == "truncated":
        x = torch.tensor([[*row[:3], 0.0] for row in x.tolist()], dtype=torch.float64)
    with torch.no_grad():
        probs = [model(x[i : i + 1])[0].softmax(0).tolist() for i in range(len(y))]
    loss = [-math.log(p[c]) for p, c in zip(probs, y, strict=True)]
    error = [math.dist(p, [float(k == c) for k in range(len(p))]) for p, c in zip(probs, y, strict=True)]
    close = [1 - (sorted(p)[-1] - sorted(p)[-2]) for p in probs]
    gaps = [one - float(TABLE[i]) for one, i in zip(loss, ids, strict=True)]

    def gradients(prefix: str) -> list[float]:
        chosen = [p for n, p in model.named_parameters() if n.startswith(prefix)]
        losses = [cross_entropy(model, (x[i : i + 1], pool[1][i : i + 1])).sum() for i in range(len(y))]
        return [math.sqrt(sum(float(g.square().sum()) for g in torch.autograd.grad(one, chosen))) for one in losses]

    def shares(values: list[float]) -> list[float]:
        return [(sum(v < one for v in values) + sum(v <= one for v in values)) / (2 * len(y)) for one in values]

    known: dict[str, Callable[[], list[float]]] = {
        "grad_norm": lambda: gradients(""),
        "grad_norm-head": lambda: gradients("4."),
        "head_grad_norm": lambda: gradients("4."),
        "el2n": lambda: error,
        "margin": lambda: close,
        "entropy": lambda: [-sum(q * math.log(q) for q in p) for p in probs],
        "difference": lambda: [a - b for a, b in zip(loss, error, strict=True)],
        "total": lambda: [a + b for a, b in zip(loss, error, strict=True)],
        "rank_mix": lambda: [(a + b) / 2 for a, b in zip(shares(loss), shares(close), strict=True)],
        "recalled": lambda: [float(TABLE[i]) for i in ids],
        "reducible": lambda: gaps,
        "reducible-model": lambda: gaps,
    }
    return known.get(name, lambda: loss)()


@functools.cache
def _compiled() -> Any:
    """One for all laws: each is compiled anew."""
    return ps.compiled(ps.batched(net(), cross_entropy), backend="aot_eager")


def flat(tree: Any) -> dict[str, Tensor]:
    return paths.flat(tree)


def leaves(tree: Any) -> list[Tensor]:
    return trees.leaves(tree)


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, NaN equal to NaN."""
    return not comparing.difference(one, other)


@contextmanager
def untouched(*inputs: Any) -> Iterator[None]:
    """No input tensor changes (bytes, version), nor does the global RNG."""
    with comparing.untouched(**{str(place): tree for place, tree in enumerate(inputs)}):
        yield


def same_layout(one: Any, other: Any) -> None:
    """Shapes, dtypes and kinds are constant."""
    assert not (found := comparing.layout(one, other)), found


def odds_are_odds(odds: ps.Odds, size: int) -> None:
    """0 <= p <= 1; weights finite and positive."""
    ruling.assert_odds(odds, size)
    assert odds.probs.dtype == odds.weights.dtype == torch.float32


def columns(size: int) -> dict[str, Tensor]:
    """The columns of a pool that has none of its own."""
    return {"group": torch.arange(size) * 7 % 3, "id": (torch.arange(size) * 5 + 2) % 96}


def warmed(rule: ps.Rule, pools: int = 3, size: int = 16) -> Any:
    """A state that has seen a few pools."""
    return ruling.warmed(rule, pools, size, columns)


def stack(*states: Any) -> Any:
    """States side by side, for vmap."""
    return trees.map_leaves(lambda *leaves: torch.stack(leaves), *states)
