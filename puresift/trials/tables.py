"""Tables and figures of replayed rules, for the command line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from puresift.errors import SiftError
from puresift.trials.replays import Replayed, overlap

LABELS = ("label", "labels", "class", "group", "y")
_CLASSES = 10  # of more, only the most frequent are shown


def costs(answer: Replayed, names: list[str], width: int, phi: float) -> list[str]:
    """What each rule keeps, and what a row then costs."""
    lines = [f"{'rule':<{width}}  {'keep':>6}  {'planned':>7}  {'ESS':>6}  {f'cost at phi {phi:g}':>16}"]
    for row, name in enumerate(names):
        keep, planned, ess = float(answer.keep[row]), float(answer.planned[row]), float(answer.ess[row])
        verdict = "" if phi + keep < 1 else "  (no less than training on everything)"
        lines.append(f"{name:<{width}}  {keep:>6.3f}  {planned:>7.3f}  {ess:>6.3f}  {phi + keep:>16.3f}{verdict}")
    return [
        *lines,
        "",
        "cost: time per row seen, in rows trained on. ESS: of the kept weights, as a share of all rows.",
    ]


def overlaps(answer: Replayed, names: list[str], width: int) -> list[str]:
    """How much of what one rule keeps another keeps as well."""
    shared = [[f"{value:.2f}" for value in row] for row in overlap(answer.mask).tolist()]
    rows = [f"{name:<{width}}  " + "  ".join(row) for name, row in zip(names, shared, strict=True)]
    return ["", "overlap of what is kept (Jaccard)", *rows]


def labels_of(columns: dict[str, Any], scored: Tensor, name: str | None) -> list[Any] | None:
    if name is not None and name not in columns:
        raise SiftError(f"the log has no column {name!r}; it has {', '.join(columns)}")
    name = name or next((label for label in LABELS if label in columns), None)
    if name is None:
        return None
    column = columns[name]
    values = column.tolist() if isinstance(column, Tensor) else column
    return [value for value, seen in zip(values, scored.tolist(), strict=True) if seen]


def class_mix(answer: Replayed, names: list[str], width: int, labels: list[Any] | None) -> list[str]:
    """The share of each class among what is kept, and of everything."""
    if labels is None:
        return []
    counts: dict[str, int] = {}
    for label in map(str, labels):
        counts[label] = counts.get(label, 0) + 1
    shown = sorted(sorted(counts, key=lambda label: -counts[label])[:_CLASSES])
    member = torch.tensor([[str(label) == one for label in labels] for one in shown])
    masks = [torch.ones(len(labels), dtype=torch.bool), *answer.mask]
    lines = ["", f"{'class mix':<{width}}  " + "  ".join(f"{label:>6.6}" for label in shown)]
    for name, mask in zip(["(everything)", *names], masks, strict=True):
        shares = (member & mask).sum(1) / mask.sum().clamp(min=1)
        lines.append(f"{name:<{width}}  " + "  ".join(f"{share:>6.3f}" for share in shares.tolist()))
    if len(counts) > len(shown):
        lines.append(f"(the {len(shown)} most frequent of {len(counts)} classes)")
    return lines


def plot(answer: Replayed, names: list[str], losses: Tensor, phi: float, path: str) -> None:
    try:
        figures = import_module("matplotlib.figure")
    except ImportError:
        raise SiftError("--plot needs matplotlib: pip install matplotlib") from None
    figure = figures.Figure(figsize=(10, 4), layout="constrained")
    shares_kept, costs = figure.subplots(1, 2)
    parts = losses.argsort().tensor_split(min(20, len(losses)))
    for row, name in enumerate(names):
        shares = [float(answer.mask[row][part].float().mean()) for part in parts]
        shares_kept.plot([(at + 0.5) / len(parts) for at in range(len(parts))], shares, label=name)
    shares_kept.set(xlabel="rank of the loss, smallest to largest", ylabel="share kept", ylim=(-0.02, 1.02))
    shares_kept.legend()
    costs.barh(names, answer.keep.tolist(), label="k, training")
    costs.barh(names, [phi] * len(names), left=answer.keep.tolist(), label="phi, scoring")
    costs.axvline(1.0, color="black", linewidth=1)
    costs.set(xlabel="cost of a row seen; 1 is training on everything")
    costs.legend()
    figure.savefig(path)
