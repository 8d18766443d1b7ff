"""Models spread over two ranks by fully_shard: scored as the whole model is, and trained to the same weights."""

import pytest

from tests.distributed.worlds import launch

CASES = ("scores", "halves", "trained", "refused")


@pytest.fixture(scope="module")
def answers():
    made = launch("tests.distributed.sharded", [(name, 2, {}) for name in CASES], processes=2)
    return dict(zip(CASES, made, strict=True))


def test_scores_are_those_of_the_whole_model_and_nothing_is_left_behind(answers):
    for worst, kept in answers["scores"]:
        assert worst < 1e-5 and kept


def test_the_policy_of_mixed_precision_is_the_models(answers):
    for seen, worst in answers["halves"]:
        assert seen == ["torch.bfloat16"] and 0 < worst < 0.1


def test_sifted_training_ends_with_the_weights_of_ddp(answers):
    for steps, others, worst in answers["trained"]:
        assert steps == others == 8 and worst < 1e-4


WORDS = {
    "other parameters": "would ignore those that are passed; pass ps.live(model)",
    "some parameters": "would ignore those that are passed; pass ps.live(model)",
    "compiled": "compile the model itself before fully_shard",
    "per_sample": "score by ps.batched(model, loss)",
    "grad_norm": "score by ps.batched(model, loss)",
    "old": "shard it by torch.distributed.fsdp.fully_shard",
    "zero": "train with ZeRO-2",
    "split": "give the ranks of a group one key",
}


@pytest.mark.parametrize("name", WORDS)
def test_what_cannot_be_scored_is_refused_with_its_cure(answers, name):
    assert all(WORDS[name] in words[name] for words in answers["refused"])
