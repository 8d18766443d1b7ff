"""Trainers on two ranks whose model is sharded by fully_shard: they train as under DDP, and go on from checkpoints."""

import importlib

import pytest

from tests.distributed.worlds import launch

pytestmark = pytest.mark.slow


def answers(module, cases):
    made = launch(module, [(function, 2, arguments) for function, arguments in cases.values()], processes=2)
    return dict(zip(cases, made, strict=True))


LIGHTNING = {
    "any rule": ("trained", {}),
    "a constant number": ("trained", {"rule": "held"}),
    "accumulated": ("trained", {"accumulate": 2}),
    "made late": ("trained", {"late": True}),
    "shards": ("resumed", {"whole": False}),
    "one file": ("resumed", {"whole": True}),
    "refused": ("refused", {}),
}
TRAINER = {
    "any rule": ("trained", {}),
    "a constant number": ("trained", {"rule": "held"}),
    "accumulated": ("trained", {"gradient_accumulation_steps": 2}),
    "shards": ("resumed", {"kind": "SHARDED_STATE_DICT"}),
    "one file": ("resumed", {"kind": "FULL_STATE_DICT"}),
    "barren": ("barren", {}),
    "by hand": ("by_hand", {}),
}
TRAINED = ["any rule", "a constant number", "accumulated"]


@pytest.fixture(scope="module")
def lightning():
    pytest.importorskip("lightning.pytorch")
    return answers("tests.integrations.lightning_ranks", LIGHTNING)


@pytest.fixture(scope="module")
def trainer():
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return answers("tests.integrations.huggingface_ranks", TRAINER)


@pytest.mark.parametrize("name", [*TRAINED, "made late"])
def test_lightning_trains_as_under_ddp(lightning, name):
    for steps, same, worst, kinds in lightning[name]:
        assert steps == (14 if name == "accumulated" else 7) and same and worst < 1e-5
        assert kinds == ["DTensor"]


@pytest.mark.parametrize("name", ["shards", "one file"])
def test_lightning_goes_on_from_a_checkpoint_of_shards_or_of_one_file_to_the_bit(lightning, name):
    for found in lightning[name]:
        assert found == [[name == "shards", True, True]] * 2


def test_lightning_refuses_what_cannot_be_scored(lightning):
    for words in lightning["refused"]:
        assert set(words) == {"tensor parallel", "FSDPStrategy", "DeepSpeedStrategy"}
        for kind, text in words.values():
            assert kind == "SiftError" and "tensor_parallel_size=1" in text


@pytest.mark.parametrize("name", TRAINED)
def test_the_trainer_trains_as_under_ddp(trainer, name):
    for rows, same, worst, kinds in trainer[name]:
        assert rows == (96 if name == "accumulated" else 48) and same and worst < 1e-5
        assert kinds == ["DTensor"]


@pytest.mark.parametrize("name", ["shards", "one file"])
def test_the_trainer_goes_on_from_a_checkpoint_of_shards_or_of_one_file(trainer, name):
    old = importlib.import_module("transformers").__version__.startswith("4.")  # its plain run ends elsewhere, too
    for same, part, worst in trainer[name]:
        assert same and part and (old or worst < 1e-6)


def test_a_rank_whose_rule_comes_to_keep_nothing_ends_both(trainer):
    other, own = trainer["barren"]
    assert own[0] == "SiftError" and "kept nothing of a whole pass" in own[1]
    assert other[0] == "MomentError" and "rank 1 failed" in other[1] and "kept nothing of a whole pass" in other[1]


def test_a_loop_of_accelerate_trains_as_under_ddp(trainer):
    (steps, same, worst), other = trainer["by hand"]
    assert steps == other[0] > 16 and same and other[1] and worst < 1e-5
