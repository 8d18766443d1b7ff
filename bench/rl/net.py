"""A small transformer that reads a prompt and says an answer, token by token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rl.task import ANSWER, PROMPT, TOKENS

WIDTH, HEADS, LAYERS = 64, 4, 2
Past = list[tuple[Tensor, Tensor]]  # keys and values of each layer


class Block(nn.Module):
    """Attention without biases, whose gradients would be rounding alone, and two layers in between."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows, length, width = x.shape
        parts = self.attend(self.before(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        x = x + self.join(seen.transpose(1, 2).reshape(rows, length, width))
        return x + self.narrow(F.gelu(self.widen(self.between(x)))), (key, value)


class Speaker(nn.Module):
    """Tokens to logits of the next one; with the past, of those after it."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS, layers: int = LAYERS):
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, width), nn.Embedding(PROMPT + ANSWER, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        begun = past[0][0].shape[2] if past else 0
        x = self.tokens(tokens) + self.places.weight[begun : begun + tokens.shape[1]]
        now: Past = []
        for number, block in enumerate(self.blocks):
            x, both = block(x, past[number] if past else None)
            now.append(both)
        return self.head(self.last(x)), now


@torch.no_grad()
def say(model: Speaker, prompts: Tensor, group: int = 1, dice: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Answers to each prompt, Int64[B, group, ANSWER], and the log-probabilities of their tokens.

    Without dice the likeliest. A prompt is read once for all its answers, as engines do that share prefixes.
    """
    rows = len(prompts) * group
    logits, past = model(prompts)
    past = [(key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)) for key, value in past]
    chances = logits[:, -1].repeat_interleave(group, 0).log_softmax(-1)
    said, logs = [], []
    for place in range(ANSWER):
        if dice is None:
            token = chances.argmax(-1)
        else:
            below = chances.exp().cumsum(-1)
            token = (below < torch.rand(rows, 1, generator=dice) * below[:, -1:]).sum(-1)
        said.append(token)
        logs.append(chances.gather(-1, token[:, None])[:, 0])
        if place + 1 < ANSWER:
            logits, past = model(token[:, None], past)
            chances = logits[:, -1].log_softmax(-1)
    return (torch.stack(part, 1).view(len(prompts), group, ANSWER) for part in (said, logs))  # type: ignore[return-value]


def logs(model: Speaker, prompts: Tensor, said: Tensor) -> Tensor:
    """Float[B, G, ANSWER]: the log-probabilities of answers, Int64[B, G, ANSWER], with their graph."""
    group = said.shape[1]
    flat = said.flatten(0, 1)
    tokens = torch.cat([prompts.repeat_interleave(group, 0), flat[:, :-1]], 1)
    chances = model(tokens)[0][:, PROMPT - 1 :].log_softmax(-1)
    return chances.gather(-1, flat[..., None])[..., 0].view(said.shape)
