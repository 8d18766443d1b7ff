"""A script in the published API's style: the Hugging Face Trainer, by enable_sifting."""

import argparse

import torch
from smart_sifting.integrations.trainer import enable_sifting
from smart_sifting.loss.abstract_sift_loss_module import Loss
from smart_sifting.sift_config.sift_configs import LossConfig, RelativeProbabilisticSiftConfig, SiftingBaseConfig
from torch.nn import CrossEntropyLoss
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments


class SiftingImplementedLoss(Loss):
    def loss(self, model, transformed_batch, original_batch):
        loss_fct = CrossEntropyLoss(reduction="none")
        logits = model(**original_batch).logits
        return loss_fct(logits, original_batch.get("labels"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default="out")
    parser.add_argument("--set_epochs", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=2
    )
    tokens = torch.randint(1, 20, (128, 6), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"input_ids": row, "attention_mask": [1] * 6, "labels": int(sum(row) > 60)} for row in tokens]
    sift_config = RelativeProbabilisticSiftConfig(
        beta_value=1,
        loss_history_length=500,
        loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=0)),
    )
    trainer = Trainer(
        BertForSequenceClassification(config),
        TrainingArguments(
            args.folder,
            num_train_epochs=2,
            per_device_train_batch_size=8,
            learning_rate=0.01,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            max_steps=-1 if args.set_epochs else 5,
        ),
        train_dataset=rows,
    )
    enable_sifting(trainer, sift_config, loss=SiftingImplementedLoss(), set_epochs=args.set_epochs)
    trainer.train()
    print(f"steps {trainer.state.global_step}")


if __name__ == "__main__":
    main()
