"""Supervised fine-tuning of a tiny causal model by TRL's SFTTrainer; every option of SFTConfig can be given."""

import argparse
import os

import torch
from common import report, sentences, tokenizer_in
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

CHAT = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }} [SEP]{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %} {% endfor %}"
)


def dataset(kind, count):
    """Rows as `kind` says: text, prompt-completion or messages."""
    texts, _ = sentences(count)
    halves = [(text.split()[: len(text.split()) // 2], text.split()[len(text.split()) // 2 :]) for text in texts]
    pairs = [(" ".join(first), " ".join(second)) for first, second in halves]
    if kind == "text":
        return Dataset.from_dict({"text": texts})
    if kind == "prompt":
        return Dataset.from_list([{"prompt": first, "completion": " " + second} for first, second in pairs])
    return Dataset.from_list(
        [
            {"messages": [{"role": "user", "content": first}, {"role": "assistant", "content": second}]}
            for first, second in pairs
        ]
    )


def build(folder, kind="text", steps=6, rows=120, loss=None, **options):
    """The trainer, as a script would make it."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_in(os.path.join(folder, "tokenizer")))
    tokenizer.eos_token, tokenizer.chat_template = "[SEP]", CHAT
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    usual = {
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-3,
        "max_length": 24,
        "logging_steps": 3,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
    }
    return SFTTrainer(
        LlamaForCausalLM(config),
        args=SFTConfig(folder, **usual | options),
        train_dataset=dataset(kind, rows),
        eval_dataset=dataset(kind, 16),
        processing_class=tokenizer,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", default="out")
    parser.add_argument("--kind", default="text")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sift", action="store_true")
    args = parser.parse_args()
    packed = {"packing": True, "packing_strategy": "wrapped"} if args.packing else {}
    trainer = build(args.output_dir, args.kind, args.steps, rows=400, **packed)
    if args.sift:
        import puresift as ps

        ps.integrations.huggingface.sift(trainer, ps.hold(ps.relative(keep=0.5), keep=0.5))
    metrics = trainer.train().metrics
    report(trainer.model, metrics, trainer.evaluate())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
