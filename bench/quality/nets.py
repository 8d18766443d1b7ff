"""Small models: convolutions for digits, a transformer, a character-level GPT, sines for pictures, an MLP."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolutional(classes: int) -> nn.Module:
    """Two convolutions and two linear layers, 55,000 parameters: [B, 1, 8, 8] -> [B, classes]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(512, 96),
        nn.ReLU(),
        nn.Linear(96, classes),
    )


def perceptron(features: int, classes: int, width: int = 256) -> nn.Module:
    """Two hidden layers: [B, features] -> [B, classes]."""
    return nn.Sequential(
        nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def tanh(inputs: int, outputs: int, width: int = 64) -> nn.Module:
    """Three hidden layers that have two derivatives: [B, inputs] -> [B, outputs]."""
    sizes = [inputs, width, width, width]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


class Sine(nn.Module):
    """sin(omega * linear); its weights start so that what comes out is spread alike in every layer."""

    def __init__(self, inputs: int, width: int, *, first: bool, omega: float = 30.0):
        super().__init__()
        self.linear, self.omega = nn.Linear(inputs, width), omega
        most = 1 / inputs if first else math.sqrt(6 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -most, most)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


def siren(channels: int, width: int = 128, layers: int = 3) -> nn.Module:
    """A picture as a function of the place: [B, 2] in [-1, 1] -> [B, channels].

    References:
        Vincent Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions", 2020.
    """
    sines = [Sine(width if layer else 2, width, first=layer == 0) for layer in range(layers)]
    last = nn.Linear(width, channels)
    most = math.sqrt(6 / width) / sines[0].omega
    nn.init.uniform_(last.weight, -most, most)
    return nn.Sequential(*sines, last)


class Block(nn.Module):
    """Attention where `bias` is not -inf, then two linear layers; normalised before each."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = self.attend(self.before(x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        # Written out: on a CPU the fused attention's backward takes longer than all the rest of a short row.
        logits = torch.einsum("bihd,bjhd->bhij", query, key) * query.shape[-1] ** -0.5 + bias
        mixed = torch.einsum("bhij,bjhd->bihd", logits.softmax(-1).to(value.dtype), value)
        x = x + self.project(mixed.flatten(2))
        return x + self.narrow(F.relu(self.widen(self.between(x))))


class Encoder(nn.Module):
    """Tokens [B, T] and their mask -> logits [B, classes], from the mean over the tokens."""

    def __init__(
        self, tokens: int, *, context: int, classes: int = 2, width: int = 128, heads: int = 4, layers: int = 2
    ):
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(context, width)
        self.drop = nn.Dropout(0.1)
        for weight in (self.token.weight, self.place.weight):
            nn.init.normal_(weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.drop(
            self.token(input_ids) + self.place(torch.arange(input_ids.shape[1], device=input_ids.device))
        )
        share = attention_mask.float()
        for block in self.blocks:
            hidden = block(hidden, share[:, None, None].log())
        share = (share / share.sum(1, keepdim=True))[..., None]
        return self.head(self.drop((self.last(hidden) * share).sum(1)))


class Gpt(nn.Module):
    """Characters [B, T] -> logits [B, T, characters]."""

    def __init__(self, characters: int, *, context: int, width: int = 128, heads: int = 4, layers: int = 2):
        super().__init__()
        self.token, self.place = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        for weight in (self.token.weight, self.place.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.token(x) + self.place(torch.arange(x.shape[1], device=x.device))
        later = torch.full((x.shape[1], x.shape[1]), -torch.inf, device=x.device).triu(1)
        for block in self.blocks:
            hidden = block(hidden, later)
        return self.head(self.last(hidden))
