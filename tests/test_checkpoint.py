"""States to files and back, and what is refused."""

import io

import pytest
import torch
import torch.distributed.checkpoint as dcp

import puresift as ps
from tests import laws
from tests.laws import COLUMNS, MEMBERS
from tests.strategies import data


def build(rule=None, batch_size=8, pool=16, **settings):
    sifter = ps.sifter(
        lambda params, batch: batch[0].sum(1), rule or ps.relative(keep=0.5), batch_size=batch_size, **settings
    )
    return sifter, sifter.init(ps.key(0), data(pool).tensors)


def used(sifter, state):
    return sifter.step(state, {}, data(16, seed=3).tensors)[0]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_state_survives_weights_only_bytes(member):
    sifter, template = build(MEMBERS[member]().rule, columns=COLUMNS)
    state = used(sifter, template)
    file = io.BytesIO()
    torch.save(ps.state_dict(state), file)
    file.seek(0)
    with laws.untouched(template):
        again = ps.load_state_dict(template, torch.load(file, weights_only=True))
    assert laws.equal(again, state)
    assert laws.equal(sifter.step(again, {}, data(16).tensors), sifter.step(state, {}, data(16).tensors))


def test_a_loaded_state_shares_no_memory():
    sifter, template = build()
    flat = ps.state_dict(used(sifter, template))
    state = ps.load_state_dict(template, flat)
    for tensor in flat.values():
        tensor.zero_()
    assert int(state.step) == 1


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
def test_a_state_goes_through_distributed_checkpoint_per_tensor(tmp_path):
    sifter, template = build()
    state = used(sifter, template)
    dcp.save(ps.state_dict(state), checkpoint_id=tmp_path, no_dist=True)
    flat = ps.state_dict(template)
    flat = {name: tensor.clone() for name, tensor in flat.items()}
    dcp.load(flat, checkpoint_id=tmp_path, no_dist=True)
    assert laws.equal(ps.load_state_dict(template, flat), state)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: build(ps.top(keep=0.5)), r"of another kind: the sifter has \[.*RelativeState.*TopState"),
        (lambda: build(ps.delay(ps.relative(keep=0.5), 3)), "of another kind"),
        (lambda: build(batch_size=4), r"build it with the same batch_size, pool, window, history"),
        (lambda: build(pool=32), "build it with the same batch_size, pool"),
        (
            lambda: build(ps.relative(keep=0.5, history=64)),
            r"saved as torch.float32\[64\] and is .*\[1024\]",
        ),
        (lambda: build(batch_size=16, pool=8), "with batches of 16 rows due, and this sifter's have 8"),
    ],
    ids=["rule", "wrapper", "batch size", "pool", "history", "batch size and pool exchanged"],
)
def test_a_state_of_another_sifter_is_refused(other, words):
    with pytest.raises(ValueError, match=words):
        ps.load_state_dict(build()[1], ps.state_dict(other()[1]))


def drawn(rule=None, **changes):
    drawer = ps.prioritizer(rule or ps.importance(keep=0.5), **{"size": 8, "batch_size": 2, "every": 2, **changes})
    state, ids, _ = drawer.draw(drawer.init(ps.key(3)))
    return drawer, drawer.observe(state, ids[0], torch.ones(len(ids[0])))


def test_the_state_of_a_prioritizer_survives_too():
    drawer, state = drawn()
    again = ps.load_state_dict(drawer.init(ps.key(0)), ps.state_dict(state))
    assert laws.equal(again, state)
    assert laws.equal(drawer.draw(again), drawer.draw(state))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            lambda: drawn(size=9),
            r"saved as torch.float32\[9\] and is .*\[8\] in this prioritizer; .* the same size, batch",
        ),
        (lambda: drawn(every=3), r"\[3, 2\] and is .*\[2, 2\]"),
        (lambda: drawn(ps.relative(keep=0.5)), "of another kind: the prioritizer has .*with the same rule"),
        (build, "of another kind: the prioritizer has"),
    ],
    ids=["size", "every", "rule", "a sifter"],
)
def test_a_state_of_another_prioritizer_is_refused(other, words):
    with pytest.raises(ValueError, match=words):
        ps.load_state_dict(drawn()[1], ps.state_dict(other()[1]))


@pytest.mark.parametrize(("version", "found"), [(None, "none"), (torch.tensor(99), "99")])
def test_another_version_is_refused(version, found):
    flat = ps.state_dict(build()[1])
    del flat["version"]
    if version is not None:
        flat["version"] = version
    with pytest.raises(ValueError, match=f"has version {found}, and this puresift reads version 1"):
        ps.load_state_dict(build()[1], flat)


def test_a_state_with_python_objects_is_refused():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2)
    state = sifter.init(ps.key(0), {"text": ["a", "b"]})
    with pytest.raises(ValueError, match="Python objects, which cannot be saved; keep them out of the batch"):
        ps.state_dict(state)


def test_a_key_that_holds_the_separator_comes_back_and_so_does_a_state_saved_under_its_former_name():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=8)

    def used(batch):
        return sifter.step(sifter.init(ps.key(0), batch), None, batch)[0]

    state = used({"a/b": torch.arange(4.0), "a": {"b": torch.arange(4.0) + 10}})
    again = ps.load_state_dict(state, ps.state_dict(state))
    assert laws.equal(again, state)
    assert again.buffer.rows["a/b"][:4].tolist() == [0.0, 1.0, 2.0, 3.0]
    state = used({"a/b": torch.arange(4.0)})
    flat = {name.replace("%2F", "/"): tensor for name, tensor in ps.state_dict(state).items()}
    assert ":SiftState/buffer:Buffer/rows/a/b" in flat
    assert laws.equal(ps.load_state_dict(sifter.init(ps.key(1), {"a/b": torch.zeros(4)}), flat), state)
