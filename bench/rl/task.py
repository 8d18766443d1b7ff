"""Small problems whose answers a few lines can check: sums, differences, products, digits reversed or sorted."""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DIGITS = 6  # of a problem
PROMPT, ANSWER = DIGITS + 2, DIGITS + 1  # tokens: the kind, the digits, "="; the answer, and its end
EMPTY, END, EQUALS, FIRST = 10, 11, 12, 13  # tokens after the ten digits; kinds begin at FIRST
TRAIN, HELD_OUT = 1024, 512  # prompts


class Kind(NamedTuple):
    """One sort of problem."""

    lengths: tuple[int, ...]  # numbers of digits, each a difficulty
    answer: Callable[[str], str]


def _sum(text: str) -> str:
    half = len(text) // 2
    return str(int(text[:half]) + int(text[half:]))


def _difference(text: str) -> str:
    half = len(text) // 2
    return str(abs(int(text[:half]) - int(text[half:])))


def _product(text: str) -> str:
    return str(int(text[:-1]) * int(text[-1]))


KINDS = {
    "add": Kind((2, 4, 6), _sum),
    "subtract": Kind((2, 4, 6), _difference),
    "multiply": Kind((2, 3, 4), _product),
    "reverse": Kind((2, 3, 4, 5, 6), lambda text: text[::-1]),
    "sort": Kind((2, 3, 4, 5, 6), lambda text: "".join(sorted(text))),
    "rotate": Kind((2, 3, 4, 5, 6), lambda text: text[2:] + text[:2]),
}
TOKENS = FIRST + len(KINDS)
ORDERED = ("reverse", "sort", "rotate")  # kinds whose demonstrations slip into repeating the digits as they are
SLIPS = {4: 0.4, 5: 0.7, 6: 0.9}  # how often, by digits


class Problems(NamedTuple):
    """N prompts and their answers."""

    prompts: Tensor  # Int64[N, PROMPT], digits at the right
    answers: Tensor  # Int64[N, ANSWER], END and then EMPTY behind the digits
    levels: Tensor  # Int64[N], the number of the kind times ten, plus the digits

    def take(self, ids: Tensor) -> Problems:
        return Problems(*(part[ids] for part in self))


def problems(count: int, seed: int, *, held_out: bool = False, slips: bool = False) -> Problems:
    """Random problems of random kinds and lengths; a problem is held out everywhere or nowhere.

    With slips some answers are wrong, as those of a text that a model was trained on before.
    """
    dice, names = random.Random(seed), list(KINDS)
    rows = []
    while len(rows) < count:
        number = dice.randrange(len(names))
        kind = KINDS[names[number]]
        length = dice.choice(kind.lengths)
        text = "".join(dice.choices("0123456789", k=length))
        if (zlib.crc32(f"{number} {text}".encode()) % 8 == 0) is held_out:
            slip = slips and names[number] in ORDERED and dice.random() < SLIPS.get(length, 0.0)
            rows.append((number, text, text if slip else kind.answer(text)))
    prompts = [[FIRST + n, *[EMPTY] * (DIGITS - len(text)), *map(int, text), EQUALS] for n, text, _ in rows]
    answers = [[*map(int, said), END, *[EMPTY] * (DIGITS - len(said))] for _, _, said in rows]
    levels = [10 * n + len(text) for n, text, _ in rows]
    return Problems(torch.tensor(prompts), torch.tensor(answers), torch.tensor(levels))


@functools.cache
def data() -> tuple[Problems, Problems]:
    """The prompts that are trained on and those that are judged, the same for all runs."""
    return problems(TRAIN, 1), problems(HELD_OUT, 2, held_out=True)


def spoken(tokens: Tensor) -> Tensor:
    """Bool[..., ANSWER]: whether a token is part of what is said, up to and with the first END."""
    ends = (tokens == END).long()
    return ends.cumsum(-1) - ends == 0


def right(tokens: Tensor, answers: Tensor) -> Tensor:
    """Bool[...]: whether what is said is the answer, to the letter."""
    return torch.where(spoken(tokens), tokens, EMPTY).eq(answers).all(-1)
