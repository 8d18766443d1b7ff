"""Functions of a place: a picture, whose rows are its pixels, and a flow, whose rows are points of space and time."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from bench.quality import nets
from bench.quality.task import Data, Examples, Missing, seeded

SIDE = 192  # of a picture, in pixels


def picture(folder: Path, *, name: str) -> Data:
    """Each pixel is a row: its place, and its colours in [-1, 1]. What is learnt is what is judged."""
    try:
        from skimage import data, transform
    except ImportError as error:
        raise Missing(f'{error}: pip install -e ".[bench]"') from error
    image = getattr(data, name)()
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = image[top : top + side, left : left + side]
    small = torch.tensor(transform.resize(square, (SIDE, SIDE), anti_aliasing=True), dtype=torch.float32)
    line = torch.linspace(-1, 1, SIDE)
    labels = small.view(SIDE * SIDE, -1) * 2 - 1
    pixels = {"x": torch.cartesian_prod(line, line), "labels": labels, "id": torch.arange(SIDE * SIDE)}
    return Data(pixels, pixels, pixels, partial(seeded, lambda: nets.siren(labels.shape[1])), {})


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared error, Float[B], on average over channels."""
    return (outputs.float() - labels).square().mean(1)


def psnr(outputs: Tensor, labels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, of values in [-1, 1]."""
    return float(10 * torch.log10(4 / (outputs.double() - labels).square().mean()))


# Burgers' equation, u_t + u u_x = nu u_xx, from -sin(pi x), and zero at both ends: a shock builds up in the middle.

VISCOSITY = 0.01 / math.pi
GIVEN, WEIGHT = 256, 20.0  # points of the start and of the ends; of a squared error there, against a residual


def burgers(folder: Path, *, points: int = 10_000, side: int = 64) -> Data:
    """Each point is a row: its place and time; labels are 1 and u where that is given, 0 and 0 where it is not.

    The test rows are a grid, with the u that the Cole-Hopf transform gives.
    """
    dice = torch.Generator().manual_seed(0)

    def rows(x: Tensor, t: Tensor, given: Tensor, u: Tensor) -> Examples:
        return {
            "x": torch.stack([x, t], 1),
            "labels": torch.stack([given, u], 1),
            "id": torch.arange(len(x)),
        }

    inside = torch.rand(points, 2, generator=dice) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
    start, ends = 2 * torch.rand(GIVEN, generator=dice) - 1, torch.rand(GIVEN, generator=dice)
    sides = torch.arange(GIVEN) % 2 * 2.0 - 1
    x, t = torch.cat([inside[:, 0], start, sides]), torch.cat([inside[:, 1], torch.zeros(GIVEN), ends])
    u = torch.cat([torch.zeros(points), -torch.sin(math.pi * start), torch.zeros(GIVEN)])
    train = rows(x, t, (torch.arange(len(x)) >= points).float(), u)
    x, t = torch.cartesian_prod(torch.linspace(-1, 1, 2 * side + 1), torch.linspace(0, 1, side)[1:]).T
    test = rows(x, t, torch.ones(len(x)), _cole_hopf(x.double(), t.double()).float())
    return Data(train, test, test, partial(seeded, lambda: nets.tanh(2, 1)), {})


def _cole_hopf(x: Tensor, t: Tensor) -> Tensor:
    """Float64[N]: u at places and times after the start, by Gauss and Hermite's quadrature."""
    nodes, weights = (torch.tensor(part) for part in numpy.polynomial.hermite.hermgauss(200))
    y = x[:, None] - nodes * (4 * VISCOSITY * t[:, None]).sqrt()
    mass = weights * torch.exp(-torch.cos(math.pi * y) / (2 * math.pi * VISCOSITY))
    return -(torch.sin(math.pi * y) * mass).sum(1) / mass.sum(1)


def flow(model: Any, batch: Examples) -> tuple[Tensor, Tensor]:
    """u and the residual of the equation at each point, Float[B, 2], and its labels."""
    with torch.enable_grad():
        x = batch["x"].detach().requires_grad_()
        u = model(x)
        slopes = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        bend = torch.autograd.grad(slopes[:, 0].sum(), x, create_graph=True)[0][:, 0]
    residual = slopes[:, 1] + u[:, 0] * slopes[:, 0] - VISCOSITY * bend
    return torch.stack([u[:, 0], residual], 1), batch["labels"]


def residuals(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared residual, Float[B], or the weighted squared error where u is given."""
    given, u = labels.unbind(1)
    return torch.where(given > 0, WEIGHT * (outputs[:, 0] - u).square(), outputs[:, 1].square())


def snr(outputs: Tensor, labels: Tensor) -> float:
    """Signal-to-noise ratio of u in dB: 20 is a relative error of .1."""
    u = labels[:, 1].double()
    return float(10 * torch.log10(u.square().sum() / (outputs[:, 0].double() - u).square().sum()))
