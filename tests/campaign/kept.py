"""The streams whose states are kept in data/, as version 0.1.0 wrote them; as a script, it writes them anew."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import puresift as ps

FOLDER = Path(__file__).parent / "data"
ROWS, PER_POOL, PASSES = 48, 12, 4


def pools() -> list[dict[str, torch.Tensor]]:
    """Pools of rows with tokens, whose lengths differ, and a name with a "/" in it."""
    rows = torch.arange(ROWS)
    x, length = ps.keys.uniform(ps.key(5), ROWS), rows * 5 % 6 + 1
    tokens = torch.where(torch.arange(6) < length[:, None], rows[:, None], -1)
    whole = {"id": rows, "x": x, "text/ids": tokens, "length": length}
    return [{name: leaf[at : at + PER_POOL] for name, leaf in whole.items()} for at in range(0, ROWS, PER_POOL)]


def sifter() -> ps.Sifter:
    """Buffer, history, score and the tables of groups and visits all hold something after a few pools."""
    score = ps.change(ps.remembered(lambda params, batch: batch["x"] * params["scale"], ROWS, every=2), ROWS, order=1)
    rule = ps.by_group(ps.relative(keep=0.6, history=32), groups=3, fractions="equal")
    rule = ps.cover(ps.unbiased(ps.floor(rule, 0.2), clip=3.0), size=ROWS, epochs=3)
    return ps.sifter(
        score,
        rule,
        batch_size=5,
        columns={"id": lambda batch: batch["id"], "group": lambda batch: batch["id"] % 3},
        pad={"text/ids": ps.Pad(-1, 6)},
        bucket=lambda batch: batch["length"],
        window=2,
    )


def prioritizer() -> ps.Prioritizer:
    """Losses wait in it, beside those in the table."""
    rule = ps.by_error(ps.importance(keep=0.3, floor=0.2))
    return ps.prioritizer(rule, size=ROWS, batch_size=4, every=3, steps=30, start=0.5)


def sifted(state: Any = None) -> Any:
    """A stream that trains: what it is given back are losses that fall."""
    start = sifter().init(ps.key(8), pools()[0]) if state is None else state
    return ps.sift(sifter(), start, {"scale": torch.tensor(2.0)}, ps.epochs(pools(), PASSES))


def prioritized(state: Any = None) -> Any:
    start = prioritizer().init(ps.key(8)) if state is None else state
    return ps.prioritize(prioritizer(), start, {"x": ps.keys.uniform(ps.key(5), ROWS)})


STREAMS = {"sift": (sifted, 5), "prioritize": (prioritized, 14)}  # and after how many batches the state was saved


def observed(stream: Any) -> Iterator[Any]:
    """The batches of a stream, each observed before the next one."""
    for one in stream:
        losses = one.batch["x"].square()
        stream.observe(losses)
        yield one


def digest(stream: Any) -> str:
    """What is left of a stream: rows, weights to three places, and the pools read."""
    sha = hashlib.sha256()
    for batch, weights, state, info in observed(stream):
        rows = batch["id"] if "id" in batch else info.extra["id"]
        sha.update(repr((rows.tolist(), [round(weight, 3) for weight in weights.tolist()], int(state.step))).encode())
    return sha.hexdigest()[:16]


def template(name: str) -> Any:
    return STREAMS[name][0]().state


if __name__ == "__main__":
    for name, (make, batches) in STREAMS.items():
        stream = make()
        for _, _one in zip(range(batches), observed(stream), strict=False):
            pass
        torch.save(ps.state_dict(stream.state), Path(sys.argv[1]) / f"{name}_{ps.__version__}.pt")
        print(ps.__file__, name, digest(make(stream.state)), digest(make()))
