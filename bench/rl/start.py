"""Where all arms of a seed begin: a model that was told some answers, and is right about half of the time."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from bench.rl.net import Speaker, logs
from bench.rl.task import problems, spoken

ROWS, RATE = 128, 2e-3  # of its batches, and its highest learning rate
TOLD = 400  # batches


def begun(seed: int, folder: Path, told: int = TOLD) -> Speaker:
    """The model of a seed, from its file where that is there."""
    path = folder / f"start-{seed}-{told}.pt"
    torch.manual_seed(seed)
    model = Speaker()
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    _teach(model, seed, told)
    folder.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(model.state_dict(), beside)
    os.replace(beside, path)
    return model


def _teach(model: Speaker, seed: int, told: int) -> None:
    """Cross entropy on problems that are never held out, each seen once, with slips in some kinds of answers."""
    examples = problems(ROWS * told, 1000 + seed, slips=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    for step in range(told):
        rows = examples.take(torch.arange(step * ROWS, (step + 1) * ROWS))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50, 5 * (told - step) / told)
        said = spoken(rows.answers)
        loss = -(logs(model, rows.prompts, rows.answers[:, None])[:, 0] * said).sum() / said.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
