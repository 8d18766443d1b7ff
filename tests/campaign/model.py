"""A stream of sifted batches in plain Python: whole numbers for the randomness, a deque for the rows."""

from __future__ import annotations

from collections import deque
from typing import Any

MASK = 2**32 - 1
FOLD, WORDS = 1, 3  # the uses of the generator that a stream makes


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox-4x32-10, after Salmon et al."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (y >> 32) ^ b ^ low, y & MASK, (x >> 32) ^ d ^ high, x & MASK
        low, high = (low + 0x9E3779B9) & MASK, (high + 0xBB67AE85) & MASK
    return [a, b, c, d]


def fold_in(key: tuple[int, int], number: int) -> tuple[int, int]:
    first, second, *_ = philox(key, (number & MASK, (number >> 32) & MASK, 0, FOLD))
    return first, second


def words(key: tuple[int, int], count: int) -> list[int]:
    blocks = [philox(key, (block, 0, 0, WORDS)) for block in range(-(-count // 4))]
    return sum(blocks, [])[:count]


def uniform(key: tuple[int, int], count: int) -> list[float]:
    return [(word >> 8) * 2.0**-24 for word in words(key, count)]


def bernoulli(key: tuple[int, int], probs: list[float]) -> list[bool]:
    return [u < p for u, p in zip(uniform(key, len(probs)), probs, strict=True)]


def systematic(key: tuple[int, int], probs: list[float]) -> list[bool]:
    high, low = words(key, 2)
    total, mask = (high << 8) | (low >> 24), []
    for p in probs:
        before, total = total, total + int(p * 2.0**40)
        mask.append(total >> 40 > before >> 40)
    return mask


DRAWS = {"bernoulli": bernoulli, "systematic": systematic}


class Queue:
    """Kept rows go in, full batches come out: a window at a time, by length within it if rows are to be sorted."""

    def __init__(self, key: tuple[int, int], batch_size: int, window: int, lengths: dict[int, int] | None):
        self.key, self.batch_size, self.window, self.lengths = key, batch_size, window, lengths
        self.rows: deque[tuple[int, float]] = deque()

    def put(self, rows: Any) -> list[list[tuple[int, float]]]:
        """The batches that leave once these (row, weight) have come."""
        self.rows.extend(rows)
        left, span = [], self.batch_size * self.window
        while len(self.rows) >= span:
            left += self._ordered([self.rows.popleft() for _ in range(span)])
        return left

    def _ordered(self, rows: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
        cut = lambda rows: [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]  # noqa: E731
        if self.lengths is None:
            return cut(rows)
        lengths = self.lengths
        name = sum(place * lengths[row] for place, (row, _) in enumerate(rows, 1))
        shuffle = uniform(fold_in(self.key, name), self.window)
        batches = cut(sorted(rows, key=lambda pair: lengths[pair[0]]))
        return [batches[place] for place in sorted(range(self.window), key=lambda place: shuffle[place])]
