"""A run that remembers that it failed: a generator that raised would look, from then on, as if it had ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, TypeVar

from puresift.errors import MomentError

Item = TypeVar("Item")


class Run(Iterator[Item]):
    """The items of a generator. After an error, each further call raises again and names the way on.

    Args:
        items: the generator.
        cure: the way on, for the message.

    Raises:
        RuntimeError: an earlier call raised something else.
    """

    def __init__(self, items: Iterator[Item], cure: str):
        self._items: Any = items
        self._cure, self._failure = cure, ""
        self.ended = False  # whether there are no more items

    def __next__(self) -> Item:
        if self._failure:
            raise MomentError(f"this was ended by {self._failure}, and is not complete; {self._cure}")
        try:
            item: Item = next(self._items)
        except StopIteration:
            self.ended = True
            raise
        except BaseException as error:  # kept in words: its traceback would keep the pool's tensors
            self._failure = f"{type(error).__name__} ({error})"
            raise
        return item

    def close(self) -> None:
        """End early, as a generator does."""
        self._items.close()


class Once(Iterator[Item]):
    """An iterator of one pass: a second loop over it raises, where it would see nothing and look as if all was well.

    Raises:
        RuntimeError: from `iter`, after the last item.
    """

    _run: Run[Any]
    _again = "read all passes in one, by ps.epochs(loader, n), or begin the next by another ps.sift from stream.state"

    def __iter__(self) -> Self:
        if self._over():
            raise MomentError(f"this stream has ended, and a second loop over it would see nothing; {self._again}")
        return self

    def _over(self) -> bool:
        return self._run.ended
