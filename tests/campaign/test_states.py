"""Saved states: a thousand times through a file, after a torn write, from the first version, of an unknown one."""

import io

import pytest
import torch

import puresift as ps
from models import files
from puresift.testing.comparing import difference
from tests.campaign import kept
from tests.campaign.settings import SEED, number
from tests.strategies import data

# What is left of the two streams from their saved states, as the code that saved them went on, and the whole of them.
LEFT = {"sift": ("f95fac6c1aed2eba", "7e38e70a3910c8a7"), "prioritize": ("e3119a42ca465c11", "8122b0ef6d9793f0")}
names = pytest.mark.parametrize("name", LEFT)


def first(name):
    return torch.load(kept.FOLDER / f"{name}_0.1.0.pt", weights_only=True)


@names
def test_a_state_of_the_first_version_goes_on_as_it_did_then(name):
    make = kept.STREAMS[name][0]
    state = ps.load_state_dict(kept.template(name), first(name))
    assert kept.digest(make(state)) == LEFT[name][0]
    assert kept.digest(make()) == LEFT[name][1]


def test_the_first_versions_state_has_something_in_each_part():
    state = ps.load_state_dict(kept.template("sift"), first("sift"))
    remembered, cover = state.score, state.rule
    assert int(state.buffer.fill[0]) > 0 and bool(state.buffer.weights.any())
    assert int(state.buffer.fill[1]) < 10, "a window is open"
    assert bool(cover.inner.inner.inner.history.isfinite().any(1).all()), "each group has a history"
    assert bool(cover.visits.any()) and bool(remembered.inner.losses.isfinite().any())
    assert bool(remembered.losses.isfinite().any())
    table = ps.load_state_dict(kept.template("prioritize"), first("prioritize"))
    assert bool(table.losses.isfinite().any()) and int(table.waiting) > 0


@names
def test_a_thousand_files_change_nothing(name):
    make, times = kept.STREAMS[name][0], number(100, 1000)
    state = start = ps.load_state_dict(kept.template(name), first(name))
    sizes = set()
    for _ in range(times):
        file = io.BytesIO()
        torch.save(ps.state_dict(state), file)
        sizes.add(len(file.getvalue()))
        file.seek(0)
        state = ps.load_state_dict(state, torch.load(file, weights_only=True))
    print(f"\nstates: {name}, saved and loaded {times} times, {sizes} bytes")
    assert len(sizes) == 1, "files of one state have one size"
    assert not difference(start, state)
    assert kept.digest(make(state)) == LEFT[name][0]


def test_a_thousand_files_of_a_loader_change_nothing():
    times = number(100, 1000)

    def build():
        pools = torch.utils.data.DataLoader(data(48), 16, shuffle=True, generator=torch.Generator().manual_seed(SEED))
        score = lambda params, batch: batch[0].square().sum(1)  # noqa: E731
        return ps.SiftingDataLoader(pools, score, ps.relative(keep=0.7), params={}, batch_size=4)

    loader = build()
    running = iter(loader)
    next(running)
    saved = start = loader.state_dict()
    rest, again = list(running), build()
    for _ in range(times):
        again.load_state_dict(saved)
        saved = again.state_dict()
    assert not difference(start, saved)
    assert not difference(rest, list(again)) and len(rest) > 2


@pytest.mark.parametrize("left", [b"", b"PK half of a file", b"\0" * 4096], ids=["empty", "half", "zeros"])
def test_what_a_torn_write_leaves_behind_is_in_nobodys_way(tmp_path, left):
    path, beside = tmp_path / "sift.pt", tmp_path / ".sift.pt.new"
    state = ps.load_state_dict(kept.template("sift"), first("sift"))
    files.replace(path, lambda file: torch.save(ps.state_dict(state), file))
    beside.write_bytes(left)  # the next save was killed
    loaded = ps.load_state_dict(kept.template("sift"), torch.load(path, weights_only=True))
    assert not difference(state, loaded)
    files.replace(path, lambda file: torch.save(ps.state_dict(loaded), file))
    assert not beside.exists()
    loaded = ps.load_state_dict(kept.template("sift"), torch.load(path, weights_only=True))
    assert kept.digest(kept.sifted(loaded)) == LEFT["sift"][0]


@names
@pytest.mark.parametrize("version", [None, 0, 2, 99])
def test_an_unknown_version_is_refused_in_words(name, version):
    flat = {**first(name), "version": torch.tensor(version or 0)}
    if version is None:
        del flat["version"]
    found = "none" if version is None else version
    with pytest.raises(ps.SiftError, match=f"has version {found}, and this puresift reads version 1; start a new run"):
        ps.load_state_dict(kept.template(name), flat)


@names
def test_a_first_versions_file_of_which_a_part_is_gone_is_refused_by_its_name(name):
    flat = first(name)
    for lost in flat:
        less = {path: leaf for path, leaf in flat.items() if path != lost}
        with pytest.raises(ps.SiftError, match=r"is of another kind|has version none"):
            ps.load_state_dict(kept.template(name), less)
