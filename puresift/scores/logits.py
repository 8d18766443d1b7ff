"""Scores in closed form from a model's outputs: one batched forward, and a few operations on its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from puresift import trees
from puresift.errors import SiftError
from puresift.scores.model import Scored, per_row
from puresift.types import Batch, Losses, Params, ScoreFn

# outputs(model, batch) -> (logits Float[B, classes], labels Int[B]), and further outputs that a score needs
Outputs = Callable[[Any, Batch], tuple[Any, ...]]


def el2n(model: nn.Module, outputs: Outputs) -> ScoreFn:
    """The norm of the error: ||softmax(logits) - onehot(label)||, in [0, sqrt(2)].

    It ranks much like the loss, but is bounded: an outlier counts no more than any other mistake.

    Args:
        model: any module that `ps.batched` takes.
        outputs: `outputs(model, batch)`, (logits Float[B, classes], labels Int[B]).

    Returns:
        `score(params, batch)`, Float[B].

    Raises:
        SiftError: as `ps.batched`; when called, the outputs have other shapes.

    Example:
        >>> score = el2n(nn.Identity(), lambda model, batch: (model(batch), torch.tensor([0, 1])))
        >>> score({}, torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
        tensor([0.7071, 1.4142])

    References:
        Mansheej Paul, Surya Ganguli, Gintare Karolina Dziugaite, "Deep Learning on a Data Diet: Finding Important
        Examples Early in Training", 2021.
    """
    return _scored(model, outputs, lambda logits, labels: _error(logits, labels), "logits labels")


def margin(model: nn.Module, outputs: Outputs) -> ScoreFn:
    """How close the two likeliest classes are: 1 - (p_first - p_second), in [0, 1]; 1 is a tie.

    It ignores the labels: a mislabelled row that the model is sure of scores low.

    Args:
        model: any module that `ps.batched` takes.
        outputs: `outputs(model, batch)`, (logits Float[B, classes], labels); labels are ignored and may be None.

    Returns:
        `score(params, batch)`, Float[B].

    Raises:
        SiftError: as `ps.batched`; when called, the outputs have other shapes, or there is a single class.

    Example:
        >>> score = margin(nn.Identity(), lambda model, batch: (model(batch), None))
        >>> score({}, torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
        tensor([1., 0.])

    References:
        Tobias Scheffer, Christian Decomain, Stefan Wrobel, "Active Hidden Markov Models for Information Extraction",
        2001.
    """

    def close(logits: Tensor, labels: Tensor | None) -> Losses:
        if logits.shape[1] < 2:
            raise SiftError("margin compares two classes, but the logits have one column; use two, or the loss")
        first, second = logits.softmax(1).topk(2, 1).values.unbind(1)
        return 1 - (first - second)

    return _scored(model, outputs, close, "logits labels")


def entropy(model: nn.Module, outputs: Outputs) -> ScoreFn:
    """How uncertain the model is: -sum_c p_c log p_c, in nats, in [0, log(classes)].

    It ignores the labels, as `margin` does; it counts all classes, not just the first two.

    Args:
        model: any module that `ps.batched` takes.
        outputs: `outputs(model, batch)`, (logits Float[B, classes], labels); labels are ignored and may be None.

    Returns:
        `score(params, batch)`, Float[B].

    Raises:
        SiftError: as `ps.batched`; when called, the outputs have other shapes.

    Example:
        >>> score = entropy(nn.Identity(), lambda model, batch: (model(batch), None))
        >>> score({}, torch.tensor([[0.0, 0.0], [1000.0, 0.0]]))
        tensor([0.6931, 0.0000])

    References:
        Claude E. Shannon, "A Mathematical Theory of Communication", 1948.
        Burr Settles, "Active Learning Literature Survey", 2009.
    """

    def spread(logits: Tensor, labels: Tensor | None) -> Losses:
        return torch.special.entr(logits.softmax(1)).sum(1)

    return _scored(model, outputs, spread, "logits labels")


def head_grad_norm(model: nn.Module, outputs: Outputs, *, bias: bool = True) -> ScoreFn:
    """The norm of the loss's gradient in a linear head, in closed form: ||softmax(z) - onehot(y)|| * sqrt(||h||^2 + 1).

    Exact for cross-entropy over logits z = W h + b, and as cheap as the loss score. Without a bias the factor is ||h||.
    It measures how far a step on a row moves the head; `el2n` measures only the error.

    Args:
        model: any module that `ps.batched` takes.
        outputs: `outputs(model, batch)`, (logits Float[B, classes], labels Int[B], features Float[B, D]); the features
            are the head's inputs.
        bias: whether the head has one.

    Returns:
        `score(params, batch)`, Float[B].

    Raises:
        SiftError: as `ps.batched`; when called, the outputs have other shapes.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> score = head_grad_norm(model, lambda model, h: (model(h), torch.tensor([0, 1, 1]), h))
        >>> score(dict(model.named_parameters()), torch.ones(3, 2)).shape
        torch.Size([3])

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """

    def norm(logits: Tensor, labels: Tensor, features: Tensor) -> Losses:
        if features.ndim != 2:
            raise SiftError(
                f"features must have shape [B, D], what enters the linear head, got {list(features.shape)}; "
                "pool or select over the other dimensions as the model does"
            )
        square = features.float().square().sum(1)
        return _error(logits, labels) * (square + 1 if bias else square).sqrt()

    return _scored(model, outputs, norm, "logits labels features")


def _scored(model: nn.Module, outputs: Outputs, formula: Callable[..., Losses], asked: str) -> ScoreFn:
    """A score from a formula over the results of `outputs`, with logits in float32 and labels checked."""
    image, names = Scored(model, outputs), asked.split()

    def score(params: Params, batch: Batch) -> Losses:
        size = trees.batch_size(trees.plain(batch))
        with torch.no_grad():
            given = image.call(params, batch)
            if not isinstance(given, tuple | list) or len(given) != len(names):
                raise SiftError(f"outputs must give ({', '.join(names)}), got {_name(given)}")
            logits, *rest = given
            if logits.ndim != 2 or len(logits) != size:
                raise SiftError(f"logits must have shape [{size}, classes], got {list(logits.shape)}")
            return per_row(formula(logits.float(), *rest), size)

    return score


def _error(logits: Tensor, labels: Tensor) -> Tensor:
    """||softmax - onehot||; 1 - p of the label is summed from the other classes, for precision near p = 1."""
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise SiftError(
            f"labels must be class numbers of shape {list(logits.shape[:1])}, "
            f"got {labels.dtype}{list(labels.shape)}; take .argmax(1) of one-hot labels"
        )
    others = logits.softmax(1).scatter(1, labels[:, None], 0.0)
    return (others.square().sum(1) + others.sum(1).square()).sqrt()


def _name(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, tuple | list) else type(given).__name__
