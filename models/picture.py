"""Fit a picture by a small network, twice: on pixels in random order, and on pixels drawn from their last losses.

    python -m models.picture                      two minutes on two cores; writes picture.png
    python -m models.picture --picture mine.jpg --out mine.png

Both runs take the same time, evaluation not counted. Nothing is scored: the losses that training computes anyway are
kept in a table, and every 16 steps the next 16 batches of pixels are drawn from it.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import puresift as ps

SIDE, WIDTH, BATCH, LR, WARM_UP = 192, 128, 1024, 2e-3, 0.06  # the rate is the best of 1, 2 and 4e-3 for plain
Batch = tuple[Tensor, Tensor]  # coordinates [B, 2] and colours [B, 3]


class Sine(nn.Module):
    """A linear layer and a sine of 30 times it, initialised so that both keep their spread (Sitzmann et al., 2020)."""

    def __init__(self, inputs: int, outputs: int, first: bool = False):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(Sine(2, WIDTH, True), Sine(WIDTH, WIDTH), Sine(WIDTH, WIDTH), nn.Linear(WIDTH, 3))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """The squared error of each pixel, Float[B]."""
    return (model(batch[0]) - batch[1]).square().mean(1)


def read(path: Path | None) -> Tensor:
    """The middle square of a picture, Float[SIDE, SIDE, 3] in [0, 1]; by default one that comes with matplotlib."""
    from matplotlib import cbook, image

    pixels = image.imread(path or cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    picture = torch.tensor(pixels)[..., :3].float() / (255 if pixels.dtype.kind == "u" else 1)
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = picture[top : top + side, left : left + side].movedim(-1, 0)[None]
    return F.interpolate(square, (SIDE, SIDE), mode="area")[0].movedim(0, -1)


class Mark(NamedTuple):
    """How far a run has come."""

    seconds: float  # of training, evaluation not counted
    psnr: float  # dB, over all pixels
    drawn: Tensor  # [SIDE, SIDE, 3]


Feed = Iterator[tuple[Batch, Callable[[Tensor], None]]]  # batches, each with where its losses go


def fit(data: Batch, feed: Feed, steps: int, seed: int, marks: int = 25) -> Iterator[Mark]:
    """Train at a rate that ends at zero, with some marks on the way."""
    model = network(seed)
    optimizer, seconds = torch.optim.Adam(model.parameters(), LR), 0.0
    for step in range(steps):
        began = time.perf_counter()
        batch, observe = next(feed)
        done = (step + 0.5) / steps
        optimizer.param_groups[0]["lr"] = LR * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
        losses = loss(model, batch)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        observe(losses.detach())
        seconds += time.perf_counter() - began
        if (step + 1) * marks // steps > step * marks // steps:
            with torch.no_grad():
                drawn = model(data[0])
            error = float((drawn - data[1]).square().mean())
            yield Mark(seconds, -10 * math.log10(error), drawn.view(SIDE, SIDE, 3).clamp(0, 1))


def plain(data: Batch, seed: int) -> Feed:
    """Pass after pass over all pixels, each in an order of its own."""
    dice = torch.Generator().manual_seed(seed)
    while True:
        for ids in torch.randperm(SIDE * SIDE, generator=dice).split(BATCH):
            yield (data[0][ids], data[1][ids]), lambda losses: None


def sifted(data: Batch, steps: int, seed: int) -> Feed:
    """Pixels in proportion to the root of their last loss, a fifth of the odds shared by all alike; no weights."""
    rule = ps.by_root(ps.importance(keep=0.05, floor=0.2, bias=0.0))
    prioritizer = ps.prioritizer(rule, size=SIDE * SIDE, batch_size=BATCH, steps=steps)
    stream = ps.prioritize(prioritizer, prioritizer.init(ps.key(seed)), data)
    for batch, _, _, _ in stream:
        yield batch, stream.observe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="a PNG or JPEG file (default: one that comes with matplotlib)")
    parser.add_argument("--steps", type=int, default=4_000, help="of the plain run (default: 4000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    o = parser.parse_args()
    picture = read(o.picture)
    side = torch.linspace(-1, 1, SIDE)
    data = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 2), picture.reshape(-1, 3)
    feeds: dict[str, Callable[[int], Feed]] = {
        "plain": lambda steps: plain(data, o.seed),
        "sifted": lambda steps: sifted(data, steps, o.seed),
    }
    steps = {"plain": o.steps, "sifted": round(o.steps * pace(feeds, data))}
    runs = {name: fit(data, make(steps[name]), steps[name], o.seed) for name, make in feeds.items()}
    marks: dict[str, list[Mark]] = {name: [] for name in runs}
    for both in zip(*runs.values(), strict=True):  # in turns, so that a slow minute falls on both
        for name, mark in zip(runs, both, strict=True):
            marks[name].append(mark)
        print(
            "  ".join(f"{name} {found[-1].psnr:5.2f} dB in {found[-1].seconds:3.0f} s" for name, found in marks.items())
        )
    curves = {name: [(mark.seconds, mark.psnr) for mark in found] for name, found in marks.items()}
    content = {"steps": steps, "seed": o.seed, "threads": torch.get_num_threads(), "torch": torch.__version__}
    o.out.with_suffix(".json").write_text(json.dumps({**content, "curves": curves}, indent=1) + "\n")
    draw(picture, {name: found[-1].drawn for name, found in marks.items()}, curves, o.out)
    print(f"wrote {o.out}")


def pace(feeds: dict[str, Callable[[int], Feed]], data: Batch, rounds: int = 7, steps: int = 40) -> float:
    """A plain step's time over a sifted one's: the median of some rounds in which they take turns."""
    runs = {name: fit(data, make(rounds * steps), rounds * steps, 0, marks=rounds) for name, make in feeds.items()}
    ends = [[next(run).seconds for run in runs.values()] for _ in range(rounds)]
    ratios = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(ends)]  # first calls are slow, and left out
    return statistics.median(ratios)


def draw(picture: Tensor, drawn: dict[str, Tensor], curves: dict[str, list[tuple[float, float]]], out: Path) -> None:
    """The target and both fits, the errors of both on one scale, and PSNR against time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.2), layout="constrained")
    axes = figure.subplots(2, 3)
    errors = {name: (fit - picture).abs().mean(-1) for name, fit in drawn.items()}
    most = float(torch.cat([error.flatten() for error in errors.values()]).quantile(0.99))
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("target")
    for row, (name, fit) in enumerate(drawn.items(), 1):
        axes[0, row].imshow(fit)
        axes[0, row].set_title(f"{name}: {curves[name][-1][1]:.1f} dB in {curves[name][-1][0]:.0f} s")
        axes[1, row].imshow(errors[name], cmap="magma", vmin=0, vmax=most)
        axes[1, row].set_title(f"error of {name}")
    for panel in (*axes[0], *axes[1, 1:]):
        panel.axis("off")
    for (name, curve), colour in zip(curves.items(), ("#444444", "#1f6fb4"), strict=True):
        axes[1, 0].plot(*zip(*curve, strict=True), color=colour, label=name, lw=2)
    axes[1, 0].set(xlabel="seconds of training", ylabel="PSNR [dB]")
    axes[1, 0].spines[["top", "right"]].set_visible(False)
    axes[1, 0].grid(alpha=0.25)
    axes[1, 0].legend(frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
