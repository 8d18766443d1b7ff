"""Cases for processes of their own: models.train on this rank, stopped, resumed and refused."""

import contextlib
import io
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.bert import modeling_bert  # noqa: F401 - takes seconds: once for all processes

from models import train


def trained(
    rank: int,
    world: int,
    argv: list[str],
    stop: int = 0,
    environment: Any = (),
    broken: tuple[str, ...] = (),
    lost: bool = False,
) -> Any:
    """How a run ends, what it says, the ids of the rows it trains on, and its weights.

    With `stop` the last rank alone gets a SIGTERM at that step; `broken` is a folder, and where a copy of it is made
    whose checkpoints are cut short. With `lost` the last rank has no data.
    """
    if broken and rank == 0:
        shutil.copytree(*broken)
        for path in Path(broken[1]).glob("*/*.pt"):
            path.write_bytes(b"PK")
    ids: list[int] = []
    models: list[Any] = []
    update = train.arms.update

    def counted(model: Any, optimizer: Any, batch: Any, weights: Any, *rest: Any) -> float:
        counted.steps += 1  # type: ignore[attr-defined]
        models[:] = [model]
        real = torch.ones_like(batch["id"], dtype=torch.bool) if weights is None else weights > 0
        ids.extend(batch["id"][real].tolist())
        if rank == world - 1 and counted.steps == stop:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)
        return update(model, optimizer, batch, weights, *rest)

    counted.steps = 0  # type: ignore[attr-defined]
    out, err, code = io.StringIO(), io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(train.arms, "update", counted)
        patch.setattr(train.report, "draw", lambda folders, out: [])  # figures take a second each
        if lost and rank == world - 1:
            patch.setattr(train.data, "load", lambda source, seed: fail("reviews: no such file"))
        for name, value in environment:
            patch.setenv(name, value)
        try:
            code = train.main(argv)
        except SystemExit as stopped:
            code = stopped.code
    weights = sum(p.double().abs().sum().item() for p in models[0].parameters()) if models else None
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "ids": ids, "weights": weights}


def fail(words: str) -> None:
    raise ValueError(words)
