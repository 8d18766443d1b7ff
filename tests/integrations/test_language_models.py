"""The Trainer's default loss for language models: a row is scored by its tokens, a step trains on the mean of all."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import puresift as ps

transformers = pytest.importorskip("transformers")


def models():
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 8, "pad_token_id": 0}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {
        "causal": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2)),
        "masked": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **still)),
        "tagged": lambda: transformers.BertForTokenClassification(
            transformers.BertConfig(**sizes, **still, num_labels=20)
        ),
    }


def tokens(rows=24):
    """Rows of 2 to 8 tokens, of which some have a label; one row has none."""
    g, found = torch.Generator().manual_seed(0), []
    for row in range(rows):
        count = int(torch.randint(2, 9, (), generator=g))
        ids = torch.randint(1, 20, (8,), generator=g) * (torch.arange(8) < count)
        labels = torch.where((torch.rand(8, generator=g) < 0.6 * (row > 0)) & (ids > 0), ids, -100)
        if transformers.__version__.startswith("4."):  # it counts a row's first token, which nothing predicts
            labels[0] = -100
        found.append({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels})
    return found


def trainer(folder, kind, model=None, **settings):
    usual = {"max_steps": 4, "per_device_train_batch_size": 6, "learning_rate": 1e-2, "report_to": []}
    usual |= {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models()[kind]() if model is None else model
    arguments = transformers.TrainingArguments(str(folder), **usual | settings)
    made = transformers.Trainer(model, arguments, train_dataset=tokens())
    made.remove_callback(transformers.PrinterCallback)
    return made


def token_losses(kind, model, batch):
    """By hand: the loss of each token, and whether it counts."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"]
    if kind == "causal":
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape), labels != -100


@pytest.mark.parametrize(
    ("kind", "accumulated"), [("causal", 2), ("masked", 1), pytest.param("tagged", 1, marks=pytest.mark.slow)]
)
def test_a_language_model_that_keeps_everything_trains_as_the_plain_trainer(tmp_path, kind, accumulated):
    """The mean over the tokens of a step, not over its rows."""
    plain, sifted = (trainer(tmp_path, kind, gradient_accumulation_steps=accumulated) for _ in range(2))
    ps.integrations.huggingface.sift(sifted, ps.uniform(keep=1.0))
    for one in (plain, sifted):
        one.train()
    for name, tensor in plain.model.state_dict().items():
        assert torch.allclose(sifted.model.state_dict()[name], tensor, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("kind", ["causal", "masked", "tagged"])
def test_a_language_models_rows_are_scored_by_the_mean_over_their_tokens(tmp_path, kind):
    one = ps.integrations.huggingface.sift(trainer(tmp_path, kind), ps.top(keep=0.5))
    passes = one.get_train_dataloader()
    pool = ps.peek(passes.loader.loader)
    next(iter(passes))
    with torch.no_grad():
        losses, counted = token_losses(kind, one.model.eval(), pool)
    expected = (losses * counted).sum(1) / counted.sum(1).clamp(min=1)
    assert torch.allclose(passes.loader.info.losses[:6], expected, atol=1e-6)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_language_models_weights_are_those_of_rows(tmp_path, accumulated):
    """A step on sifted rows of unequal weights is the step on their tokens, each with the weight of its row."""
    rule = ps.importance(keep=0.6)
    settings = {"gradient_accumulation_steps": accumulated, "max_steps": 1, "max_grad_norm": 0.0}
    one = ps.integrations.huggingface.sift(trainer(tmp_path, "masked", **settings), rule)
    hand = trainer(tmp_path, "masked", **settings)
    batches = iter(
        ps.integrations.huggingface.sift(trainer(tmp_path, "masked", **settings), rule).get_train_dataloader()
    )
    step = [dict(next(batches)) for _ in range(accumulated)]
    total, count = 0, 0
    hand.create_optimizer_and_scheduler(num_training_steps=1)
    hand.model.train()
    for batch in step:
        weights = batch.pop("sift_weights")
        assert bool((weights != 1).any())
        losses, counted = token_losses("masked", hand.model, batch)
        total, count = total + (weights[:, None] * losses * counted).sum(), count + counted.sum()
    (total / count).backward()
    hand.optimizer.step()
    one.train()
    for name, tensor in hand.model.state_dict().items():
        assert torch.allclose(one.model.state_dict()[name], tensor, rtol=0, atol=1e-6), name


def test_a_drawn_language_model_trains_by_tokens_and_remembers_rows(tmp_path, monkeypatch):
    prioritizer = ps.prioritizer(ps.importance(keep=0.5, floor=0.1), size=24, batch_size=6)
    one = ps.integrations.huggingface.sift(trainer(tmp_path, "causal"), prioritizer=prioritizer)
    loader = one.get_train_dataloader()
    batch = next(iter(loader))
    one.callback_handler.train_dataloader = loader
    sampler, seen = loader.batch_sampler.sampler, []
    monkeypatch.setattr(sampler, "observe", lambda ids, losses: seen.append(losses.detach()))
    losses, counted = token_losses("causal", one.model, batch)
    expected = (sampler.weights(batch["sift_ids"])[:, None] * losses * counted).sum() / counted.sum()
    assert torch.allclose(one.compute_loss(one.model, dict(batch)), expected, atol=1e-6)
    means = (losses * counted).sum(1) / counted.sum(1).clamp(min=1)
    assert torch.allclose(*seen, means.detach(), atol=1e-6)


def test_a_hook_that_checkpointing_needs_is_not_warned_of(tmp_path):
    """It lets gradients pass, and changes no value; all of TRL's models have it."""
    model = trainer(tmp_path, "causal").model
    model.enable_input_require_grads()
    ps.batched(model, lambda model, batch: token_losses("causal", model, batch)[0].mean(1))


def test_a_model_with_a_loss_of_its_own_is_still_refused(tmp_path):
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertForQuestionAnswering(transformers.BertConfig(**sizes, intermediate_size=16))
    with pytest.raises(ps.SiftError, match=r"default loss is a classifier's.*pass loss\("):
        ps.integrations.huggingface.sift(trainer(tmp_path, "masked", model), ps.top(keep=0.5)).train()
