"""The law of resuming: from a state saved at any moment, a stream goes on with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from puresift.checkpoint import load_state_dict, state_dict
from puresift.testing.comparing import difference, layout, through_bytes


def assert_resumes(make_stream: Callable[[Any], Any], *, after: Callable[[Any, Any], None] | None = None) -> int:
    """Assert that a stream goes on with the same bits from a state saved before any of its elements, and at its end.

    The stream runs once, and its state is saved before every element and after the last. From each of them, by way of
    bytes loaded with `weights_only=True`, another stream starts: its state must be the saved one in structure, shapes,
    dtypes and values; it must give the whole tail that the first one gave; and end in the same state. The time grows
    with the square of the number of elements: take a short stream.

    Args:
        make_stream: `make_stream(state)` starts a stream: anew where state is None, else from it. What it returns is
            iterated, and saved by its own `state_dict()` if it has one, as a `ps.SiftingDataLoader` has, whose dict is
            then handed on as it was loaded; else by the `state` it has, like `ps.sift` and `ps.prioritize`. A loader
            must give the same pools again, and end: `ps.epochs(loader, n)`, for a plain one begins anew.
        after: `after(stream, element)` is called after each element, in every run, such as for `stream.observe(...)`.
            A model that it trains is part of the state: then let make_stream give an object whose `state_dict()` has
            the model in it.

    Returns:
        How many elements the stream has.

    Raises:
        AssertionError: naming the moment, what differs first, and where; or there was no element to check.

    Example:
        >>> import torch
        >>> import puresift as ps
        >>> pools = ps.epochs(torch.arange(12.0).split(4), 2)
        >>> sifter = ps.sifter(lambda params, batch: batch, ps.relative(keep=0.5), batch_size=2)
        >>> start = sifter.init(ps.key(0), torch.zeros(4))
        >>> assert_resumes(lambda state: ps.sift(sifter, state or start, {}, pools))
        8
    """
    stream = make_stream(None)
    first, saved, whole = _state(stream), [], []
    saved.append(_saved(stream))
    for element in _elements(stream, after):
        whole.append(element)
        saved.append(_saved(stream))
    assert whole, "resuming: the stream gave no element, so nothing was checked; give it a longer loader"
    last = _state(stream)
    for place, flat in enumerate(saved):
        moment = f"resuming from the state saved before element {place} of {len(whole)}"
        given = flat if _own(stream) else load_state_dict(first, flat)
        again = make_stream(given)
        assert again is not stream, f"{moment}: make_stream gave the stream it gave before; build a new one in it"
        _same_state(moment, flat, _saved(again))
        rest = _elements(again, after)
        for number, element in enumerate(whole[place:], place):
            other = next(rest, None)
            assert other is not None, f"{moment}: the stream ended before element {number}"
            assert not (found := difference(element, other)), f"{moment}: element {number} is another: {found}"
        assert next(rest, None) is None, f"{moment}: the stream went on after its last element, {len(whole) - 1}"
        found = difference(last, _state(again))
        assert not found, f"{moment}: the state at the end is another: {found}"
    return len(whole)


def _same_state(moment: str, saved: Any, loaded: Any) -> None:
    found = layout(saved, loaded)
    assert not found, f"{moment}: the loaded state has another structure than the saved one: {found}"
    assert not (found := difference(saved, loaded)), (
        f"{moment}: the loaded state is another than the saved one: {found}"
    )


def _elements(stream: Any, after: Callable[[Any, Any], None] | None) -> Iterator[Any]:
    for element in stream:
        if after is not None:
            after(stream, element)
        yield element


def _own(stream: Any) -> bool:
    return hasattr(stream, "state_dict")


def _state(stream: Any) -> Any:
    return stream.state_dict() if _own(stream) else stream.state


def _saved(stream: Any) -> Any:
    return through_bytes(stream.state_dict() if _own(stream) else state_dict(stream.state))
