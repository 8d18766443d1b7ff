"""Image training with mixup and cutmix, in timm's style: mixed on the host by the loader, or in the loop."""

import argparse
import time

import numpy as np
import torch
from common import report
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate


def images(count, seed):
    """Three kinds of pattern under noise."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.randint(0, 3, (count,), generator=g), torch.rand(count, 1, 12, 12, generator=g)
    for row in range(count):
        part = x[row, 0]
        (part[::2] if y[row] == 0 else part[:, ::2] if y[row] == 1 else part[3:9, 3:9]).add_(0.6)
    return TensorDataset(x, y)


class Mixup:
    """Mixes each row with one of the same batch, by mixup or by cutmix; targets become soft."""

    def __init__(self, mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=3, seed=0):
        self.alphas, self.classes = (mixup_alpha, cutmix_alpha), num_classes
        self.draw = np.random.RandomState(seed)

    def __call__(self, x, target):
        cut = int(self.draw.rand() < 0.5)
        lam = self.draw.beta(self.alphas[cut], self.alphas[cut])
        other, x = x.flip(0), x.clone()
        if cut:
            side = int(x.shape[-1] * (1 - lam) ** 0.5)
            top = self.draw.randint(x.shape[-1] - side + 1)
            x[..., top : top + side, top : top + side] = other[..., top : top + side, top : top + side]
            lam = 1 - side**2 / x.shape[-1] ** 2
        else:
            x = lam * x + (1 - lam) * other
        hot = F.one_hot(target, self.classes).float()
        return x, lam * hot + (1 - lam) * hot.flip(0)


class SoftTargetCrossEntropy(nn.Module):
    def forward(self, x, target):
        return torch.sum(-target * F.log_softmax(x, dim=-1), dim=-1).mean()


def create_model():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 3))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--prefetcher", action="store_true", help="mix in the collate function")
    parser.add_argument("--sift", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)

    mixup_fn = Mixup()
    mixed = {"collate_fn": lambda rows: mixup_fn(*default_collate(rows))} if args.prefetcher else {}
    loader_train = DataLoader(images(512, 0), 16, shuffle=True, **mixed)
    x_eval, y_eval = images(128, 1).tensors
    model = create_model()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    train_loss_fn, kept, updates = SoftTargetCrossEntropy(), {}, 0
    if args.sift:
        import puresift as ps

        def row_losses(model, batch):  # of hard targets and of soft ones
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        meter = ps.Meter()
        rule = ps.hold(ps.relative(keep=0.5), keep=0.5)
        loader_train = ps.SiftingDataLoader(loader_train, ps.batched(model, row_losses), rule, params=ps.live(model))

    start = time.time()
    for _ in range(args.epochs):
        for input, target in loader_train:
            if not args.prefetcher:
                input, target = mixup_fn(input, target)
            loss = train_loss_fn(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            if args.sift:
                meter.update(loader_train.info)
                kept = {"sift/keep": meter.read()["keep"]}
    seconds = time.time() - start
    model.eval()
    with torch.no_grad():
        logits = model(x_eval)
    accuracy = float((logits.argmax(1) == y_eval).float().mean())
    loss = float(F.cross_entropy(logits, y_eval))
    report(model, kept, seconds=seconds, updates=updates, eval_loss=loss, eval_accuracy=accuracy)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
