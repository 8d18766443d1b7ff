"""Rows of different lengths, padded by themselves: the entries that tokenizers make, whose padding is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from puresift import paths, trees
from puresift.buffers import chunks
from puresift.types import Batch, Buffer, Pad, SiftState

VALUES: dict[str, float] = {
    "input_ids": 0,
    "attention_mask": 0,
    "labels": -100,
    "token_type_ids": 0,
    "special_tokens_mask": 1,
    "position_ids": 0,
    "decoder_input_ids": 0,
    "decoder_attention_mask": 0,
}
PREFIX = "loader/ragged/"  # of the declared lengths in a saved state
_MASKED = {"input_ids", "token_type_ids", "special_tokens_mask", "position_ids"}  # end where the attention mask does
_PART = f":{chunks.Chunked.__name__}/parts/0"  # in the name of a saved leaf that is in chunks
_STEP = 32  # lengths are declared in such steps, so that a buffer is seldom made anew


class Ragged:
    """Padding that is declared when rows of another length come, and grows with them.

    While all rows have one length nothing is padded and nothing is cut, so that runs of such rows stay what they were.

    Args:
        values: padding values by the name of a dict entry, beside those known.
        multiple: rows leave with a length that is a multiple of it.
        left: the rows are padded on the left. Padding declared here goes to the right, and a model that reads the last
            position would read it, so nothing is declared then: rows of several lengths are refused.

    Attributes: `pads`, as `ps.sifter` takes it; empty while all rows have one length.
    """

    def __init__(self, values: Mapping[str, float] | None = None, multiple: int = 1, *, left: bool = False):
        self.values, self.multiple, self.left = {**VALUES, **(values or {})}, multiple, left
        self.pads: dict[str, Pad] = {}

    def wider(self, batch: Batch, held: Batch) -> bool:
        """Declare what a batch needs beside the rows held; whether anything has changed."""
        before, there = self.pads, dict(trees.named(held))
        for name, leaf in trees.named(batch):
            if not self._known(name, leaf) or name not in there or there[name].ndim < 2:
                continue
            have, need = there[name].shape[1], leaf.shape[1]
            if need > have or (need < have and name not in self.pads):
                self.pads = {**self.pads, name: self._pad(name, have if need < have else -(-need // _STEP) * _STEP)}
        return self.pads != before

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a sifter for rows so padded: rows leave cut to the longest of their batch."""
        if not self.pads:
            return {**given, "pad": None}
        return {**given, "pad": self.pads, "length": given.get("length") or self.lengths}

    def lengths(self, rows: Batch) -> Tensor:
        """Int64[B]: how long each row is, up to its last entry that is no padding in any of the padded leaves."""
        found = []
        for name, leaf in trees.named(rows):
            folder, last = _split(name)
            if name not in self.pads or (last in _MASKED and folder + "attention_mask" in self.pads):
                continue
            used = leaf != self.pads[name].value
            used = used.flatten(2).any(2) if used.ndim > 2 else used
            found.append((used * torch.arange(1, used.shape[1] + 1, device=used.device)).amax(1))
        longest = torch.stack(found).amax(0)
        return (longest + self.multiple - 1) // self.multiple * self.multiple

    def widened(self, state: SiftState) -> SiftState:
        """The state with room for rows of the declared lengths."""
        rows = trees.pad(chunks.whole(state.buffer.rows), self.pads)
        rows = trees.map_leaves(chunks.chunked, rows)
        return state._replace(buffer=Buffer(rows, state.buffer.weights, state.buffer.fill))

    def state_dict(self) -> dict[str, Tensor]:
        """The declared lengths; nothing while all rows have one length."""
        return {PREFIX + name: torch.tensor(pad.length) for name, pad in self.pads.items()}

    def load_state_dict(self, flat: Mapping[str, Any]) -> None:
        """The lengths as they were declared."""
        names = [name.removeprefix(PREFIX) for name in flat if name.startswith(PREFIX)]
        self.pads = {name: self._pad(name, int(flat[PREFIX + name])) for name in names}

    def template(self, state: SiftState, flat: Mapping[str, Any]) -> SiftState:
        """The state with entries of the lengths that were saved; values do not matter."""
        joined = state._replace(buffer=state.buffer._replace(rows=chunks.whole(state.buffer.rows)))
        fresh = paths.flat(joined)
        for path, leaf in fresh.items():
            saved = flat.get(path, flat.get(f"{path}{_PART}"))
            known = "buffer" in path and self._known(path.replace("%2F", "/"), leaf)
            if isinstance(saved, Tensor) and known and saved.ndim == leaf.ndim:
                fresh[path] = leaf.new_zeros((len(leaf), saved.shape[1], *leaf.shape[2:]))
        wide = paths.unflat(joined, fresh).buffer.rows
        return state._replace(buffer=state.buffer._replace(rows=trees.map_leaves(chunks.chunked, wide)))

    def _known(self, name: str, leaf: Any) -> bool:
        return not self.left and _split(name)[1] in self.values and isinstance(leaf, Tensor) and leaf.ndim > 1

    def _pad(self, name: str, length: int) -> Pad:
        return Pad(self.values[_split(name)[1]], length)


def collated(loader: Any, *, tokenizer: Any = None) -> Ragged:
    """Padding for the batches of a loader, by what its collate function, or else the tokenizer, pads with."""
    found = list(_within(getattr(loader, "collate_fn", None)))
    values = {}
    tokenizer = next((part.tokenizer for part in found if hasattr(part, "tokenizer")), tokenizer)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one inside
    named = [("input_ids", tokenizer, "pad_token_id"), ("token_type_ids", tokenizer, "pad_token_type_id")]
    named += [("labels", part, "label_pad_token_id") for part in found]
    for name, owner, attribute in named:
        value = getattr(owner, attribute, None)
        if isinstance(value, int):
            values[name] = value
    multiples = [getattr(part, "pad_to_multiple_of", None) for part in found]
    multiple = next((one for one in multiples if isinstance(one, int) and one > 0), 1)
    return Ragged(values, multiple, left=getattr(tokenizer, "padding_side", None) == "left")


def _within(collate: Any) -> Iterator[Any]:
    """A collate function and those it wraps."""
    while collate is not None:
        yield collate
        collate = getattr(collate, "data_collator", None)


def _split(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    return folder + slash, last
