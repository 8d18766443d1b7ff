"""Cases for two processes: a Hugging Face Trainer whose model is sharded by FSDP2.

Accelerate shards on accelerators alone. What it does there runs on a CPU as well, once its state says FSDP.
"""

import os
import tempfile
import warnings

import accelerate
import torch
import torch.distributed as dist
import transformers
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

import puresift as ps
from tests.distributed.worlds import ended
from tests.integrations import test_huggingface as small

RULES = {
    "varying": lambda: ps.importance(keep=0.6),
    "held": lambda: ps.hold(ps.relative(keep=0.5), keep=0.5),
}
STEPS = 6


def fresh(rank, world):
    """Forget what Accelerate has kept of an earlier run, and tell it of the ranks."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = "29500"  # of a group that is there already
    warnings.filterwarnings("ignore")


def shards(accelerator, kind="SHARDED_STATE_DICT"):
    """Let it shard."""
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["BertLayer"],
        cpu_ram_efficient_loading=False,
        state_dict_type=kind,
    )
    fsdp = DistributedType.FSDP
    accelerator.state.distributed_type = accelerate.PartialState._shared_state["distributed_type"] = fsdp


class Spread(transformers.Trainer):
    """A Trainer that shards on a CPU too."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        shards(self.accelerator, self.args.state_dict)
        self.is_fsdp_enabled = True


def flat(model):
    values = [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in model.parameters()]
    return torch.cat([value.detach().flatten() for value in values])


def train(rank, world, folder, *, spread, rule="varying", path=None, seed=0, kind="SHARDED_STATE_DICT", **settings):
    """The weights after training, the rows trained on and the kinds of parameters."""
    fresh(rank, world)
    args = small.arguments(
        folder, max_steps=STEPS, ddp_backend="gloo", ddp_find_unused_parameters=False, weight_decay=0.1, **settings
    )
    args.state_dict = kind
    trainer = (Spread if spread else transformers.Trainer)(small.bert(0.0, seed), args, train_dataset=small.Phrases())
    trainer.remove_callback(transformers.PrinterCallback)
    rows = []

    def loss(model, batch):
        if model.training:
            rows.extend(batch["id"].tolist())
        return small.per_sample(model, batch)

    ps.integrations.huggingface.sift(trainer, RULES[rule](), loss=loss, draw=ps.systematic)
    trainer.train(resume_from_checkpoint=path)
    kinds = sorted({type(tensor).__name__ for tensor in trainer.model.parameters()})
    return flat(trainer.model), rows, kinds


def trained(rank, world, **settings):
    """Rows, whether they are those that DDP trained on, and the largest difference of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        ours, rows, kinds = train(rank, world, folder, spread=True, **settings)
        theirs, others, _ = train(rank, world, folder, spread=False, **settings)
    return [len(rows), rows == others, float((ours - theirs).abs().max()), kinds]


def resumed(rank, world, *, kind):
    """Whether a run that goes on from a checkpoint trains on the same rows, to the same weights."""
    folder = [tempfile.mkdtemp() if rank == 0 else ""]
    dist.broadcast_object_list(folder)
    settings = {"spread": True, "kind": kind, "save_strategy": "steps", "save_steps": 3}
    straight, rows, _ = train(rank, world, folder[0], **settings)
    path = f"{folder[0]}/checkpoint-3"
    again, others, _ = train(rank, world, folder[0], path=path, seed=5, **settings)
    return [rows[-len(others) :] == others, 0 < len(others) < len(rows), float((again - straight).abs().max())]


def barren(rank, world):
    """How both ranks end, where a rule comes to keep nothing on one of them."""

    def run():
        with tempfile.TemporaryDirectory() as folder:
            train(rank, world, folder, spread=True, rule="fading")

    RULES["fading"] = lambda: ps.delay(ps.threshold(99.0 if rank else 0.0), steps=3)  # a pass
    return ended(run)[1]


def by_hand(rank, world):
    """A loop of Accelerate's, whose prepared model is sharded: batches, the same under DDP, and their weights."""
    from torch.utils.data import DataLoader

    from puresift.integrations.accelerate import sifting

    def run(spread):
        fresh(rank, world)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        if spread:
            shards(accelerator)
        model = small.bert(0.0)
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        model, optimizer, pools = accelerator.prepare(model, optimizer, DataLoader(small.Phrases(), 8))
        score = ps.batched(model, small.per_sample)
        loader = sifting(accelerator, pools, score, RULES["varying"](), params=ps.live(model), weights=True)
        rows = []
        for _ in range(2):
            for batch, weights in loader:
                rows.extend(batch["id"].tolist())
                with accelerator.accumulate(model):
                    accelerator.backward((weights * small.per_sample(model, batch)).mean())
                    optimizer.step()
                    optimizer.zero_grad()
        return flat(model), rows

    (ours, rows), (theirs, others) = run(True), run(False)
    return [len(rows), rows == others, float((ours - theirs).abs().max())]
