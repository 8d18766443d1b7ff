"""Fine-tunes a small BERT on sentence classification with the Trainer, in the style of the published GLUE script."""

import argparse
import json
import os

import numpy as np
import torch
from common import report, sentences, tokenizer_in
from datasets import Dataset, DatasetDict
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", default="out")
    parser.add_argument("--max_steps", type=int, default=60)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--save_steps", type=int, default=20)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--resume_from_checkpoint")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--sift", action="store_true")
    args = parser.parse_args()
    set_seed(args.seed)

    rows = sentences(600)
    raw_datasets = DatasetDict(
        train=Dataset.from_dict({"sentence": rows[0][:480], "label": rows[1][:480]}),
        validation=Dataset.from_dict({"sentence": rows[0][480:], "label": rows[1][480:]}),
    )
    label_list = sorted(set(raw_datasets["train"]["label"]))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_in(os.path.join(args.output_dir, "tokenizer")))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=len(label_list), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = BertForSequenceClassification(config)

    def preprocess_function(examples):
        result = tokenizer(examples["sentence"], max_length=64, truncation=True)
        result["label"] = examples["label"]
        return result

    raw_datasets = raw_datasets.map(preprocess_function, batched=True)

    def compute_metrics(p: EvalPrediction):
        preds = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        return {"accuracy": float((np.argmax(preds, axis=1) == p.label_ids).mean())}

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            args.output_dir,
            max_steps=args.max_steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            learning_rate=args.learning_rate,
            eval_strategy="steps",
            eval_steps=args.save_steps,
            save_steps=args.save_steps,
            logging_steps=args.save_steps,
            seed=args.seed,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=raw_datasets["train"],
        eval_dataset=raw_datasets["validation"],
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
    )
    if args.sift:
        import puresift as ps

        ps.integrations.huggingface.sift(trainer, ps.hold(ps.relative(keep=0.5), keep=0.5))

    train_result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", train_result.metrics)
    trainer.save_state()
    metrics = trainer.evaluate(eval_dataset=raw_datasets["validation"])
    trainer.save_metrics("eval", metrics)
    report(trainer.model, train_result.metrics, metrics)
    with open(os.path.join(args.output_dir, "all_results.json")) as file:
        assert "eval_accuracy" in json.load(file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
