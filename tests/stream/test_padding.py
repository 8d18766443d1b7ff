"""Rows of different lengths, padded by themselves: nothing is lost, and a run goes on to the bit."""

from itertools import chain

import pytest
import torch
from torch import nn

import puresift as ps
from puresift.stream.padding import Ragged, collated

LENGTHS = [3, 5, 2, 40, 33, 70, 1]


def pool(number, width, rows=4, left=False):
    """Rows as a tokenizer gives them: each shorter by one than the last, and its number in each entry."""
    ids = torch.arange(1, width + 1).repeat(rows, 1) + 100 * number
    lengths = (width - torch.arange(rows)).clamp(min=1)
    place = torch.arange(width) if not left else torch.arange(width).flip(0)
    mask = (place < lengths[:, None]).long()
    labels = torch.where(mask.bool(), ids, -100)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "row": torch.arange(rows) + 10 * number}


def pools(lengths=LENGTHS, **settings):
    return [pool(number, width, **settings) for number, width in enumerate(lengths)]


def cut(batch, row):
    """A row without its padding on the right."""
    end = int((batch["attention_mask"][row] * torch.arange(1, batch["attention_mask"].shape[1] + 1)).max())
    return {name: leaf[row, :end].tolist() for name, leaf in batch.items() if leaf.ndim > 1}


def loader(lengths=LENGTHS, rule=None, **settings):
    settings = {"pad": "auto", "batch_size": 3, **settings}
    score = lambda params, batch: batch["input_ids"].sum(1).float() % 7  # noqa: E731
    return ps.SiftingDataLoader(pools(lengths), score, rule or ps.relative(keep=0.6), params={}, **settings)


@pytest.mark.parametrize("left", [False, True])
def test_rows_leave_as_they_came_cut_to_the_longest_of_their_batch(left):
    source = pools(left=left)
    first = {int(batch["row"][row]): cut(batch, row) for batch in source for row in range(4)}
    sifted = ps.SiftingDataLoader(source, None, ps.uniform(keep=1.0), params={}, batch_size=3, pad="auto")
    batches = [*sifted, *sifted.flush()]
    assert sum(len(batch["row"]) for batch in batches) == 4 * len(LENGTHS)
    for batch in batches:
        assert int(batch["attention_mask"][:, -1].sum()) > 0 or batch["attention_mask"].shape[1] <= 5
        assert bool((batch["labels"][batch["attention_mask"] == 0] == -100).all())
        for row, name in enumerate(batch["row"].tolist()):
            assert cut(batch, row) == first[name]


def test_rows_of_one_length_are_left_alone():
    """Neither cut nor padded, and the saved state is the one of a run without it."""
    one, other = loader([5] * 6), loader([5] * 6, pad=None)
    for mine, theirs in zip(one, other, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert one.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("settings", [{}, {"bucket": lambda batch: batch["attention_mask"].sum(1), "window": 2}])
def test_it_resumes_where_it_stopped(settings):
    settings = {**settings, "batch_size": 4}
    one = loader(**settings)
    whole = [*one, *one]  # two passes
    for stop in range(1, len(whole), 2):
        begun, again = loader(**settings), loader(**settings)
        got = [batch for _, batch in zip(range(stop), chain(begun, begun), strict=False)]
        again.load_state_dict(begun.state_dict())
        while len(got) < len(whole):
            got += list(again)
        for mine, theirs in zip(got, whole, strict=False):
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs), stop


def test_labels_longer_than_the_inputs_are_not_cut():
    def batch(number, inputs, labels):
        mask = torch.ones(4, inputs, dtype=torch.long)
        return {"input_ids": mask * 5, "attention_mask": mask, "labels": torch.full((4, labels), number)}

    source = [batch(1, 2, 6), batch(2, 4, 9), batch(3, 3, 1)]
    sifted = ps.SiftingDataLoader(source, None, ps.uniform(keep=1.0), params={}, batch_size=4, pad="auto")
    assert [int((got["labels"] > 0).sum()) for got in sifted] == [24, 36, 4]


def test_what_is_no_text_is_still_refused():
    sizes = [{"pixels": torch.zeros(4, size)} for size in (3, 5)]
    sifted = ps.SiftingDataLoader(sizes, None, ps.uniform(keep=1.0), params={}, batch_size=4, pad="auto")
    with pytest.raises(ps.SiftError, match=r"leaf 'pixels' had rows of shape \[3\].*pad="):
        list(sifted)
    with pytest.raises(ps.SiftError, match='pad must be "auto"'):
        loader(pad="longest")


def test_values_are_those_that_the_collate_function_pads_with():
    class Tokenizer:
        pad_token_id, pad_token_type_id = 7, 3

    class Inner:
        tokenizer, label_pad_token_id = Tokenizer(), -5

    class Columns:
        data_collator = Inner()

    class Loader:
        collate_fn = Columns()

    values = collated(Loader()).values
    assert (values["input_ids"], values["token_type_ids"], values["labels"]) == (7, 3, -5)
    assert collated(object(), tokenizer=Tokenizer()).values["input_ids"] == 7
    assert collated(object()).values == Ragged().values


def test_padding_is_declared_for_rows_that_are_padded_on_the_right_and_so_unless_told():
    narrow, wide = ({"input_ids": torch.ones(2, width, dtype=torch.int64)} for width in (3, 7))
    for ragged, declared in ((Ragged(), True), (Ragged(left=False), True), (Ragged(left=True), False)):
        assert ragged.wider(wide, narrow) is declared
        assert bool(ragged.pads) is declared


def test_large_buffers_grow_too(monkeypatch):
    monkeypatch.setattr("puresift.buffers.chunks.SIZE", 1)
    got = [cut(batch, row) for batch in loader() for row in range(3)]
    monkeypatch.undo()
    assert got == [cut(batch, row) for batch in loader() for row in range(3)]


@pytest.mark.parametrize("inputs", ["input_ids", "text/input_ids"])
@pytest.mark.parametrize("chunk", [1, 8 << 20])
def test_a_run_resumes_from_a_narrow_first_batch(monkeypatch, inputs, chunk):
    """Whose buffer is neither as wide as the saved one nor, at first, in chunks; keys may have a "/"."""
    monkeypatch.setattr("puresift.buffers.chunks.SIZE", chunk)
    source = [{inputs: batch["input_ids"], "row": batch["row"]} for batch in pools()]

    def build():
        return ps.SiftingDataLoader(source, None, ps.uniform(keep=0.6), params={}, batch_size=3, pad="auto")

    whole, begun, again = list(build()), build(), build()
    got = [batch for _, batch in zip(range(3), begun, strict=False)]
    again.load_state_dict(begun.state_dict())
    for mine, theirs in zip([*got, *again], whole, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_rows_padded_on_the_left_are_not_padded_on_the_right_too():
    """A model that reads the last position would be trained on padding there."""

    class Collate:
        class tokenizer:
            padding_side = "left"

    class Loader(list):
        collate_fn = Collate()

    def sifted(lengths):
        source = Loader(pools(lengths, left=True))
        return ps.SiftingDataLoader(source, None, ps.uniform(keep=1.0), params={}, batch_size=4, pad="auto")

    with pytest.raises(ps.SiftError, match=r"had rows of shape \[5\] .* has \[3\] now"):
        list(sifted([5, 3]))
    assert [batch["input_ids"].shape[1] for batch in sifted([5, 5])] == [5, 5]


def test_rows_keep_to_the_multiple_that_the_collate_function_pads_to():
    class Collate:
        pad_to_multiple_of = 8

    class Loader(list):
        collate_fn = Collate()

    source = Loader(pools([8, 40, 16, 24]))
    sifted = ps.SiftingDataLoader(source, None, ps.uniform(keep=0.5), params={}, batch_size=2, pad="auto")
    widths = [batch["input_ids"].shape[1] for batch in sifted]
    assert widths and all(width % 8 == 0 for width in widths)


def test_rows_that_differ_in_another_dimension_are_told_what_helps():
    choices = [{"input_ids": torch.ones(4, 2, width, dtype=torch.long)} for width in (5, 7)]
    sifted = ps.SiftingDataLoader(choices, None, ps.uniform(keep=1.0), params={}, batch_size=4, pad="auto")
    with pytest.raises(ps.SiftError, match=r"has \[2, 7\] now; pad all batches to one shape"):
        list(sifted)


def test_a_model_trains_on_rows_of_any_length():
    """The embedding of what was padded never shows: losses are those of the rows alone."""
    torch.manual_seed(0)
    embed = nn.Embedding(1000, 4)

    def loss(model, batch):
        mask = batch["attention_mask"][..., None]
        return ((model(batch["input_ids"]) * mask).sum(1) / mask.sum(1)).square().sum(1)

    sifted = ps.SiftingDataLoader(
        pools(), ps.batched(embed, loss), ps.relative(keep=0.5), params=ps.live(embed), batch_size=2, pad="auto"
    )
    alone = {int(b["row"][row]): float(loss(embed, b)[row].detach()) for b in pools() for row in range(4)}
    for batch in sifted:
        got = loss(embed, batch).tolist()
        assert got == pytest.approx([alone[name] for name in batch["row"].tolist()], rel=1e-5)


def test_a_state_that_does_not_load_changes_nothing():
    begun, other = loader(), loader()
    next(iter(begun))
    flat = begun.state_dict()
    bad = {name: value for name, value in flat.items() if not name.endswith("weights")}
    assert len(bad) < len(flat) and any("ragged" in name for name in bad)
    with pytest.raises(ps.SiftError, match="another kind"):
        other.load_state_dict(bad)
    for mine, theirs in zip(other, loader(), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
