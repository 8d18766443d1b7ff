"""Why ranks pull a model that guesses back: the gradient on the scale of its logits turns round below some accuracy.

    python -m bench.quality.gate

Two classes, margins ~ N(mu, 1): the accuracy is Phi(mu). Rows are kept in proportion to rank ** beta of their loss. The
gradient of the logistic loss on the scale of small logits is minus half of the mean margin of what is kept: where that
is below zero, training shrinks the logits towards the constant answer. Drawn from 400,000 margins, by the probabilities
of `ps.relative`, beside the closed form at beta 1, mu - 1 / sqrt(pi).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import torch

import puresift as ps
from bench.measure import RESULTS, figure, where
from bench.quality.work import write

ROWS, BETAS = 400_000, (0.0, 0.5, 1.0, 2.0, 3.0)
ACCURACIES = [share / 100 for share in range(50, 96)]


def kept_margin(mu: float, beta: float, noise: torch.Tensor) -> float:
    """The mean margin of what the rule keeps, in standard deviations."""
    margins = mu + noise
    losses = torch.nn.functional.softplus(-margins)
    rule = ps.relative(beta=beta, drift="window")
    probs = rule.select(rule.init(), losses)[1].probs.double()
    return float((probs * margins).sum() / probs.sum())


def main() -> None:
    noise = torch.randn(ROWS, generator=torch.Generator().manual_seed(0))
    means = {beta: [kept_margin(NormalDist().inv_cdf(a), beta, noise) for a in ACCURACIES] for beta in BETAS}
    turns = {beta: _crossing(values) for beta, values in means.items() if beta}
    closed = NormalDist().cdf(1 / math.sqrt(math.pi))
    for beta, accuracy in turns.items():
        said = f" (closed form: {100 * closed:.1f})" if beta == 1 else ""
        print(f"beta {beta:g}: below an accuracy of {100 * accuracy:.1f} % what is kept is answered wrong{said}")
    path = RESULTS / "quality" / "gate.json"
    write(path, {"accuracies": ACCURACIES, "margins": means, "turns": turns, "closed": closed, "where": where()})
    figure(path, (6,), lambda axes: draw(axes, means))


def _crossing(values: list[float]) -> float:
    """The accuracy at which the mean margin crosses zero, by a line between neighbours."""
    at = next(place for place, value in enumerate(values) if value > 0)
    below, above = values[at - 1], values[at]
    return ACCURACIES[at - 1] + (ACCURACIES[at] - ACCURACIES[at - 1]) * -below / (above - below)


def draw(axes: Any, means: dict[float, list[float]]) -> None:
    for beta, values in means.items():
        name = "everything" if not beta else f"rank ** {beta:g}"
        axes.plot([100 * a for a in ACCURACIES], values, label=name, color="#444444" if not beta else None)
    axes.axhline(0.0, color="#b03060", lw=1, ls="--")
    axes.set(xlabel="accuracy of the model, %", ylabel="mean margin of what is kept [sd]")
    axes.set_title("Below 0, ranks pull back")
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
