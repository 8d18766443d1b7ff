"""TRL's GRPOTrainer: every cell of its table in integrations/README.md, and that the gradient is the plain one."""

import re
from pathlib import Path

import pytest
import torch

import puresift as ps

trl = pytest.importorskip("trl", reason='trl is missing; pip install "puresift[trl]"')
transformers = pytest.importorskip("transformers")
from datasets import Dataset  # noqa: E402

from puresift.integrations import trl as door  # noqa: E402
from tests.distributed.worlds import launch  # noqa: E402
from tests.scripts import common  # noqa: E402

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # TRL warns of its own experiments
GROUP, ROWS, LENGTH = 4, 16, 6
LOSSES = sorted(door.BY_ROWS | door.BY_TOKENS | door.FIXED)
WORKS = {
    **{f'loss_type="{name}"': {"loss_type": name} for name in LOSSES},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
    "steps_per_generation": {"steps_per_generation": 4, "per_device_train_batch_size": 8, "num_generations": 4},
    "num_iterations": {"num_iterations": 3, "loss_type": "grpo"},
    "delta": {"delta": 1.5, "num_iterations": 2},
    'importance_sampling_level="sequence"': {"importance_sampling_level": "sequence", "num_iterations": 2},
    "off_policy_mask_threshold": {"off_policy_mask_threshold": 0.01, "num_iterations": 2},
    "mask_truncated_completions": {"mask_truncated_completions": True, "loss_type": "bnpo"},
    'scale_rewards="batch"': {"scale_rewards": "batch"},
    "peft_config": {"peft_config": True},
    "gradient_checkpointing=False": {"gradient_checkpointing": False},
}
REFUSED = {
    "beta": ({"beta": 0.04}, r"GRPOConfig\(beta=0.0\)"),
    "entropy_coef": ({"entropy_coef": 0.01}, r"GRPOConfig\(entropy_coef=0.0"),
    "use_adaptive_entropy": ({"use_adaptive_entropy": True}, "use_adaptive_entropy=False"),
    "top_entropy_quantile": ({"top_entropy_quantile": 0.5}, r"GRPOConfig\(top_entropy_quantile=1.0\)"),
    "a mixture of experts": ({"moe": True}, r"GRPOConfig\(router_aux_loss_coef=0.0\)"),
    'multi_objective_aggregation="normalize_then_sum"': (
        {"multi_objective_aggregation": "normalize_then_sum"},
        "sum_then_normalize",
    ),
    "images": ({"images": True}, "sift a model of text"),
}


def reward(prompts, completion_ids, **columns):
    """Some prompts are always solved, some never, the others by about half of their completions."""
    kinds = [int(prompt.split()[0].removeprefix("word")) % 3 for prompt in prompts]
    solved = [sum(ids) % 2 for ids in completion_ids]
    return [float((1, 0, one)[kind]) for kind, one in zip(kinds, solved, strict=True)]


def make(folder, peft_config=False, images=False, moe=False, kind=trl.GRPOTrainer, **options):
    """A trainer of a tiny model, the same each time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(common.tokenizer_in(f"{folder}/tokenizer"))
    tokenizer.eos_token, tokenizer.padding_side = "[SEP]", "left"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    model, more = transformers.LlamaForCausalLM(config), {}
    if options.get("beta"):  # the reference is loaded
        model.save_pretrained(f"{folder}/model")
        model = f"{folder}/model"
    if peft_config:
        peft = pytest.importorskip("peft")
        more["peft_config"] = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    usual = {
        "max_steps": 4, "per_device_train_batch_size": ROWS, "num_generations": GROUP, "learning_rate": 1e-2,
        "max_completion_length": LENGTH, "logging_steps": 1, "save_strategy": "no", "report_to": [], "beta": 0.0,
        "disable_tqdm": True, "use_cpu": True, "bf16": False, "dataloader_pin_memory": False, "seed": 1,
    }  # fmt: skip
    trainer = kind(
        model,
        reward_funcs=reward,
        args=trl.GRPOConfig(f"{folder}/out", **usual | options),
        train_dataset=Dataset.from_dict({"prompt": [f"word{n} word{n * 7 % 60}" for n in range(60)]}),
        processing_class=tokenizer,
        **more,
    )
    trainer._is_vlm |= images
    trainer.aux_loss_enabled |= moe
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


@pytest.fixture
def build(tmp_path):
    numbers = iter(range(99))
    return lambda **options: make(tmp_path / f"{next(numbers)}", **options)


def weights(trainer):
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def trained(trainer):
    transformers.set_seed(3)  # rollouts are drawn by the global generator
    trainer.train()


def rollouts(seed=0, tools=False):
    """A micro-batch as TRL makes one: two thirds of the rows without an advantage, ratios off 1, all lengths."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    lengths = torch.randint(1, LENGTH + 1, (ROWS,), generator=generator)
    alive = torch.arange(ROWS) % 3 == seed % 3
    inputs = {
        "prompt_ids": torch.randint(5, 60, (ROWS, 3), generator=generator),
        "prompt_mask": torch.ones(ROWS, 3, dtype=torch.long),
        "completion_ids": torch.randint(5, 60, (ROWS, LENGTH), generator=generator),
        "completion_mask": (torch.arange(LENGTH) < lengths[:, None]).long(),
        "advantages": torch.where(alive, draw(ROWS) * 4 - 2, 0.0),
        "num_items_in_batch": torch.tensor(3.0 * lengths.sum()),
        "old_per_token_logps": -4.3 + 0.6 * (draw(ROWS, LENGTH) - 0.5),
    }
    return inputs | ({"tool_mask": (draw(ROWS, LENGTH) > 0.3).long()} if tools else {})


def gradients(trainer, batches):
    trainer.current_gradient_accumulation_steps = len(batches)
    trainer.model.zero_grad()
    trainer.model.train()
    losses = []
    for inputs in batches:
        loss = trainer._compute_loss(trainer.model, dict(inputs))
        loss.backward()
        losses.append(float(loss))
    return torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters() if p.requires_grad]), losses


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_gradient_is_the_plain_one(build, loss_type, accumulated, tools):
    """By each of the losses, with clipped ratios, over micro-batches of which one has no row alive."""
    trainer = build(loss_type=loss_type, gradient_accumulation_steps=accumulated)
    batches = [rollouts(seed, tools) for seed in range(accumulated)]
    if accumulated > 1:
        batches[1]["advantages"] = torch.zeros(ROWS)
    plain, losses = gradients(trainer, batches)
    door.sift(trainer)
    trainer._metrics["train"].clear()
    sifted, again = gradients(trainer, batches)
    if loss_type not in ("cispo", "vespo", "sapo"):
        assert any(value > 0 for value in trainer._metrics["train"]["clip_ratio/region_mean"]), "ratios are clipped"
    assert torch.linalg.norm(plain) > 0
    assert torch.linalg.norm(sifted - plain) <= 1e-6 * torch.linalg.norm(plain)
    assert again == pytest.approx(losses, rel=1e-5, abs=1e-7)
    assert max(trainer._metrics["train"]["sift/keep"]) < 0.4


def test_fewer_rows_go_through_the_model_and_a_dead_batch_sends_one(build, monkeypatch):
    trainer, seen = door.sift(build()), []
    inner = trainer._get_per_token_logps_and_entropies
    monkeypatch.setattr(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda model, ids, *a, **k: seen.append(len(ids)) or inner(model, ids, *a, **k),
    )
    dead = rollouts() | {"advantages": torch.zeros(ROWS)}
    short = rollouts()
    short["advantages"] = torch.ones(ROWS)
    short["completion_mask"] = short["completion_mask"] * (torch.arange(ROWS) < 5)[:, None]
    assert not gradients(trainer, [dead])[0].any()
    gradients(trainer, [rollouts(), short])
    assert seen == [1, int((rollouts()["advantages"] != 0).sum()), 5]
    trainer.model.eval()
    trainer._compute_loss(trainer.model, rollouts())
    assert seen[-1] == ROWS, "evaluation is the plain one"


@pytest.mark.parametrize("option", WORKS)
def test_it_trains_as_the_plain_trainer(build, option):
    plain, sifted = build(**WORKS[option]), door.sift(build(**WORKS[option]))
    began = weights(plain)
    trained(plain)
    trained(sifted)
    one, other = weights(plain), weights(sifted)
    assert any(not torch.equal(one[name], began[name]) for name in one)
    for name, tensor in one.items():
        assert torch.allclose(other[name], tensor, rtol=1e-3, atol=1e-5), name
    rows = [[row for row in trainer.state.log_history if "reward" in row] for trainer in (plain, sifted)]
    assert [row["reward"] for row in rows[0]] == [row["reward"] for row in rows[1]], "the same rollouts"
    assert [row["loss"] for row in rows[1]] == pytest.approx([row["loss"] for row in rows[0]], abs=1e-5)
    assert min(row["sift/keep"] for row in rows[1]) < 0.8 and not any("sift/keep" in row for row in rows[0])


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_fifty_steps_reach_the_weights_of_the_plain_trainer(build, loss_type):
    """By SGD, which does not blow up the last bit of a gradient near zero as Adam's quotient does."""
    settings = {"max_steps": 50, "loss_type": loss_type, "optim": "sgd", "learning_rate": 0.5, "logging_steps": 50}
    plain, sifted = build(**settings), door.sift(build(**settings))
    began = weights(plain)
    trained(plain)
    trained(sifted)
    one, other = weights(plain), weights(sifted)
    moved = max(float((one[name] - began[name]).abs().max()) for name in one)
    assert moved > 1e-3
    for name, tensor in one.items():
        assert torch.allclose(other[name], tensor, rtol=1e-5, atol=1e-5 * max(moved, 1)), name


def test_it_resumes_in_the_middle(build):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole, again = door.sift(build(**settings)), door.sift(build(**settings))
    trained(whole)
    again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-2")
    one, other = weights(whole), weights(again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert 0 < whole.state.log_history[-2]["sift/keep"] < 1


@pytest.mark.parametrize("option", REFUSED)
def test_what_zero_advantages_do_not_silence_is_refused_at_construction(build, option):
    options, words = REFUSED[option]
    trainer = build(**options)
    with pytest.raises(ps.SiftError, match=words):
        door.sift(trainer)
    assert type(trainer) is trl.GRPOTrainer, "it is left as it was"


def test_other_versions_trainers_and_twice_are_refused_in_words(build, monkeypatch):
    class Other(trl.GRPOTrainer):
        def _compute_loss(self, model, inputs):
            return super()._compute_loss(model, inputs) * 2

    with pytest.raises(ps.SiftError, match="Other overrides _compute_loss"):
        door.sift(build(kind=Other))
    with pytest.raises(ps.SiftError, match="got None"):
        door.sift(None)
    trainer = build()
    for version in ("1.15.2", "1.160", "2.0.0"):
        monkeypatch.setattr(door, "version", lambda name, version=version: version)
        with pytest.raises(ps.SiftError, match=rf"TRL {version} is installed.*trl==1\.16\.\*"):
            door.sift(trainer)
    monkeypatch.undo()
    trainer.loss_type = "another"
    with pytest.raises(ps.SiftError, match="take one of bnpo, cispo"):
        door.sift(trainer)
    trainer.loss_type = "dapo"
    with pytest.raises(ps.SiftError, match="sifted already"):
        door.sift(door.sift(trainer))


def test_two_ranks_end_where_the_plain_trainer_does_and_send_as_many_rows():
    """Whatever each has alive, by losses that are divided by rows, by tokens and by those of all ranks."""
    losses = ["grpo", "bnpo", "dapo"]
    answers = launch(
        "tests.integrations.grpo_ranks", [("trained", 2, {"loss_type": name}) for name in losses], processes=2
    )
    for name, (first, second) in zip(losses, answers, strict=True):
        assert first["error"] < 1e-5 and first["moved"] > 1e-2, name
        assert first["weights"] == second["weights"] and first["keep"] == second["keep"]
        assert first["alive"] != second["alive"] and min(first["keep"]) < 0.8
        for keep, *alive in zip(first["keep"], first["alive"], second["alive"], strict=True):
            assert keep == max(*alive, 1) / ROWS


def test_an_advantage_that_is_no_number_is_named(build):
    trainer = door.sift(build())
    inputs = rollouts()
    inputs["advantages"][2] = torch.nan
    with pytest.raises(ps.SiftError, match="1 advantages of 16 are NaN"):
        gradients(trainer, [inputs])


def test_the_table_has_these_rows():
    text = (ROOT / "puresift" / "integrations" / "README.md").read_text()
    rows = re.findall(r"^\| `?(.+?)`? \| (exact|not taken)", text, re.MULTILINE)
    assert dict(rows) == {**dict.fromkeys(WORKS, "exact"), **dict.fromkeys(REFUSED, "not taken")}
