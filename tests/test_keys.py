"""Keys against the published answers, and the properties that resuming leans on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift import keys
from tests.strategies import seeds

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, answer
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def hexed(text):
    return torch.tensor([int(word, 16) for word in text.split()])


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert torch.equal(keys.philox(hexed(key), hexed(counter)[:, None])[:, 0], hexed(answer))


@given(seed=seeds, short=st.integers(0, 20), more=st.integers(0, 20))
def test_uniform_is_prefix_stable_and_in_range(seed, short, more):
    key = keys.key(seed)
    long = keys.uniform(key, short + more)
    assert torch.equal(keys.uniform(key, short), long[:short])
    assert bool(((long >= 0) & (long < 1)).all())


@given(seed=seeds)
def test_a_key_holds_the_whole_seed(seed):
    low, high = keys.key(seed).tolist()
    assert low + (high << 32) == seed


@given(seed=seeds, a=st.integers(0, 2**40), b=st.integers(0, 2**40))
def test_fold_in_tells_steps_apart_and_takes_tensors(seed, a, b):
    key = keys.key(seed)
    assert torch.equal(keys.fold_in(key, a), keys.fold_in(key, torch.tensor(a)))
    assert torch.equal(keys.fold_in(key, a), keys.fold_in(key, b)) == (a == b)


def test_uses_of_a_key_do_not_meet():
    key = keys.key(0)
    firsts = [keys.fold_in(key, 0)[0], keys.split(key, 1)[0, 0], keys.words(key, 1)[0]]
    assert len({int(word) for word in firsts}) == 3


def test_uniform_is_uniform():
    values = keys.uniform(keys.key(1), 100_000).sort().values
    distance = (values - torch.arange(100_000) / 100_000).abs().max()
    assert distance < 1.95 / 100_000**0.5  # Kolmogorov-Smirnov at one in a thousand


def test_vmap_over_keys_is_a_loop():
    several = keys.split(keys.key(2), 5)
    assert torch.equal(torch.func.vmap(lambda key: keys.uniform(key, 7))(several), torch.stack([*map(_seven, several)]))


def _seven(key):
    return keys.uniform(key, 7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_same_bits_on_cuda():
    key = keys.fold_in(keys.key(11), 5)
    assert torch.equal(keys.uniform(key.cuda(), 1001).cpu(), keys.uniform(key, 1001))


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, True, "0"])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be a whole number in \[0, 2\*\*64\)"):
        ps.key(seed)


def test_each_pass_is_a_shuffle_of_its_own():
    size = 50
    ids = ps.keys.passes(ps.key(0), torch.arange(3 * size), size).view(3, size)
    assert torch.equal(ids.sort(1).values, torch.arange(size).expand(3, size))
    assert all((ids[one] != ids[other]).float().mean() > 0.8 for one, other in ((0, 1), (0, 2), (1, 2)))
