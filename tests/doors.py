"""One small problem, run through every door: what each keeps, in which order, and where the model ends.

A door is entered in `DOORS`; tests/integrations/test_doors.py compares all of them with the plain `ps.sift` loop.
"""

import inspect
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler

import puresift as ps
from tests.strategies import data

ROWS, POOL, BATCH, EPOCHS, RATE = 96, 16, 8, 2, 0.1


class Rows(Dataset):
    """Dict samples of the small classification problem, each with its id."""

    def __init__(self, rows: int = ROWS):
        self.x, self.y = data(rows).tensors

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input": self.x[row], "labels": self.y[row], "id": torch.tensor(row)}


class Net(nn.Module):
    """A small classifier that notes which ids it was trained on; scoring runs in eval mode, and goes unnoted."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.seen: list[int] = []

    def forward(self, input: Tensor, labels: Tensor | None = None, id: Tensor | None = None) -> dict[str, Tensor]:
        if self.training and id is not None:
            self.seen += id.tolist()
        return {"logits": self.layers(input)}


Answer = tuple[list[int], dict[str, Tensor]]  # ids trained on, in order; final weights


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Per-sample loss, Float[B]."""
    return nn.functional.cross_entropy(model(**batch)["logits"], batch["labels"], reduction="none")


def rule() -> ps.Rule:
    return ps.relative(keep=0.5, history=64)


def pools() -> DataLoader:
    """Pools in the order of the rows."""
    return DataLoader(Rows(), POOL)


def start() -> tuple[Net, torch.optim.Optimizer]:
    model = Net()
    return model, torch.optim.SGD(model.parameters(), lr=RATE)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], weights: Tensor) -> None:
    optimizer.zero_grad()
    (weights * loss(model, batch)).mean().backward()
    optimizer.step()


def answer(model: Net) -> Answer:
    return model.seen, {name: tensor.detach() for name, tensor in model.state_dict().items()}


def plain() -> Answer:
    """The reference: the loop a reader writes."""
    model, optimizer = start()
    sifter = ps.sifter(ps.batched(model, loss), rule(), batch_size=BATCH)
    state = sifter.init(ps.key(0), ps.peek(pools()))
    for batch, weights, _, _ in ps.sift(sifter, state, ps.live(model), ps.epochs(pools(), EPOCHS)):
        step(model, optimizer, batch, weights)
    return answer(model)


def loader() -> Answer:
    model, optimizer = start()
    sifting = ps.SiftingDataLoader(
        pools(), ps.batched(model, loss), rule(), params=ps.live(model), batch_size=BATCH, weights=True
    )
    for _ in range(EPOCHS):
        for batch, weights in sifting:
            step(model, optimizer, batch, weights)
    return answer(model)


def in_order(trainer: Any) -> Any:
    """A Hugging Face Trainer that does not shuffle: only from transformers 5 on has it an argument for that."""
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    return trainer


def huggingface() -> Answer:
    import transformers

    model, optimizer = start()
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            folder,
            max_steps=len(plain()[0]) // BATCH,
            per_device_train_batch_size=POOL,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            seed=0,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        trainer = transformers.Trainer(model, args, train_dataset=Rows(), optimizers=(optimizer, None))
        ps.integrations.huggingface.sift(in_order(trainer), rule(), loss=loss, batch_size=BATCH).train()
    return answer(model)


def accelerate() -> Answer:
    from accelerate import Accelerator

    from puresift.integrations.accelerate import sifting

    accelerator = Accelerator(cpu=True)
    model, optimizer, prepared = accelerator.prepare(*start(), pools())
    score = ps.batched(model, loss)
    sifted = sifting(accelerator, prepared, score, rule(), params=ps.live(model), batch_size=BATCH, weights=True)
    for _ in range(EPOCHS):
        for batch, weights in sifted:
            with accelerator.accumulate(model):
                accelerator.backward((weights * loss(model, batch)).mean())
                optimizer.step()
                optimizer.zero_grad()
    return answer(accelerator.unwrap_model(model))


def lightning() -> Answer:
    import lightning.pytorch as pl

    from puresift.integrations.lightning import SiftingCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.optimizer = start()

        def forward(self, **batch: Tensor) -> dict[str, Tensor]:
            return self.net(**batch)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            weights = batch.pop("weights")
            return (weights * loss(self, batch)).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    module = Module()
    sifting = SiftingCallback(ps.batched(module, loss), rule(), batch_size=BATCH, weights="weights")
    steps = len(plain()[0]) // BATCH  # an epoch of Lightning's ends with a full batch, the plain loop with the last row
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[sifting], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, sifting.wrap(pools()))
    return answer(module.net)


def safely(fit: Callable) -> dict[str, bool]:
    """What tells a Lightning Trainer's `fit` to load a checkpoint as plain tensors: from 2.6 on it can be told."""
    return {"weights_only": True} if "weights_only" in inspect.signature(fit).parameters else {}


DOORS = {"loader": loader, "accelerate": accelerate, "huggingface": huggingface, "lightning": lightning}
NEEDS = {"accelerate": "accelerate", "huggingface": "transformers", "lightning": "lightning.pytorch"}
TOLERANCE: dict[str, float] = {}  # doors whose trainer's own arithmetic differs from the plain loop's, each with why
