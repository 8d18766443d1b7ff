"""Loaders, samplers, states and models that do not fit: (name, act, words); words None where it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import puresift as ps
from tests.campaign.bad_data import NAN, drawn, fresh, pool, score, sifter
from tests.campaign.bad_settings import POOL, Row


def loaders() -> Iterator[Row]:
    """Loaders that give nothing, or cannot be found again."""
    built = sifter()
    run = lambda loader, state=None, **more: list(ps.sift(built, state or fresh(), {}, loader, **more))  # noqa: E731
    later = built.step(fresh(), {}, pool())[0]
    yield "peek into nothing", lambda: ps.peek([]), "the loader is empty"
    yield "no pool", lambda: run([]), "the loader gave no batch"
    yield "a used iterator", lambda: run(iter([])), "used up before is the usual cause"
    yield "too few rows", lambda: run([pool(2)]), "lower batch_size, raise keep"
    yield "no length to find the place by", lambda: run((one for one in [pool()]), later), "pass skip=0"
    yield "skip below 0", lambda: run([pool()], skip=-1), "skip must be a whole number >= 0"
    yield "skip of a half", lambda: run([pool()], skip=0.5), "skip must be a whole number >= 0"
    yield "a clock alone", lambda: run([pool()], clock=lambda: 0.0), "pass governor=ps.governor() with it"
    yield "a governor not called", lambda: run([pool()], governor=ps.governor), "call it, as in ps.governor(...)"
    yield "a model as parameters", lambda: ps.sift(built, fresh(), nn.Linear(1, 1), [pool()]), "pass ps.live(model)"
    yield "epochs of an iterator", lambda: ps.epochs(iter([pool()]), 2), "pass an iterable that starts anew"
    make = lambda loader, params=None, **more: ps.SiftingDataLoader(  # noqa: E731
        loader, score, ps.top(0.5), params={} if params is None else params, **{"batch_size": 2, **more}
    )
    yield "a loader of an iterator", lambda: make(iter([pool()])), "can be iterated again, such as a DataLoader"
    yield "a loader of a number", lambda: make(3), "can be iterated again, such as a DataLoader"
    yield "a loader of a loader", lambda: make(make([pool()])), "sifted already; wrap the loader inside of it, once"
    yield "a loader's model", lambda: make([pool()], nn.Linear(1, 1)), "pass params=ps.live(model)"
    yield "a loader's params", lambda: make([pool()], 3), "pass ps.live(model), a callable or a mapping"
    yield "an unknown setting", lambda: make([pool()], keep=0.5), "there is no setting keep; those of the sifter are"
    yield "a loader's weights", lambda: make([pool()], weights=3), "weights must be None, True or a name"
    yield "a loader's weights too early", lambda: make([pool()]).weights, "no batch was yielded yet"
    yield "weights in a tuple", lambda: list(_weighted((POOL,), "w")), "pass weights=True to get (batch, weights)"
    yield "weights with a taken name", lambda: list(_weighted(pool(), "x")), "choose another name for weights="
    yield "weights unread", lambda: list(_weighted(pool(), None)), "nothing has read them"
    yield "an empty pass", lambda: list(make([])), "the loader is empty"
    yield "progress of no pools", lambda: ps.progress(fresh(), 0), "pools must be a whole number >= 1"


def samplers() -> Iterator[Row]:
    """Samplers of an epoch that is not planned, with losses of others, with states of others."""
    labels = torch.arange(12) % 3
    made: dict[str, Callable[[int], Any]] = {
        "infobatch": lambda epochs: ps.infobatch(12, epochs=epochs),
        "rs2": lambda epochs: ps.rs2(12, keep=0.5, epochs=epochs),
        "balanced": lambda epochs: ps.balanced(labels, epochs=epochs),
        "downsampled": lambda epochs: ps.downsampled(labels, keep=0.5, epochs=epochs),
    }
    for name, make in made.items():
        for epoch in (-1, 2, 99):
            yield f"{name} in epoch {epoch}", lambda m=make, e=epoch: m(2).set_epoch(e), "pass the sampler more epochs="
        other = lambda m=make: m(2).load_state_dict(m(3).state_dict())  # noqa: E731
        yield f"{name} of other epochs", other, "build it with the same size and epochs as when it was saved"
        yield f"{name} of nothing", lambda m=make: m(2).load_state_dict({}), "build it with the same size and epochs"
        yield f"{name} numbers rows", lambda m=make: set(m(2)) <= set(range(12)), None
    observe = lambda ids, losses: ps.infobatch(12, epochs=2).observe(ids, losses)  # noqa: E731
    yield "infobatch of fewer losses", lambda: observe(torch.arange(4), POOL), "observe takes one loss an id"
    yield "infobatch of an id too large", lambda: observe(torch.arange(8) + 5, POOL), "ids must lie in [0, 12)"
    drawer = ps.prioritizer(ps.top(0.5), size=9, batch_size=2)
    for value in (0, -1, 1.5, "2", None, True):
        words = "prefetch must be a whole number >= 1"
        yield f"prefetch={value!r}", lambda v=value: ps.PrioritizedSampler(drawer, prefetch=v), words
        yield f"sync={value!r}", lambda v=value: ps.PrioritizedSampler(drawer, sync=v), "sync must be a whole number"
    unheard = lambda: [None for _ in ps.PrioritizedSampler(drawer, prefetch=2)]  # noqa: E731
    yield "losses that do not come back", unheard, "or pass a larger prefetch="


def states() -> Iterator[Row]:
    """States of others, and files that are none."""
    others: dict[str, tuple[Callable[[], Any], str]] = {
        "another rule": (lambda: fresh(rule=ps.prune(0.5)), "build the sifter with the same score, rule and columns"),
        "another wrapper": (lambda: fresh(rule=ps.delay(ps.top(0.5), 1)), "the state is of another kind"),
        "another batch size": (lambda: fresh(batch_size=3), "build it with the same batch_size, pool"),
        "another pool": (lambda: fresh(first=pool(9)), "build it with the same batch_size, pool"),
        "another leaf": (lambda: fresh(first=pool(y=POOL)), "the state is of another kind"),
        "another dtype": (lambda: fresh(first={"x": POOL.double()}), "was saved as torch.float64"),
        "another row": (lambda: fresh(first={"x": POOL[:, None]}), "build it with the same batch_size, pool"),
        "a prioritizer's": (lambda: drawn()[1], "the state is of another kind"),
    }
    for name, (other, words) in others.items():
        yield f"a state of {name}", lambda o=other: ps.load_state_dict(fresh(), ps.state_dict(o())), words
    drawers: dict[str, tuple[dict[str, Any], str]] = {
        "another size": ({"size": 10}, "build it with the same size, batch_size, every, dtype"),
        "another batch size": ({"batch_size": 3}, "build it with the same size, batch_size"),
        "another every": ({"every": 3}, "build it with the same size, batch_size"),
        "another dtype": ({"dtype": torch.float16}, "was saved as torch.float16"),
    }
    for name, (settings, words) in drawers.items():
        flat = lambda s=settings: ps.state_dict(drawn(**s)[1])  # noqa: E731
        yield f"a prioritizer's state of {name}", lambda f=flat: ps.load_state_dict(drawn()[1], f()), words
    flat = ps.state_dict(fresh())
    for name in flat:
        less = {key: value for key, value in flat.items() if key != name}
        yield (
            f"a state without {name}",
            lambda f=less: ps.load_state_dict(fresh(), f),
            ("this puresift reads version" if name == "version" else "the state is of another kind"),
        )
    for version in (0, 2, 99, -1):
        other = {**flat, "version": torch.tensor(version)}
        yield (
            f"version {version}",
            lambda f=other: ps.load_state_dict(fresh(), f),
            f"has version {version}, and this pu",
        )
    yield "an empty file", lambda: ps.load_state_dict(fresh(), {}), "has version none"
    yield "objects in a file", lambda: ps.state_dict(fresh(first={"text": ["a", "b"]})), "look the objects up by it"
    short = ps.prioritizer(ps.top(0.5), size=9, batch_size=2)
    begin = lambda data: ps.prioritize(short, short.init(ps.key(0)), data)  # noqa: E731
    yield "too few samples", lambda: begin(torch.zeros(8)), "the data have 8 samples and the prioritizer 9"
    yield "data that come once", lambda: begin(iter([])), "Data that come once are sifted by ps.sift"
    yield "data that are a number", lambda: begin(3), "Data that come once are sifted by ps.sift"
    yield "too long to observe", lambda: short.observe(short.init(ps.key(0)), torch.arange(3), POOL[:3]), "up to 2 of"
    yield "one loss too many", lambda: short.observe(short.init(ps.key(0)), torch.arange(2), POOL[:1]), "one loss an id"
    yield "an id too large", lambda: short.observe(short.init(ps.key(0)), torch.tensor([9]), POOL[:1]), "lie in [0, 9)"
    yield "p = 0 for all", lambda: _nothing().draw(_nothing().init(ps.key(0))), "as in ps.floor(rule, least=0.05)"
    named = lambda rows: ps.prioritizer(ps.top(0.5), size=9, batch_size=2, columns={"group": torch.zeros(rows)})  # noqa: E731
    yield "a column too short", lambda: named(8), "must have one entry a sample, [9]"


def models() -> Iterator[Row]:
    """Scores of models, with outputs, labels and parameters that do not fit; and `ps.check` of those that break."""
    model, x, y = nn.Linear(3, 2), torch.zeros(4, 3), torch.arange(4) % 2
    live = ps.live(model)
    for name, make in {"el2n": ps.el2n, "margin": ps.margin, "entropy": ps.entropy}.items():
        for bad, outputs in {
            "one output": lambda m, b: (m(b),),
            "a dict": lambda m, b: {"logits": m(b)},
            "logits of rows": lambda m, b: (m(b)[:, 0], y),
            "logits of fewer rows": lambda m, b: (m(b)[:2], y),
        }.items():
            words = "outputs must give" if bad in ("one output", "a dict") else "logits must have shape"
            yield f"{name}: {bad}", lambda k=make, o=outputs: k(model, o)(live, x), words
    for name, labels in {"one-hot": torch.eye(4)[:, :2], "floats": y.float(), "too few": y[:3]}.items():
        outputs = lambda m, b, labels=labels: (m(b), labels)  # noqa: E731
        yield f"el2n: labels {name}", lambda o=outputs: ps.el2n(model, o)(live, x), "labels must be class numbers"
    batched = ps.batched(model, lambda m, b: m(b).sum(1))
    yield "no parameters", lambda: batched({}, x), "params must be all parameters and buffers of the model"
    yield "a parameter more", lambda: batched({**live, "more": x}, x), "unknown ['more']"
    yield "nothing to learn", lambda: ps.grad_norm(model, torch.sub, only=lambda name: False), "no parameter counts"
    broken: dict[str, tuple[Callable[..., Tensor], str]] = {
        "draws": (lambda p, b: torch.rand(len(b)), "moves the global random generator"),
        "reads its place": (lambda p, b: torch.arange(len(b)) * 1.0, "compute it from the row alone"),
        "mixes rows": (lambda p, b: b[:, 0] - b[:, 0].mean() + len(b), "rows meet, as in BatchNorm"),
        "is NaN": (lambda p, b: b[:, 0] / 0, "look for padding"),
        "writes": (lambda p, b: b.add_(1)[:, 0], "work on a clone"),
        "records gradients": (lambda p, b: model(b)[:, 0], "compute it under torch.no_grad()"),
    }
    for name, (bad, words) in broken.items():
        yield f"a score that {name}", lambda s=bad: ps.check(s, {}, torch.rand(8, 3)), words
    yield "check of one row", lambda: ps.check(batched, live, x[:1]), "pass one with two rows or more"
    yield "check with tolerance below 0", lambda: ps.check(batched, live, x, tolerance=-1), "tolerance must be in"
    yield "irreducible too few", lambda: ps.reducible(batched, torch.zeros(8), size=9), "one irreducible loss for each"
    yield "irreducible NaN", lambda: ps.reducible(batched, torch.full((9,), NAN), size=9), "irreducible losses are NaN"
    yield "irreducible unsized", lambda: ps.reducible(batched, torch.zeros(9)), "needs size=len(dataset)"
    yield "with_ids of a stream", lambda: ps.with_ids(iter([])), "ids number the items of a map-style dataset"
    replay = lambda losses, **more: ps.replay(ps.top, [0.5], losses, **more)  # noqa: E731
    yield "replay of nothing", lambda: replay(torch.zeros(0)), "losses must be Float[N] with N >= 1"
    yield "replay of NaN", lambda: replay(torch.full((9,), NAN)), "leave out rows that were not scored"
    yield "replay in pools of none", lambda: replay(POOL, pool=0), "pool must be a whole number >= 1"


def _nothing() -> ps.Prioritizer:
    return ps.prioritizer(ps.threshold(9.0), size=9, batch_size=2, start=0)


def _weighted(batch: Any, weights: Any) -> Any:
    of = lambda params, given: given["x"] if isinstance(given, dict) else given[0]  # noqa: E731
    return ps.SiftingDataLoader([batch] * 3, of, ps.importance(0.5), params={}, batch_size=2, weights=weights)
