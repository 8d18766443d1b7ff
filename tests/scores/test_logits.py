"""Scores from outputs: exact where a closed form claims to be, and clear about what they were given."""

import pytest
import torch
from torch import nn

import puresift as ps
from tests import laws
from tests.strategies import cross_entropy, net


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_head_norm_is_the_oracle(bias, scale):
    """Confident rows too: against vmap(grad) in double precision, to 1e-5 relative."""
    noise = ps.keys.uniform(ps.key(0), 64 * 16).reshape(64, 16) - 0.5
    model, y = nn.Linear(16, 5, bias=bias), (ps.keys.uniform(ps.key(1), 64) * 5).long()
    with torch.no_grad():
        model.weight.mul_(scale)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    closed = ps.head_grad_norm(model, lambda model, batch: (model(batch[0]), batch[1], batch[0]), bias=bias)
    values = closed(ps.live(model), (noise, y))
    exact = ps.grad_norm(model.double(), loss)(ps.live(model), (noise.double(), y))
    torch.testing.assert_close(values.double(), exact.double(), rtol=1e-5, atol=0)


def test_the_head_norm_is_the_oracle_inside_a_model():
    model, batch = net(1), laws.candidates(24)
    closed = ps.head_grad_norm(net(), laws.with_features)(ps.live(model), batch)
    oracle = ps.grad_norm(net(), cross_entropy, only=lambda name: name.startswith("4."))(ps.live(model), batch)
    torch.testing.assert_close(closed, oracle, rtol=1e-5, atol=1e-7)


def test_chunks_of_a_gradient_norm_agree():
    model, batch = net(1), laws.candidates(24)
    one, two = (ps.grad_norm(net(), cross_entropy, chunk=chunk)(ps.live(model), batch) for chunk in (5, 24))
    torch.testing.assert_close(one, two)


def test_a_gradient_norm_takes_so_many_rows_at_a_time():
    calls = []

    def counted(model, rows):
        calls.append(len(rows))
        return cross_entropy(model, rows)

    model, batch = net(1), laws.candidates(24)
    ps.grad_norm(net(), counted, chunk=5)(ps.live(model), batch)
    assert len(calls) == 5, "24 rows, 5 at a time"


def test_frozen_parameters_do_not_count():
    model, batch = net(1), laws.candidates(8)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("4."))
    head = ps.grad_norm(net(), cross_entropy, only=lambda name: name.startswith("4."))(ps.live(model), batch)
    torch.testing.assert_close(ps.grad_norm(model, cross_entropy)(ps.live(model), batch), head)


def test_masked_classes_have_no_entropy():
    score = ps.entropy(nn.Identity(), lambda model, batch: (model(batch), None))
    assert score({}, torch.tensor([[0.0, 0.0, -torch.inf]])).tolist() == pytest.approx([0.693147])


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (ps.el2n, lambda z, y: z, r"outputs must give \(logits, labels\), got Tensor"),
        (ps.el2n, lambda z, y: (z, y, z), "got 3 values"),
        (ps.el2n, lambda z, y: (z[0], y), r"logits must have shape \[4, classes\], got \[3\]"),
        (ps.el2n, lambda z, y: (z, z.softmax(1)), r"labels must be class numbers of shape \[4\], .* take .argmax"),
        (ps.margin, lambda z, y: (z[:, :1], y), "margin compares two classes, but the logits have one column"),
        (ps.head_grad_norm, lambda z, y: (z, y), r"must give \(logits, labels, features\), got 2 values"),
        (ps.head_grad_norm, lambda z, y: (z, y, z[None]), r"features must have shape \[B, D\], .* got \[1, 4, 3\]"),
    ],
)
def test_other_outputs_are_refused(make, given, words):
    score = make(nn.Identity(), lambda model, batch: given(model(batch), torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(ValueError, match=words):
        score({}, torch.zeros(4, 3))
