"""Two gloo ranks: `launch` runs functions of this file in each; one rank is `python -m tests.ranks NAMES RANK PORT`."""

import json
import os
import socket
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORLD = 2


def launch(names: str, seconds: float = 120) -> dict[str, list]:
    """What each of the functions `names` returned, by rank; a run that hangs is killed and fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", names, str(rank), port],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [rank.communicate(timeout=seconds) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, errors
    answers = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    return {name: [answer[name] for answer in answers] for name in names.split()}


def unequal(rank):
    """Batches in step, with 3 on one rank and 5 on the other; and again with 4 on both."""
    from puresift import distributed

    answers = []
    for lengths in ((3, 5), (4, 4)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = list(distributed.in_step(range(lengths[rank])))
        answers.append([got, [str(warning.message) for warning in caught]])
    return answers


def failing(rank):
    """A loader that fails on rank 1 after two batches."""
    from puresift import distributed

    def batches():
        yield from range(2)
        if rank == 1:
            raise ValueError("no such file")
        yield from range(2, 9)

    got = []
    try:
        for batch in distributed.in_step(batches()):
            got.append(batch)
    except (ValueError, RuntimeError) as error:
        return [got, type(error).__name__, str(error)]


def ddp(rank):
    """Two passes of DDP training over unequal shares, in step, saved in the middle and gone on with."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    import puresift as ps
    from tests.strategies import cross_entropy, data, net

    def run(flat=None):
        model = DistributedDataParallel(net(norm=False))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        share = torch.utils.data.Subset(data(256), range(0, 96) if rank == 0 else range(96, 256))
        pools = torch.utils.data.DataLoader(share, 16)
        loader = ps.SiftingDataLoader(
            pools,
            ps.batched(model, cross_entropy),
            ps.relative(keep=0.5),
            params=ps.live(model),
            batch_size=8,
            in_step=True,
        )
        steps, middle, keep = 0, None, []
        if flat is not None:
            loader.load_state_dict(flat[0])
            model.load_state_dict(flat[1])
            torch.set_rng_state(flat[2])
        while loader.epoch < 2:
            for batch in loader:
                optimizer.zero_grad()
                cross_entropy(model, batch).mean().backward()
                optimizer.step()
                steps += 1
                keep.append(batch[0].sum().item())
                if steps == 3:
                    middle = (
                        loader.state_dict(),
                        {n: t.clone() for n, t in model.state_dict().items()},
                        torch.get_rng_state(),
                    )
        return steps, middle, keep, [p.sum().item() for p in model.parameters()], loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps, middle, keep, weights, loader = run()
        _, _, rest, again, _ = run(middle)
    flat = loader.state_dict()
    refusals = []
    for stamp in ([rank, 3], [1 - rank, WORLD]):
        try:
            loader.load_state_dict({**flat, "place": torch.tensor(stamp)})
        except ValueError as error:
            refusals.append(str(error))
    return [steps, weights, keep[3:] == rest and weights == again, refusals, loader.state.key.tolist()]


if __name__ == "__main__":
    import torch.distributed as dist

    names, rank, port = sys.argv[1:]
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", store, rank=int(rank), world_size=WORLD, timeout=timedelta(seconds=60))
    print(json.dumps({name: globals()[name](int(rank)) for name in names.split()}))
    dist.destroy_process_group()
