"""Batches of any shape, and what is refused."""

from collections import UserDict
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift import paths, trees
from tests import laws


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


leaf = st.just(torch.arange(3.0))
batches = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
        st.lists(inner, min_size=1, max_size=3),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=6,
)


@given(batch=batches)
def test_flat_and_back(batch):
    flat = paths.flat(batch)
    assert len(flat) == len(trees.leaves(batch))
    again = paths.unflat(batch, flat)
    assert paths.flat(again).keys() == flat.keys()
    assert type(again) is type(batch)


@given(batch=batches)
def test_plain_keeps_the_structure_and_rows_are_rows(batch):
    assert trees.batch_size(trees.plain(batch)) == 3
    assert all(leaf.tolist() == [2.0, 0.0] for leaf in trees.leaves(trees.index(batch, torch.tensor([2, 0]))))


def test_any_mapping_becomes_a_dict():
    batch = trees.plain(UserDict(x=torch.zeros(2), nested=UserDict(y=torch.ones(2))))
    assert type(batch) is dict
    assert type(batch["nested"]) is dict


def test_padding_and_trimming_undo_each_other():
    batch = {"ids": torch.ones(2, 3, dtype=torch.long), "label": torch.zeros(2)}
    pads = {"ids": ps.Pad(9, 5)}
    padded = trees.pad(batch, pads)
    assert padded["ids"].tolist() == [[1, 1, 1, 9, 9]] * 2
    assert torch.equal(trees.trim(padded, pads, 3)["ids"], batch["ids"])


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"x": torch.zeros(3), "y": torch.zeros(4)}, r"share their leading dimension, got x \[3\], y \[4\]"),
        ({"x": torch.zeros(3), "t": torch.tensor(1.0)}, r"t \[\]; give every leaf one entry a row"),
        ({"x": torch.zeros(3), "text": ["a", "b"]}, r"x \[3\], text \[2\]"),
        ({}, "no tensor in it"),
    ],
)
def test_leaves_that_do_not_share_rows_are_refused(batch, words):
    with pytest.raises(ValueError, match=words):
        trees.batch_size(trees.plain(batch))


def test_a_leaf_of_another_type_is_refused():
    with pytest.raises(ValueError, match="got a int in it; make it a tensor in the collate function"):
        trees.plain({"x": torch.zeros(2), "n": 3})


@pytest.mark.parametrize(
    ("pads", "words"),
    [
        ({"ids": ps.Pad(0, 2)}, r"leaf 'ids' has shape \[2, 3\], but pad= declares rows of length 2; truncate"),
        ({"idz": ps.Pad(0, 9)}, r"pad= names \['idz'\], but the leaves are \['ids'\]"),
    ],
)
def test_bad_pads_are_refused(pads, words):
    with pytest.raises(ValueError, match=words):
        trees.pad({"ids": torch.zeros(2, 3)}, pads)


def test_keys_that_hold_the_separator_keep_their_own_leaves():
    tree = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}, "a%2Fc": torch.tensor(3)}
    again = paths.unflat(tree, paths.flat(tree))
    assert laws.equal(again, tree)
    assert [int(again["a/b"]), int(again["a"]["b"])] == [1, 2]
    assert list(paths.flat({"x": {"y": torch.tensor(1)}})) == ["/x/y"], "other names are as they were"


@pytest.mark.parametrize(
    "tree",
    [
        {1: torch.tensor(1), "1": torch.tensor(2)},
        {"a:Pair": {"x": torch.tensor(1)}, "a": Pair(torch.tensor(1), torch.tensor(2))},
        {"a/b": torch.tensor(1), "a%2Fb": torch.tensor(2)},
    ],
    ids=["number", "type", "escape"],
)
def test_two_leaves_of_one_name_are_refused(tree):
    with pytest.raises(
        ps.SiftError, match=r"two tensors of the state would both be named .*; rename a key of the batch"
    ):
        paths.flat(tree)


def test_a_padding_that_names_two_leaves_is_refused():
    batch = {"a/b": torch.zeros(2, 3), "a": {"b": torch.zeros(2, 3)}}
    with pytest.raises(ps.SiftError, match="pad= names 'a/b', and two leaves of the batch have that name; rename"):
        trees.pad(batch, {"a/b": ps.Pad(0, 5)})


@pytest.mark.parametrize(
    ("dtype", "value", "holds"),
    [
        (torch.int64, 0.5, False),
        (torch.int64, float("nan"), False),
        (torch.int64, float("-inf"), False),
        (torch.uint8, -100, False),
        (torch.bool, 2, False),
        (torch.int8, -100, True),
        (torch.bool, 1, True),
        (torch.float16, 0.5, True),
        (torch.int64, 7.0, True),
    ],
)
def test_a_padding_that_its_leaf_cannot_hold_is_refused(dtype, value, holds):
    batch, pads = {"t": torch.zeros(2, 3).to(dtype)}, {"t": ps.Pad(value, 4)}
    if holds:
        assert trees.pad(batch, pads)["t"][:, 3].tolist() == [value] * 2
        return
    with pytest.raises(
        ps.SiftError, match=rf"leaf 't' is {dtype}, which cannot hold its padding value {value}; declare"
    ):
        trees.pad(batch, pads)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), r"a sparse tensor, .*leaf\.to_dense\(\)"),
        (lambda: torch.eye(3).to_sparse_csr(), r"a sparse tensor, .*leaf\.to_dense\(\)"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "a nested tensor, .*to_padded_tensor"),
        (
            lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged),
            "a nested tensor, .*to_padded_tensor",
        ),
        (lambda: torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8), "a quantized tensor, .*dequantize"),
    ],
    ids=["sparse", "csr", "nested", "jagged", "quantized"],
)
def test_leaves_whose_rows_cannot_be_kept_are_refused(make, words):
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2)
    with pytest.raises(ps.SiftError, match=words):
        sifter.init(ps.key(0), {"x": torch.zeros(3), "odd": make()})
