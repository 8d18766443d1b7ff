"""The Hugging Face Trainer, sifting: against the real one, with a small BERT."""

import functools
import pathlib
import re
import runpy
import sys
import types

import pytest
import torch
from torch.nn.functional import cross_entropy

import puresift as ps
from tests import ranks

pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
transformers = pytest.importorskip("transformers")
from puresift.integrations import huggingface  # noqa: E402

OLD = transformers.__version__.startswith("4.")
ROWS, BATCH = 44, 8  # passes end inside a batch and inside an accumulation


class Phrases(torch.utils.data.Dataset):
    """Token ids, labels that follow from them, and the place of each row."""

    def __init__(self, rows=ROWS):
        noise = ps.keys.uniform(ps.key(1), rows * 6).reshape(rows, 6)
        self.ids = (noise * 20).long()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, row):
        ids = self.ids[row]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": int(ids[0] % 3), "id": row}


class Stream(torch.utils.data.IterableDataset):
    """The same, without a length."""

    def __iter__(self):
        return map(Phrases().__getitem__, range(ROWS))


def bert(dropout=0.1, seed=0, **settings):
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        **{**sizes, "intermediate_size": 16, "max_position_embeddings": 8, "num_labels": 3, **settings},
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Bert(config)


class Bert(transformers.BertForSequenceClassification):
    """Takes the place of a row, and leaves it out: in transformers 5 the model itself does."""

    @functools.wraps(transformers.BertForSequenceClassification.forward)
    def forward(self, *arguments, id=None, **entries):
        return super().forward(*arguments, **entries)


def arguments(folder, **settings):
    usual = {
        "max_steps": 11,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    made = transformers.TrainingArguments(str(folder), **usual | settings)
    if OLD and made.device.type == "cpu":
        made.__dict__["_setup_devices"] = torch.device("cpu")  # with ranks it says "cpu:0", which torch.load refuses
    return made


def plain(folder, model=None, data=None, **settings):
    data = Phrases() if data is None else data
    trainer = transformers.Trainer(model or bert(), arguments(folder, **settings), train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def sifted(folder, *, rule=None, loss=None, others=None, **settings):
    return huggingface.sift(plain(folder, **settings), rule or RULE, loss=loss, **others or {})


RULE = ps.importance(keep=0.6)  # its weights are not 1


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def per_sample(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits, batch["labels"], reduction="none")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_trains_as_a_loop_written_by_hand(tmp_path, accumulate):
    """No gradient leaks from one step to the next, weights reach the loss, and the learning rate ends at zero."""
    settings = {"gradient_accumulation_steps": accumulate, "max_grad_norm": 0.0}
    trainer = sifted(tmp_path, model=bert(dropout=0), **settings)
    trainer.train()

    model, hand = bert(dropout=0), plain(tmp_path, **settings)
    hand.model = model
    pools = ps.epochs(hand.get_train_dataloader(), 99)
    hand.create_optimizer_and_scheduler(num_training_steps=11)
    sifter = ps.sifter(ps.batched(model, per_sample), RULE, batch_size=BATCH)
    stream = ps.sift(sifter, sifter.init(ps.key(42), ps.peek(pools)), ps.live(model), pools)
    model.train()
    for _ in range(11):
        for _ in range(accumulate):
            batch, rows, _, _ = next(stream)
            assert bool((rows != 1).any())
            ((rows * per_sample(model, batch)).mean() / accumulate).backward()
        hand.optimizer.step()
        hand.lr_scheduler.step()
        model.zero_grad()
    assert int(stream.state.step) > len(pools.loader), "more than one pass"
    assert same(weights(trainer.model), weights(model))
    assert trainer.lr_scheduler.get_last_lr() == [0, 0]
    assert trainer.state.global_step == 11


def test_keeping_everything_is_the_plain_trainer(tmp_path):
    """To the bit, dropout and shuffles included: sifting leaves the global generator alone."""
    data = torch.utils.data.Subset(Phrases(), range(40))
    one = plain(tmp_path, data=data)
    one.train()
    other = sifted(tmp_path, data=data, rule=ps.uniform(keep=1.0))
    other.train()
    assert same(weights(one.model), weights(other.model))


@pytest.mark.parametrize("replaced", [False, True])
def test_scores_are_those_of_the_newest_weights(tmp_path, replaced):
    """Also where the Trainer makes its model anew when training begins."""
    scored, ours = [], bert()

    def mark(tensor):
        return float(tensor.detach().double().sum())

    def score(params, batch):
        scored.append(mark(params["classifier.weight"]))
        return whole(params, batch)

    def loss(model, batch):
        assert scored[-1] == mark(model.classifier.weight)
        return per_sample(model, batch)

    whole = ps.batched(ours, per_sample)
    args = arguments(tmp_path, max_grad_norm=0.0)
    trainer = transformers.Trainer(
        **{"model_init": lambda: bert()} if replaced else {"model": ours}, args=args, train_dataset=Phrases()
    )
    trainer.remove_callback(transformers.PrinterCallback)
    huggingface.sift(trainer, ps.top(keep=0.5), loss=loss, score=score).train()
    assert (trainer.model is ours) != replaced
    assert len(set(scored)) == 11, "the weights move at every step, and each batch needs a new pool"


def test_a_model_put_in_the_place_of_another_is_the_one_that_scores(tmp_path):
    trainer = sifted(tmp_path, rule=ps.relative(keep=0.9), others={"batch_size": 1})
    passes = trainer.get_train_dataloader()
    trainer.model = bert(seed=9).eval()
    next(iter(passes))
    expected = per_sample(trainer.model, ps.peek(passes.loader.loader)).detach()
    assert torch.equal(passes.loader.info.losses[:BATCH], expected)


KINDS = {
    "one": {},
    "accumulated": {"gradient_accumulation_steps": 3},
    "unsized": {"data": Stream()},
    "shuffled by length": {"group_by_length": True} if OLD else {"train_sampling_strategy": "group_by_length"},
    "shuffled globally": {"accelerator_config": {"use_seedable_sampler": False}},
    "windows": {
        "rule": ps.hold(ps.relative(keep=0.7), keep=0.7),
        "others": {"bucket": lambda batch: batch["input_ids"].count_nonzero(1), "window": 2},
    },
}


def some(kinds, quick):
    """All of them, those that are not quick ones marked slow."""
    return [pytest.param(kind, marks=() if kind in quick else pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", some(KINDS, ("one", "accumulated", "shuffled globally")))
def test_it_resumes_at_every_step(tmp_path, kind):
    """Weights, learning rates and epochs equal those of the uninterrupted run, whatever the global seed was before."""
    settings = {**KINDS[kind], "save_strategy": "steps", "save_steps": 1, "max_steps": 7}
    whole = sifted(tmp_path, **settings)
    whole.train()
    for step in range(1, 7) if kind in ("one", "accumulated") else (2, 5):
        again = sifted(tmp_path, **settings | {"save_strategy": "no"}, model=bert(seed=5))
        torch.manual_seed(step)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert same(weights(again.model), weights(whole.model)), f"step {step}"
        for name in ("learning_rate", "epoch", "sift/seen", "sift/loss"):
            one, other = ([log.get(name) for log in run.state.log_history[:-1]] for run in (whole, again))
            assert one == other
    saved = torch.load(tmp_path / "checkpoint-5" / "sifting-0.pt", weights_only=True)
    assert int(saved["loader/epoch"]) > 0, "in a later pass"
    assert whole.lr_scheduler.get_last_lr() == again.lr_scheduler.get_last_lr() == [0, 0]


def test_the_last_checkpoint_is_found_and_a_finished_run_stays_finished(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    whole = sifted(tmp_path, **settings)
    whole.train()
    again = sifted(tmp_path, **settings, model=bert(seed=5))
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 8
    assert same(weights(again.model), weights(whole.model))


def test_a_class_of_its_own_does_the_same(tmp_path):
    one = sifted(tmp_path, others={"batch_size": 4, "draw": ps.systematic})
    one.train()
    other = huggingface.SiftingTrainer(
        bert(), arguments(tmp_path), train_dataset=Phrases(), rule=RULE, batch_size=4, draw=ps.systematic
    )
    other.remove_callback(transformers.PrinterCallback)
    other.train()
    assert same(weights(one.model), weights(other.model))
    assert isinstance(one, transformers.Trainer) and type(one).__name__ == "SiftingTrainer"


def test_logs_tell_what_was_kept(tmp_path):
    trainer = sifted(tmp_path, rule=ps.top(keep=0.5), data=torch.utils.data.Subset(Phrases(), range(40)))
    metrics = trainer.train().metrics
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["sift/seen"] for log in logs] == [2 * BATCH] * 11, "two pools a batch"
    assert all(log["sift/keep"] == 0.5 and log["sift/kept_loss"] > log["sift/loss"] for log in logs)
    assert metrics["sift/seen"] == 22 * BATCH and metrics["sift/kept"] == 11 * BATCH
    assert [log["epoch"] for log in logs] == pytest.approx([2 * step / 5 for step in range(1, 12)])
    trainer.evaluate(Phrases())
    assert not any("sift" in name for name in trainer.state.log_history[-1])


def test_each_pass_is_an_epoch_for_evaluation_and_saving(tmp_path):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}
    data = torch.utils.data.Subset(Phrases(), range(40))
    args = arguments(tmp_path, **settings)
    trainer = transformers.Trainer(bert(), args, train_dataset=data, eval_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    huggingface.sift(trainer, ps.top(keep=0.5)).train()
    evaluated = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
    assert evaluated == [3, 5, 8, 10, 11], "two pools a batch, and five pools a pass"
    assert {path.name for path in tmp_path.glob("*-*")} == {f"checkpoint-{step}" for step in evaluated}


def test_evaluation_is_the_trainers_own(tmp_path):
    one, other = plain(tmp_path), sifted(tmp_path, loss=lambda model, batch: per_sample(model, batch) * 7)
    assert one.evaluate(Phrases())["eval_loss"] == other.evaluate(Phrases())["eval_loss"]


def test_a_score_that_remembers_is_fed_the_training_losses(tmp_path):
    model, seen = bert(dropout=0), {}

    def loss(model, batch):
        losses = per_sample(model, batch)
        if model.training:
            seen.update(zip(batch["id"].tolist(), losses.tolist(), strict=True))
        return losses

    inner = ps.batched(model, per_sample)
    score = ps.remembered(lambda params, batch: inner(params, batch) * 0 + 9, ROWS, every=99)
    trainer = sifted(
        tmp_path,
        model=model,
        rule=ps.uniform(keep=0.5),
        loss=loss,
        others={"score": score},
        gradient_accumulation_steps=3,
    )
    trainer.train()
    flat = ps.state_dict(trainer.callback_handler.train_dataloader.loader.state)
    remembered = next(tensor for tensor in flat.values() if tensor.shape == (ROWS,) and tensor.is_floating_point())
    assert len(seen) > 20
    ids = torch.tensor(sorted(seen))
    torch.testing.assert_close(remembered[ids], torch.tensor([seen[int(row)] for row in ids]))


def test_ragged_rows_leave_cut_to_their_longest(tmp_path):
    lengths, widths = [2, 3, 4, 6], []

    def collate(items):
        longest = max(lengths[item["id"] % 4] for item in items)
        keep = torch.tensor([[place < lengths[item["id"] % 4] for place in range(longest)] for item in items])
        ids = torch.stack([item["input_ids"][:longest] for item in items])
        return {
            "input_ids": ids * keep,
            "attention_mask": keep.long(),
            "labels": torch.tensor([item["labels"] for item in items]),
        }

    def loss(model, batch):
        if model.training:
            widths.append(batch["input_ids"].shape[1])
            assert batch["attention_mask"].sum(1).max() == widths[-1]
        return per_sample(model, batch)

    pad = {"input_ids": ps.Pad(0, 6), "attention_mask": ps.Pad(0, 6)}
    trainer = plain(tmp_path)
    trainer.data_collator = collate
    length = lambda batch: batch["attention_mask"].sum(1)  # noqa: E731
    huggingface.sift(trainer, RULE, loss=loss, batch_size=2, pad=pad, bucket=length, window=4).train()
    assert len(set(widths)) > 1


def test_a_governor_may_switch_sifting_off(tmp_path):
    trainer = sifted(tmp_path, others={"governor": ps.governor()})
    trainer.train()
    assert "phi" in trainer.callback_handler.train_dataloader.loader.info.extra


@pytest.mark.filterwarnings("ignore:.* has a forward hook")
def test_lower_precision_scores_in_it_too(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # is put back: transformers 4 leaves bf16 to all that follow
    dtypes = {True: set(), False: set()}

    def loss(model, batch):
        model.bert.pooler.register_forward_hook(lambda module, i, out: dtypes[model.training].add(out.dtype))
        return per_sample(model, batch)

    trainer = sifted(tmp_path, loss=loss, bf16=True, max_steps=3)
    trainer.train()
    assert dtypes == {True: {torch.bfloat16}, False: {torch.bfloat16}}


def test_smoothed_labels_smooth_the_default_loss(tmp_path):
    trainer = sifted(tmp_path, rule=ps.uniform(keep=1.0), label_smoothing_factor=0.2)
    trainer.train()
    other = plain(tmp_path, label_smoothing_factor=0.2)
    other.train()
    one, other = (run.state.log_history[0]["loss"] for run in (trainer, other))
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.slow
def test_ranks_sift_their_own_shares_and_resume():
    (one, again), (other, _) = ranks.launch("trainer")["trainer"]
    assert one["weights"] == again["weights"] == other["weights"]
    assert one["pools"] == again["pools"]
    assert one["key"] != other["key"]


# --- errors --------------------------------------------------------------------------------------------------------


class Overridden(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs).loss


def sift_twice(folder):
    huggingface.sift(sifted(folder), RULE)


def sift_a_sifted_loader(folder):
    class Wrapped(transformers.Trainer):
        def get_train_dataloader(self):
            inner = super().get_train_dataloader()
            return ps.SiftingDataLoader(inner, None, ps.uniform(keep=0.5), params={})

    huggingface.sift(Wrapped(bert(), arguments(folder), train_dataset=Phrases()), RULE).train()


def override_the_sifting_loss(folder):
    class Mine(huggingface.SiftingTrainer):
        compute_loss = Overridden.compute_loss

    Mine(bert(), arguments(folder), train_dataset=Phrases(), rule=RULE)


def sift_a_trainer_that_was_patched(folder):
    trainer = plain(folder)
    trainer.compute_loss = lambda *args: None
    huggingface.sift(trainer, RULE)


def resume_an_unsifted_run(folder):
    plain(folder, save_strategy="steps", save_steps=2, max_steps=2).train()
    sifted(folder).train(resume_from_checkpoint=True)


def resume_another_rule(folder):
    sifted(folder, save_strategy="steps", save_steps=2, max_steps=2).train()
    sifted(folder, rule=ps.top(keep=0.5)).train(resume_from_checkpoint=True)


by_id = {"others": {"columns": {"group": lambda batch: batch["id"]}}}
ERRORS = {
    "no max_steps": ({"max_steps": -1, "num_train_epochs": 4}, r"max_steps must be set.*60%, make about 14 steps"),
    "a rule that needs columns": (
        {"max_steps": -1, "rule": ps.by_group(ps.top(keep=0.5), groups=3)},
        r"keeping 100%, make about 17 steps: pass TrainingArguments\(max_steps=17\)",
    ),
    "a scalar loss": ({"loss": lambda model, batch: per_sample(model, batch).mean()}, "already reduced"),
    "the model's own loss": (
        {"loss": lambda model, batch: model(input_ids=batch["input_ids"], labels=batch["labels"]).loss},
        'reduced to one number.*reduction="none"',
    ),
    "removed columns": ({**by_id, "remove_unused_columns": True}, "no 'id'.*remove_unused_columns=False"),
    "a regression": ({"model": bert(num_labels=1)}, r"classifier.*'logits': \[8, 1\].*pass loss\("),
    "no labels": ({"data": [{"input_ids": [1, 2]}] * 20}, r"'labels': None.*pass loss\("),
    "a setting out of range": ({"others": {"batch_size": 0}}, "batch_size must be"),
    "a window of nothing": ({"others": {"window": 3}}, "needs bucket="),
    "a rule that keeps nothing": ({"rule": ps.threshold(99.0), "others": {"nonfinite": "drop"}}, "0 kept rows"),
    "smoothing another loss": ({"loss": per_sample, "label_smoothing_factor": 0.1}, "smooth the labels in it"),
    "twice": (sift_twice, "sifted already"),
    "a sifted loader": (sift_a_sifted_loader, "gives a sifted loader already"),
    "a loss of a subclass": (
        lambda folder: huggingface.sift(Overridden(bert(), arguments(folder), train_dataset=Phrases()), RULE),
        r"Overridden overrides compute_loss.*pass it as loss\(",
    ),
    "the sifting loss overridden": (override_the_sifting_loss, "Mine overrides compute_loss"),
    "patched": (sift_a_trainer_that_was_patched, "compute_loss was set on the trainer itself"),
    "a loss function": (
        lambda folder: huggingface.sift(
            transformers.Trainer(
                bert(), arguments(folder), train_dataset=Phrases(), compute_loss_func=lambda *args, **kwargs: None
            ),
            RULE,
        ),
        "compute_loss_func gives one number",
    ),
    "resumed without a state": (resume_an_unsifted_run, r"no sifting-0.pt.*from_pretrained\("),
    "resumed with another rule": (resume_another_rule, "of another kind"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_cure(tmp_path, name):
    case, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        case(tmp_path) if callable(case) else sifted(tmp_path, **case).train()


SPREAD = {
    "DeepSpeed": ("is_deepspeed_enabled", 0, None, 'DeepSpeed keeps the parameters.*"fsdp_version": 2'),
    "FSDP of XLA": ("is_fsdp_xla_enabled", 0, None, "FSDP of XLA"),
    "FSDP 1": ("is_fsdp_enabled", 1, None, 'first version of FSDP.*"fsdp_version": 2'),
    "FSDP 2": ("is_fsdp_enabled", 2, None, None),
    "an evaluation by epochs": ("is_fsdp_enabled", 2, "eval_strategy", "eval_strategy='steps'"),
    "checkpoints by epochs": ("is_fsdp_enabled", 2, "save_strategy", "save_strategy='steps'"),
    "logs by epochs": ("is_fsdp_enabled", 2, "logging_strategy", "logging_strategy='steps'"),
}


@pytest.mark.parametrize("name", SPREAD)
def test_parameters_that_cannot_be_scored_are_refused_at_once(tmp_path, name, monkeypatch):
    flag, version, strategy, message = SPREAD[name]
    trainer = plain(tmp_path)
    setattr(trainer, flag, True)
    if strategy is not None:
        setattr(trainer.args, strategy, transformers.trainer_utils.IntervalStrategy("epoch"))
    state = types.SimpleNamespace(fsdp_plugin=types.SimpleNamespace(fsdp_version=version))
    trainer.accelerator = types.SimpleNamespace(state=state)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    if message is None:
        huggingface.sift(trainer, RULE)
        return
    with pytest.raises(ps.SiftError, match=message):
        huggingface.sift(trainer, RULE)
    assert type(trainer) is transformers.Trainer, "it is as it was"


def test_a_rule_that_comes_to_keep_nothing_does_not_run_for_ever(tmp_path):
    rule = ps.delay(ps.threshold(99.0), steps=6)
    with pytest.raises(ValueError, match=r"kept nothing of a whole pass.*ps\.floor"):
        sifted(tmp_path, rule=rule).train()


def test_an_unknown_setting_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        sifted(tmp_path, others={"colour": 3})
    with pytest.raises(TypeError, match="colour"):
        huggingface.SiftingTrainer(bert(), arguments(tmp_path), train_dataset=Phrases(), rule=RULE, colour=3)


def drawer(**changes):
    return ps.prioritizer(RULE, **{"size": ROWS, "batch_size": BATCH, "every": 4, "end": 0.0, **changes})


def drawing(folder, *, prioritizer=None, loss=None, others=None, **settings):
    """Three epochs of 5.5 batches: the last batch of each is of two passes."""
    trainer = plain(folder, **{"max_steps": -1, "num_train_epochs": 3, **settings})
    return huggingface.sift(trainer, prioritizer=prioritizer or drawer(), loss=loss, **others or {})


@pytest.mark.parametrize("accumulate", [1, 4])
def test_drawn_batches_train_as_a_loop_written_by_hand(tmp_path, accumulate):
    """Weights reach the loss and losses the sampler, and an epoch's last group of batches may be a smaller one."""
    settings = {"gradient_accumulation_steps": accumulate, "max_grad_norm": 0.0}
    trainer = drawing(tmp_path, model=bert(dropout=0), **settings)
    trainer.train()

    model, hand = bert(dropout=0), plain(tmp_path, **settings)
    hand.model, steps = model, 3 * -(-6 // accumulate)
    hand.create_optimizer_and_scheduler(num_training_steps=steps)
    sampler, seen = ps.PrioritizedSampler(drawer(), seed=42), []
    model.train()
    for _ in range(3):
        batches = iter(sampler)
        groups = [accumulate] * (6 // accumulate) + [6 % accumulate] * bool(6 % accumulate)
        for count in groups:
            # The Trainer loads a group before it trains on any of it.
            for ids in [next(batches) for _ in range(count)]:
                batch, rows = hand.data_collator([hand.train_dataset[id] for id in ids]), sampler.weights(ids)
                losses = per_sample(model, batch)
                sampler.observe(ids, losses)
                ((rows * losses).mean() / count).backward()
                seen.append(bool((rows != 1).any()))
            hand.optimizer.step()
            hand.lr_scheduler.step()
            model.zero_grad()
        assert next(batches, None) is None
    assert any(seen) and not all(seen)
    assert trainer.state.global_step == steps and trainer.state.epoch == 3.0
    assert same(weights(trainer.model), weights(model))
    assert trainer.lr_scheduler.get_last_lr() == [0, 0]
    assert same(sampler_of(trainer).state_dict(), sampler.state_dict())


def sampler_of(trainer):
    return trainer.callback_handler.train_dataloader.batch_sampler.sampler


DRAWN = {
    "one": {},
    "accumulated": {"gradient_accumulation_steps": 4},
    "workers": {"dataloader_num_workers": 2},
    "a budget": {"max_steps": 9, "prioritizer": drawer(steps=9, end=0.2)},
    "half a group": {"max_steps": 5, "gradient_accumulation_steps": 4, "prioritizer": drawer(steps=16)},
}


@pytest.mark.parametrize("kind", some(DRAWN, ("accumulated", "workers")))
def test_drawn_batches_resume_at_every_step(tmp_path, kind):
    settings = {"num_train_epochs": 2, **DRAWN[kind], "save_strategy": "steps", "save_steps": 1}
    whole = drawing(tmp_path, **settings)
    whole.train()
    last = whole.state.global_step
    for step in (1, 5, 6, 9) if kind == "workers" else range(1, last):
        again = drawing(tmp_path, **settings | {"save_strategy": "no"}, model=bert(seed=5))
        torch.manual_seed(step)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert same(weights(again.model), weights(whole.model)), f"step {step}"
        assert same(sampler_of(again).state_dict(), sampler_of(whole).state_dict())
        for name in ("learning_rate", "epoch", "loss"):
            one, other = ([log.get(name) for log in run.state.log_history[:-1]] for run in (whole, again))
            assert one == other
    assert whole.state.max_steps == last


def test_an_epoch_draws_every_row_and_leaves_the_users_columns_alone(tmp_path):
    seen = []

    def loss(model, batch):
        assert batch.keys() == {"input_ids", "attention_mask", "labels", "id"}
        seen.extend(batch["id"].tolist())
        return per_sample(model, batch)

    trainer = drawing(tmp_path, loss=loss, num_train_epochs=1, others={"prefetch": 8, "sync": 2})
    trainer.train()
    assert sorted(seen[:ROWS]) == list(range(ROWS)) and len(seen) == 6 * BATCH
    assert trainer.evaluate(Phrases())["eval_loss"] > 0 and len(seen) == 6 * BATCH
    trainer.train()
    assert sorted(seen[6 * BATCH :][:ROWS]) == list(range(ROWS)), "another training begins anew"


def draw_twice(folder):
    huggingface.sift(drawing(folder), RULE)


def resume_undrawn(folder):
    plain(folder, save_strategy="steps", save_steps=2, max_steps=2).train()
    drawing(folder).train(resume_from_checkpoint=True)


def resume_drawn(**changes):
    def resume(folder):
        drawing(folder, save_strategy="steps", save_steps=2, max_steps=2).train()
        drawing(folder, **changes).train(resume_from_checkpoint=True)

    return resume


def nothing_to_go_by(folder):
    huggingface.sift(plain(folder))


NOT_DRAWN = {
    "neither": (nothing_to_go_by, "pass either a rule.*or a prioritizer"),
    "both": (lambda folder: huggingface.sift(plain(folder), RULE, prioritizer=drawer()), "pass either a rule"),
    "twice": (draw_twice, "sifted already"),
    "a score": ({"others": {"score": per_sample}}, "a prioritizer scores nothing: leave them out"),
    "another batch size": ({"per_device_train_batch_size": 4}, "batches are of 4 rows, over 1 .* batch_size=4"),
    "another dataset": ({"data": Phrases(40)}, "is for 44 samples, and the dataset has 40 samples.*size=len"),
    "a stream": ({"data": Stream(), "max_steps": 3}, "the dataset is no map-style dataset with a length"),
    "another budget": ({"prioritizer": drawer(steps=20)}, "plans steps=20, and this Trainer takes 18.*steps=18"),
    "a scalar loss": ({"loss": lambda model, batch: per_sample(model, batch).mean()}, "already reduced"),
    "no prefetch": ({"others": {"prefetch": 0}}, "prefetch must be a whole number >= 1"),
    "too little prefetch": (
        {"others": {"prefetch": 3}, "gradient_accumulation_steps": 4},
        r"3 batches were handed out.*larger prefetch=",
    ),
    "resumed without a state": (resume_undrawn, r"no sifting-0.pt.*from_pretrained\("),
    "resumed with another plan": (resume_drawn(prioritizer=drawer(every=5)), "another plan, with every 4 and now 5"),
    "resumed by other groups": (
        resume_drawn(gradient_accumulation_steps=2),
        "resumes after 4 batches .*, and 2 were .*accumulation_steps",
    ),
    "a collator of tuples": (
        {"data": [{"input_ids": [1, 2], "labels": 0}] * ROWS, "collate": lambda rows: (1, 2)},
        "must give a mapping, as the Trainer takes, got tuple",
    ),
}


@pytest.mark.parametrize("name", NOT_DRAWN)
@pytest.mark.filterwarnings("ignore:.*arguments do not match.*")
def test_what_cannot_be_drawn_is_refused_in_words(tmp_path, name):
    case, message = NOT_DRAWN[name]

    def run():
        if callable(case):
            return case(tmp_path)
        trainer = drawing(tmp_path, **{key: value for key, value in case.items() if key != "collate"})
        trainer.data_collator = case.get("collate", trainer.data_collator)
        trainer.train()

    with pytest.raises(ValueError, match=message):
        run()


def test_an_unknown_setting_of_the_sampler_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        drawing(tmp_path, others={"colour": 3})


def test_two_processes_draw_shares_of_one_batch_and_resume():
    one, other = ranks.launch("drawn_trainer")["drawn_trainer"]
    assert one["weights"] == other["weights"] and one["table"] == other["table"]
    assert one["steps"] == 6 and one["resumed"] and other["resumed"]
    assert not any(set(ours) & set(theirs) for ours, theirs in zip(one["ids"][:2], other["ids"][:2], strict=True))


def test_an_old_transformers_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(__version__="4.56.2"))
    with pytest.raises(ImportError, match=r"transformers >= 4\.57, and 4\.56\.2 is installed.*puresift\[huggingface\]"):
        runpy.run_path(huggingface.trainer.__file__)


def test_doors_are_imported_when_they_are_named():
    doors = pathlib.Path(ps.__file__).parent / "integrations"
    files = [
        path
        for path in doors.parent.rglob("*.py")
        if re.search("^ *(import|from) transformers", path.read_text(), re.M)
    ]
    naming = {str(path.relative_to(doors)) for path in files}
    assert naming == {"huggingface/trainer.py", "smart_sifting/integrations/trainer.py"}
    assert ps.integrations.huggingface is huggingface
    with pytest.raises(AttributeError, match="nothing"):
        _ = ps.integrations.nothing
