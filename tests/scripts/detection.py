"""Trains a small detector on images with any number of boxes, in the style of torchvision's reference loop."""

import argparse
import math
import os
import time

import torch
from common import report
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Shapes(Dataset):
    """Pictures with none to three bright squares; a target is a dict, and its tensors are as long as it has boxes."""

    def __init__(self, count, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.rows = []
        for number in range(count):
            image = torch.rand(1, 16, 16, generator=g) * 0.2
            boxes = []
            for _ in range(int(torch.randint(0, 4, (), generator=g))):
                x, y, w = torch.randint(0, 10, (3,), generator=g).tolist()
                w = 3 + w % 4
                image[:, y : y + w, x : x + w] += 0.8
                boxes.append([x, y, x + w, y + w])
            boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            labels = torch.ones(len(boxes), dtype=torch.int64)
            self.rows.append((image, {"boxes": boxes, "labels": labels, "image_id": number}))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def collate_fn(batch):
    return tuple(zip(*batch, strict=True))


class Detector(nn.Module):
    """An objectness and a size for every cell of a grid; in train mode the losses, as torchvision's detectors give."""

    def __init__(self, cells=4):
        super().__init__()
        self.cells = cells
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 3, 3, 1, 1)
        )

    def targets(self, target):
        wanted = torch.zeros(3, self.cells, self.cells)
        for x0, y0, x1, y1 in target["boxes"].tolist():
            column, row = int((x0 + x1) / 8), int((y0 + y1) / 8)
            wanted[:, row, column] = torch.tensor([1.0, (x1 - x0) / 8, (y1 - y0) / 8])
        return wanted

    def losses(self, images, targets):
        out, wanted = self.body(torch.stack(list(images))), torch.stack([self.targets(t) for t in targets])
        found = F.binary_cross_entropy_with_logits(out[:, 0], wanted[:, 0], reduction="none").flatten(1).mean(1)
        sizes = (wanted[:, 0:1] * (out[:, 1:] - wanted[:, 1:]).abs()).flatten(1).sum(1)
        return {"loss_objectness": found, "loss_box_reg": sizes / 16}

    def forward(self, images, targets):
        return {name: losses.mean() for name, losses in self.losses(images, targets).items()}


def evaluate(model, data_loader):
    model.eval()
    with torch.no_grad():
        losses = [sum(model(images, targets).values()) for images, targets in data_loader]
    model.train()
    return float(torch.stack(losses).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", default="out")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--stop_at", type=int, help="save and stop after this many steps, as a killed run would")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--sift", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)

    data_loader = DataLoader(Shapes(192), 16, shuffle=True, collate_fn=collate_fn)
    data_loader_test = DataLoader(Shapes(64, seed=1), 16, collate_fn=collate_fn)
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    kept = {}
    if args.sift:
        import puresift as ps

        def row_losses(model, batch):
            return sum(model.losses(*batch).values())

        meter = ps.Meter()
        data_loader = ps.SiftingDataLoader(
            data_loader, ps.batched(model, row_losses), ps.hold(ps.relative(keep=0.5), keep=0.5), params=ps.live(model)
        )
    file, steps, begin = os.path.join(args.output_dir, "checkpoint.pth"), 0, 0
    if args.resume:
        checkpoint = torch.load(file, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        data_loader.load_state_dict(checkpoint["loader"])
        torch.set_rng_state(checkpoint["rng"])
        steps, begin = checkpoint["steps"], data_loader.epoch

    start = time.time()
    for _ in range(begin, args.epochs):
        for images, targets in data_loader:
            images = list(image for image in images)
            targets = [{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
            loss_dict = model(images, targets)
            losses = sum(loss for loss in loss_dict.values())
            assert math.isfinite(losses.item())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
            steps += 1
            if args.sift:
                meter.update(data_loader.info)
                kept = {"sift/keep": meter.read()["keep"]}
            if steps == args.stop_at:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps}
                state |= {"loader": data_loader.state_dict(), "rng": torch.get_rng_state()}
                torch.save(state, file)
                return
    report(model, kept, seconds=time.time() - start, steps=steps, eval_loss=evaluate(model, data_loader_test))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
