"""models/orders.py: every row once an epoch, in an order that the seed and the epoch give, with little padding."""

import random

import pytest

from models import data, orders

ROWS, SIZE = 700, 8


def sentences() -> data.Sentences:
    dice = random.Random(0)
    lengths = [dice.choice((3, 4, 6, 9, 14, 22, 40)) for _ in range(ROWS)]
    return data.Sentences([(str(n), n % 2) for n in lengths], lambda texts: [[1] * int(text) for text in texts])


def pools(alike: bool, epoch: int = 0, seed: int = 0) -> list[list[int]]:
    loader = data.loader(sentences(), SIZE, seed=seed, alike=alike)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    assert len(loader) == -(-ROWS // SIZE)
    return [batch["id"].tolist() for batch in loader]


def padded(made: list[list[int]]) -> int:
    """Tokens of all pools, padding included."""
    tokens = sentences().tokens
    return sum(len(pool) * max(len(tokens[row]) for row in pool) for pool in made)


def test_every_row_comes_once_an_epoch_and_the_last_pool_is_the_short_one() -> None:
    for epoch in range(3):
        made = pools(True, epoch)
        assert sorted(sum(made, [])) == list(range(ROWS))
        assert {len(pool) for pool in made[:-1]} == {SIZE} and len(made[-1]) == ROWS % SIZE


def test_the_order_is_a_function_of_the_seed_and_the_epoch() -> None:
    assert pools(True, 1) == pools(True, 1)
    assert len({str(pools(True, epoch, seed)) for epoch in range(3) for seed in (0, 7)}) == 6


def test_a_window_holds_the_rows_that_it_would_hold_unsorted() -> None:
    rows = orders.WINDOW * SIZE
    sorted_, unsorted = (sum(pools(alike), []) for alike in (True, False))
    for at in range(0, ROWS, rows):
        assert sorted(sorted_[at : at + rows]) == sorted(unsorted[at : at + rows])


@pytest.mark.parametrize("shift", [0, SIZE // 2])
def test_hardly_any_padding_is_left_in_pools_nor_in_batches_across_two_of_them(shift: int) -> None:
    """Nor where a window ends: the next one begins with the length at which this one ends."""
    rows = sum(pools(True), [])[shift:]
    made = [rows[at : at + SIZE] for at in range(0, len(rows), SIZE)]
    real = sum(len(sentences().tokens[row]) for row in rows)
    assert padded(made) < 1.25 * real < 2 * real < padded(pools(False))
