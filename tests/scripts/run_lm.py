"""Trains a small masked or causal language model with the Trainer, in the style of the published scripts."""

import argparse
import math
import os
from itertools import chain

import torch
from common import report, sentences, tokenizer_in
from datasets import Dataset, DatasetDict
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", default="out")
    parser.add_argument("--mlm", action="store_true")
    parser.add_argument("--line_by_line", action="store_true", help="rows of different lengths")
    parser.add_argument("--block_size", type=int, default=16)
    parser.add_argument("--max_steps", type=int, default=60)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--sift", action="store_true")
    args = parser.parse_args()
    set_seed(42)

    rows, _ = sentences(600)
    raw_datasets = DatasetDict(
        train=Dataset.from_dict({"text": rows[:480]}), validation=Dataset.from_dict({"text": rows[480:]})
    )
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_in(os.path.join(args.output_dir, "tokenizer")))
    if args.mlm:
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64,
        )  # fmt: skip
        model = BertForMaskedLM(config)
    else:
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64,
            bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)

    def tokenize_function(examples):
        return tokenizer(examples["text"], return_special_tokens_mask=args.mlm)

    lm_datasets = raw_datasets.map(tokenize_function, batched=True, remove_columns=["text"])

    def group_texts(examples):
        concatenated = {k: list(chain(*examples[k])) for k in examples}
        total_length = len(next(iter(concatenated.values()))) // args.block_size * args.block_size
        result = {
            k: [t[i : i + args.block_size] for i in range(0, total_length, args.block_size)]
            for k, t in concatenated.items()
        }
        if not args.mlm:
            result["labels"] = result["input_ids"].copy()
        return result

    if not args.line_by_line:
        lm_datasets = lm_datasets.map(group_texts, batched=True)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            args.output_dir,
            max_steps=args.max_steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            learning_rate=5e-3,
            logging_steps=20,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=lm_datasets["train"],
        eval_dataset=lm_datasets["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=args.mlm, mlm_probability=0.15),
    )
    if args.sift:
        import puresift as ps

        ps.integrations.huggingface.sift(trainer, ps.hold(ps.relative(keep=0.5), keep=0.5))

    train_result = trainer.train()
    metrics = trainer.evaluate()
    metrics["perplexity"] = math.exp(metrics["eval_loss"])
    report(trainer.model, train_result.metrics, metrics)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
