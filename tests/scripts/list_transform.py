"""A script in the published API's style: a plain loop, batches as dicts, rows as lists."""

import argparse
from typing import Any

import torch
from smart_sifting.data_model.data_model_interface import SiftingBatch, SiftingBatchTransform
from smart_sifting.data_model.list_batch import ListBatch
from smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from smart_sifting.loss.abstract_sift_loss_module import Loss
from smart_sifting.sift_config.sift_configs import LossConfig, RelativeProbabilisticSiftConfig, SiftingBaseConfig
from torch import nn
from torch.utils.data import DataLoader


class TokenLoss(Loss):
    def __init__(self):
        self.cross_entropy = nn.CrossEntropyLoss(reduction="none")

    def loss(self, model: nn.Module, transformed_batch: SiftingBatch, original_batch: Any = None) -> torch.Tensor:
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in original_batch.items()}
        return self.cross_entropy(model(batch["tokens"]), batch["label"])


class TokenTransform(SiftingBatchTransform):
    """Rows without their padding: of different lengths, which only lists can hold."""

    def transform(self, batch: Any) -> ListBatch:
        lengths = (batch["tokens"] > 0).sum(1).tolist()
        rows = [row[:length] for row, length in zip(batch["tokens"], lengths, strict=True)]
        return ListBatch(rows, batch["label"].tolist())

    def reverse_transform(self, list_batch: ListBatch) -> Any:
        tokens = nn.utils.rnn.pad_sequence(list_batch.inputs, batch_first=True)
        return {"tokens": tokens, "label": torch.tensor(list_batch.labels)}


def collate(rows: Any) -> Any:
    tokens = nn.utils.rnn.pad_sequence([tokens for tokens, _ in rows], batch_first=True)
    return {"tokens": tokens, "label": torch.tensor([label for _, label in rows])}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.dropout, self.head = nn.Embedding(20, 8, padding_idx=0), nn.Dropout(0.1), nn.Linear(8, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.embed(tokens).mean(1)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--beta", type=float, default=1.0)
    args = parser.parse_args()
    torch.manual_seed(0)

    data = []
    for _ in range(192):
        tokens = torch.randint(1, 20, (int(torch.randint(3, 9, ())),))
        data.append((tokens, int((tokens > 10).float().mean() > 0.5)))
    model = Model()
    loader = SiftingDataloader(
        sift_config=RelativeProbabilisticSiftConfig(
            beta_value=args.beta,
            loss_history_length=100,
            loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=2)),
        ),
        orig_dataloader=DataLoader(data, batch_size=16, shuffle=True, collate_fn=collate),
        batch_transforms=TokenTransform(),
        loss_impl=TokenLoss(),
        model=model,
        log_batch_data=False,
    )

    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(args.epochs):
        model.train()
        steps, last = 0, 0.0
        for batch in loader:
            loss = nn.functional.cross_entropy(model(batch["tokens"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps, last = steps + 1, loss.item()
        print(f"steps {steps} loss {last:.3f}")


if __name__ == "__main__":
    main()
