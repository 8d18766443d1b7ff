"""A small GPT trained on text by a loop of its own, in nanoGPT's style: a function gives the batches, not a loader."""

import argparse
import math
import os
import time

import torch
import torch.nn as nn
from common import report, sentences
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", default="out")
parser.add_argument("--max_iters", type=int, default=150)
parser.add_argument("--stop_at", type=int, help="stop here, as a killed run would; --init_from resume goes on")
parser.add_argument("--init_from", default="scratch")
parser.add_argument("--sift", action="store_true")
args = parser.parse_args()

eval_interval, eval_iters, log_interval = 50, 10, 50
batch_size, block_size, gradient_accumulation_steps = 12, 24, 2
n_layer, n_head, n_embd, dropout = 2, 2, 32, 0.1
learning_rate, min_lr, warmup_iters, grad_clip = 3e-3, 3e-4, 10, 1.0

torch.set_num_threads(1)
torch.manual_seed(1337)
os.makedirs(args.out_dir, exist_ok=True)
text = "\n".join(sentences(400)[0])
stoi = {ch: i for i, ch in enumerate(sorted(set(text)))}
data = torch.tensor([stoi[ch] for ch in text])
train_data, val_data = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]


def get_batch(split):
    source = train_data if split == "train" else val_data
    ix = torch.randint(len(source) - block_size, (batch_size,))
    x = torch.stack([source[i : i + block_size] for i in ix])
    y = torch.stack([source[i + 1 : i + 1 + block_size] for i in ix])
    return x, y


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x):
        B, T, C = x.shape
        parts = self.c_attn(self.ln_1(x)).split(C, 2)
        q, k, v = (part.view(B, T, n_head, C // n_head).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout if self.training else 0, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(len(stoi), n_embd), nn.Embedding(block_size, n_embd)
        self.h, self.ln_f = nn.ModuleList(Block() for _ in range(n_layer)), nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, len(stoi), bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        loss = None if targets is None else F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
iter_num, checkpoint = 0, None
if args.init_from == "resume":
    checkpoint = torch.load(os.path.join(args.out_dir, "ckpt.pt"), weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    iter_num = checkpoint["iter_num"]


def get_lr(it):
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    ratio = (it - warmup_iters) / (args.max_iters - warmup_iters)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (learning_rate - min_lr)


@torch.no_grad()
def estimate_loss():
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = torch.stack([model(*get_batch("val"))[1] for _ in range(eval_iters)])
    model.train()
    return losses.mean().item()


kept = 1.0
if args.sift:
    import puresift as ps

    def row_losses(model, batch):
        x, y = batch
        return F.cross_entropy(model(x)[0].transpose(1, 2), y, reduction="none").mean(1)

    rule = ps.hold(ps.relative(keep=0.5), keep=0.5)
    sifter = ps.sifter(ps.batched(model, row_losses), rule, batch_size=batch_size)
    state, meter = sifter.init(ps.key(0), get_batch("train")), ps.Meter()
    if checkpoint is not None:
        state = ps.load_state_dict(state, checkpoint["sifter"])
    stream = ps.sift(sifter, state, ps.live(model), iter(lambda: get_batch("train"), None), skip=0)

    def next_batch():
        batch, _, _, info = next(stream)
        meter.update(info)
        return batch
else:

    def next_batch():
        return get_batch("train")


if checkpoint is not None:
    torch.set_rng_state(checkpoint["rng"])
t0 = time.time()
while iter_num < args.max_iters and iter_num != args.stop_at:
    for group in optimizer.param_groups:
        group["lr"] = get_lr(iter_num)
    for _ in range(gradient_accumulation_steps):
        X, Y = next_batch()
        logits, loss = model(X, Y)
        (loss / gradient_accumulation_steps).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    iter_num += 1
    if iter_num % log_interval == 0:
        print(f"iter {iter_num}: loss {loss.item():.4f}, val loss {estimate_loss():.4f}")

if args.stop_at is not None:
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": iter_num}
    checkpoint["rng"] = torch.get_rng_state()
    if args.sift:
        checkpoint["sifter"] = ps.state_dict(stream.state)
    torch.save(checkpoint, os.path.join(args.out_dir, "ckpt.pt"))
seconds = time.time() - t0
report(
    model,
    eval_loss=estimate_loss(),
    seconds=seconds,
    **({"sift/keep": meter.read()["keep"]} if args.sift and iter_num else {}),
)
