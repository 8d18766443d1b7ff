"""Rows as bytes: every type and shape comes back, from any place."""

import pytest
import torch

from puresift.distributed.packing import packed, unpacked
from tests import laws

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.int16, torch.bool]


def rows(n):
    generator = torch.Generator().manual_seed(n)
    leaves = [(torch.rand(n, 3, generator=generator) * 9).to(kind) for kind in TYPES]
    return {
        "leaves": leaves,
        "number": torch.arange(n),
        "empty": torch.zeros(n, 0),
        "deep": (torch.rand(n, 2, 2, 2, generator=generator), torch.zeros(n, dtype=torch.complex64)),
    }


@pytest.mark.parametrize("n", [0, 1, 5])
def test_rows_come_back(n):
    raw = packed(rows(n))
    assert raw.dtype == torch.uint8 and len(raw) == n
    assert laws.equal(unpacked(raw, rows(3)), rows(n))


def test_part_of_them_too():
    """A slice begins at any byte of memory."""
    tree = rows(6)
    part = unpacked(packed(tree)[1:6:2], tree)
    assert torch.equal(part["number"], torch.tensor([1, 3, 5]))
    assert laws.equal(part["leaves"], [leaf[1:6:2] for leaf in tree["leaves"]])
