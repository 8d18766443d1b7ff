"""Cases for two processes: TRL's GRPOTrainer under DDP, plain and sifted."""

import os
import tempfile
import warnings

import accelerate
import torch
import transformers

from puresift.integrations import trl as door
from tests.integrations import test_grpo as small


def trained(rank, world, loss_type):
    """How far the sifted run ends from the plain one, and the rows of each step."""
    warnings.filterwarnings("ignore")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # of a group that is there already
    ends, alive = [], []
    for sifted in (False, True):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()
        trainer = small.make(
            tempfile.mkdtemp(), loss_type=loss_type, max_steps=6, ddp_backend="gloo", ddp_find_unused_parameters=False
        )
        began = flat(trainer)
        if sifted:
            door.sift(trainer)
            seen(trainer, alive)
        transformers.set_seed(3 + rank)
        trainer.train()
        ends.append(flat(trainer))
    plain, other = ends
    return {
        "error": float((other - plain).abs().max()),
        "moved": float((plain - began).abs().max()),
        "weights": float(other.double().sum()),
        "keep": [row["sift/keep"] for row in trainer.state.log_history if "sift/keep" in row],
        "alive": alive,
    }


def seen(trainer, alive):
    """Write down how many rows of each micro-batch have an advantage."""
    inner = trainer._compute_loss

    def counted(model, inputs):
        alive.append(int((inputs["advantages"] != 0).sum()))
        return inner(model, inputs)

    trainer._compute_loss = counted


def flat(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
