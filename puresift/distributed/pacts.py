"""Ranks that go step by step: each hears what the others have, and all stop when one of them fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch

from puresift.distributed.gathering import gathered
from puresift.errors import MomentError, SiftError

_FAILED, _WELL = -1, 0
_WORDS = 512  # bytes of an error's text
_PIECE = _WORDS // 4  # characters, of four bytes at most
_BEFORE, _AFTER = 30, 60  # characters around a difference
_NUMBERS = 3
Item = TypeVar("Item")


class Pact:
    """An agreement of all ranks to meet at every step, for as long as it is open.

    Each meeting is one all-gather of four numbers, read on the host. A rank that fails between two of them says so at
    the next one, so the others need not wait for the backend's time-out.
    """

    def __init__(self) -> None:
        self.open = True

    def agree(self, *numbers: int) -> list[tuple[int, ...]]:
        """The numbers of every rank, by rank; at most three.

        Raises:
            RuntimeError: another rank has failed; which, and by what.
        """
        return self._met(_WELL, numbers, "")

    def fail(self, error: BaseException) -> None:
        """Tell the others, who are at the next meeting or on their way to it, that this rank cannot come."""
        if self.open:
            self._met(_FAILED, (), f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def alike(self, entries: Mapping[str, str]) -> None:
        """Refuse ranks that are not built alike; every rank has the same names, in the same order.

        Raises:
            SiftError: naming the first entry that differs, and the ranks.
        """
        self.agree()  # so that a rank which has failed before is heard
        if not _differing(repr(entries)):
            return
        for name, text in entries.items():
            if others := _differing(text):
                self.open = False  # all ranks know
                there, here = _excerpts(text, others[0])
                raise SiftError(
                    f"{_named(others)} {'has' if len(others) == 1 else 'have'} another {name} than rank 0: {there} "
                    f"there, and {here} on rank 0; build the same on every rank"
                )

    def close(self) -> None:
        """No more meetings."""
        self.open = False

    def kept(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; where making one fails, the others are told."""
        try:
            yield from items
        except GeneratorExit:  # the loop was left: on all ranks at once, or the next all-reduce would wait as well
            raise
        except BaseException as error:
            self.fail(error)
            raise

    def _met(self, status: int, numbers: tuple[int, ...], words: str) -> list[tuple[int, ...]]:
        filled = [status, *numbers, *[0] * (_NUMBERS - len(numbers))]
        met = gathered(torch.tensor(filled)).tolist()
        failed = [rank for rank, (other, *_) in enumerate(met) if other == _FAILED]
        if failed:
            self.open = False
            texts = _texts(words)
            if status != _FAILED:
                raise MomentError(
                    f"{_named(failed)} failed while making the next batch ({texts[failed[0]]}), and all ranks stop "
                    "here; its own message says more"
                )
        return [tuple(others) for _, *others in met]


def _texts(text: str) -> list[str]:
    """A short text of every rank, by rank."""
    raw = text.encode()[:_WORDS]
    own = torch.zeros(_WORDS, dtype=torch.uint8)
    own[: len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    return [bytes(one).rstrip(b"\0").decode(errors="replace") for one in gathered(own).tolist()]


def _differing(text: str) -> list[int]:
    """The ranks whose text is not that of rank 0."""
    names = _texts(hashlib.sha256(text.encode()).hexdigest())
    return [rank for rank, name in enumerate(names) if name != names[0]]


def _excerpts(text: str, rank: int) -> tuple[str, str]:
    """Another rank's text and that of rank 0, of any length, where they begin to differ."""
    longest = max(int(length) for length in _texts(str(len(text))))
    pieces = [_texts(text[place : place + _PIECE]) for place in range(0, longest, _PIECE)]
    there, here = ("".join(piece[which] for piece in pieces) for which in (rank, 0))
    same = next((n for n, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), min(len(there), len(here)))
    start = max(0, same - _BEFORE)
    return tuple(("..." if start else "") + one[start : same + _AFTER] for one in (there, here))  # type: ignore[return-value]


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
