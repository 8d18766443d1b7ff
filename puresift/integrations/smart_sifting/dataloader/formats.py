"""How batches become trees of rows that a buffer can hold, and become batches again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from puresift import trees
from puresift.buffers import example
from puresift.integrations.smart_sifting.data_model.data_model_interface import SiftingBatch
from puresift.integrations.smart_sifting.exceptions import UnsupportedDataFormatException
from puresift.types import Batch, Buffer, Pad

_CURE = "write a SiftingBatchTransform and pass it as batch_transforms="


class Format(NamedTuple):
    """One way there and back."""

    rows: Callable[[Any], Batch]  # a tree whose leaves are tensors [B, ...] or `trees.Objects` of B
    batch: Callable[[Batch], Any]


def transformed(transform: Any, first: Any) -> Format:
    """The format of `SiftingBatch`es that come from a transform."""
    if not isinstance(first, SiftingBatch):
        raise UnsupportedDataFormatException(
            f"{type(transform).__name__}.transform() must return a SiftingBatch, such as ListBatch(inputs, labels), "
            f"got {type(first).__name__}"
        )
    empty = copy.copy(first)
    vars(empty).update(dict.fromkeys(vars(first)))

    def rows(batch: SiftingBatch) -> Batch:
        present = {name: value for name, value in vars(batch).items() if value is not None}
        count = next(filter(None, map(_count, present.values())), 0)
        return {name: _column(value, count) for name, value in present.items()}

    def whole(columns: Batch) -> Any:
        batch = copy.copy(empty)
        vars(batch).update(columns)
        return transform.reverse_transform(batch)

    return Format(rows, whole)


def plain(first: Any, expected: int | None, index: int | None) -> Format:
    """The format of lists, tuples, dicts and tensors.

    Args:
        first: the first batch.
        expected: the loader's batch size, where it is known.
        index: which dimension holds the samples, 0 (a list of samples) or 1 (a list of features); None to detect it.

    Raises:
        UnsupportedDataFormatException: the batch is none of these, or both dimensions could be the samples.
    """
    kind = type(first)
    if isinstance(first, Tensor) and first.ndim > 0:
        if index == 1 and first.ndim > 1:
            return Format(lambda batch: batch.movedim(1, 0), lambda rows: rows.movedim(0, 1))
        return Format(lambda batch: batch, lambda rows: rows)
    if isinstance(first, Mapping):
        return _mapped(kind)
    if not isinstance(first, list | tuple):
        raise UnsupportedDataFormatException(f"Batches of type {kind.__name__} are not supported by default; {_CURE}")
    if not first:
        raise UnsupportedDataFormatException(f"Unable to index the batch of type {kind.__name__}: it is empty")
    build: Callable[[Any], Any] = (lambda parts: kind(*parts)) if hasattr(first, "_fields") else kind
    features = _shared(first)
    if index is None:
        index = _dimension(len(first), features, expected)
    if index == 0:
        return Format(trees.Objects, build)
    if features is None:
        raise UnsupportedDataFormatException(
            f"the features of the batch do not have one entry per row; {_CURE}, or pass batch_format_index=0 if it "
            "is a list of samples"
        )
    return Format(_listed, build)


def fits(rows: Batch, buffer: Buffer, pads: Mapping[str, Pad]) -> None:
    """Refuse rows that the buffer, made from the first batch, cannot hold.

    Raises:
        UnsupportedDataFormatException: their shapes or their number differ.
    """
    try:
        trees.like(trees.pad(trees.numbered(rows), pads), example(buffer))
    except ValueError as error:
        raise UnsupportedDataFormatException(
            f"{str(error).partition(';')[0]}; let the loader's collate function pad every batch to one shape, or "
            "pass batch_transforms= with a ListBatch, whose rows may be of any length"
        ) from error
    capacity = buffer.weights.shape[0] - 1
    if 2 * trees.batch_size(rows) > capacity:
        raise UnsupportedDataFormatException(
            f"a batch of {trees.batch_size(rows)} rows came after a first one of {capacity // 2}; let the loader "
            "give batches of one size"
        )


def _dimension(samples: int, features: int | None, expected: int | None) -> int:
    """The dimension of the rows: 0 for a list of samples, 1 for a list of features."""
    size = expected if expected is not None else features
    if features is not None and features == samples == size:
        raise UnsupportedDataFormatException(
            f"Both dimension 0 and dimension 1 match the batch size of {size}; pass batch_format_index=1 if the batch "
            "is a list of features, or 0 if it is a list of samples"
        )
    if features is not None and samples != size:
        return 1
    if samples == size:
        return 0
    raise UnsupportedDataFormatException(
        f"Batch size {size} does not match dimension 0 or dimension 1 sizes, {samples} and {features}; {_CURE}, or "
        "pass batch_format_index="
    )


def _mapping(kind: type[Any]) -> Callable[[Any], Any]:
    """A function from a dict to that kind of mapping, where its constructor takes one, as BatchEncoding's does."""
    try:
        kind({})
    except TypeError:
        return dict
    return kind


def _mapped(kind: type[Any]) -> Format:
    """Mappings; entries that belong to no row leave as those of the newest batch read."""
    build = _mapping(kind)
    order: list[str] = []
    whole: dict[str, Any] = {}

    def rows(batch: Mapping[str, Any]) -> Batch:
        count = next(filter(None, map(_count, batch.values())), 0)
        order[:] = batch
        whole.clear()
        whole.update({name: value for name, value in batch.items() if _whole(value)})
        return {name: _column(value, count) for name, value in batch.items() if name not in whole}

    def back(columns: Batch) -> Any:
        return build({name: whole[name] if name in whole else columns[name] for name in order})

    return Format(rows, back)


def _whole(value: Any) -> bool:
    """Whether an entry belongs to the whole batch: None, a flag, a word, a fraction, or a scalar of numpy or torch.

    A plain whole number does not: it may count the batch's rows, which are others after sifting.
    """
    return value is None or isinstance(value, bool | float | str) or getattr(value, "shape", None) == ()


def _listed(batch: list[Any] | tuple[Any, ...]) -> Batch:
    count = _shared(batch) or 0
    return [_column(value, count) for value in batch]


def _column(value: Any, count: int) -> Batch:
    """One entry per row: a tensor, a list of any objects, or a dict of these."""
    if isinstance(value, Mapping):
        return {name: _column(part, count) for name, part in value.items()}
    if _count(value) != count:
        got = f"{_count(value)} entries" if _count(value) is not None else f"a {type(value).__name__}"
        raise UnsupportedDataFormatException(f"a part of the batch has {got} where {count} rows are; {_CURE}")
    return value if isinstance(value, Tensor) else trees.Objects(value)


def _shared(parts: list[Any] | tuple[Any, ...]) -> int | None:
    """The number of rows that all parts have, if they agree."""
    counts = {_count(part) for part in parts}
    return counts.pop() if len(counts) == 1 else None


def _count(value: Any) -> int | None:
    """How many rows a part has; None where it has none."""
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else None
    if isinstance(value, Mapping):
        return _shared(list(value.values()))
    return len(value) if isinstance(value, list | tuple) else None
