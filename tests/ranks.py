"""Two gloo ranks: `launch` runs functions of this file in each; one rank is `python -m tests.ranks NAMES`."""

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
PATIENCE = float(os.environ.get("PURESIFT_PATIENCE", "120"))  # seconds until a run is taken to hang


def launch(names: str, seconds: float = PATIENCE) -> dict[str, list]:
    """What each of the functions `names` returned, by rank; a run that hangs is killed and fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(WORLD)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", names],
            cwd=ROOT,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
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
        return [got, "RuntimeError" if isinstance(error, RuntimeError) else type(error).__name__, str(error)]


def _ended(batches):
    """What `in_step` gave of these batches, and what it ended with."""
    from puresift import distributed

    got = []
    try:
        for batch in distributed.in_step(batches):
            got.append(batch)
    except Exception as error:
        return [got, type(error).__name__, str(error)]
    return [got, None, None]


def leftovers(rank):
    """The longer rank fails after its first batch that the other has no partner for."""

    def batches():
        yield from range(2)
        if rank == 1:
            yield 2
            raise ValueError("no such file")

    return _ended(batches())


def finished(rank):
    """Rank 0 has no batch left where rank 1 fails."""

    def batches():
        yield from range(2)
        if rank == 1:
            raise ValueError("no such file")

    return _ended(batches())


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


def accelerated(rank):
    """A loop of accelerate's on two ranks, saved in the middle and gone on with."""
    import tempfile

    import torch
    from accelerate import Accelerator, DataLoaderConfiguration

    import puresift as ps
    from puresift.integrations.accelerate import gathered, sifting
    from tests import doors

    accelerator = Accelerator(cpu=True)
    folder = accelerator.gather_for_metrics([tempfile.mkdtemp()], use_gather_object=True)[0]

    def run(load):
        pools = torch.utils.data.DataLoader(doors.Rows(), 8, shuffle=True)
        model, optimizer, pools = accelerator.prepare(*doors.start(), pools)
        accelerator._custom_objects.clear()
        score = ps.batched(model, doors.loss)
        loader = sifting(accelerator, pools, score, doors.rule(), params=ps.live(model), batch_size=4, weights=True)
        if load:
            torch.manual_seed(9)
            accelerator.load_state(folder)
        ids, rows, own = [], 0, 0
        while loader.epoch < 2:
            for batch, weights in loader:
                accelerator.backward((weights * doors.loss(model, batch)).mean())
                optimizer.step()
                optimizer.zero_grad()
                ids.append(batch["id"].tolist())
                rows += len(gathered(accelerator, loader.info).losses)
                own += len(loader.info.losses)
                if len(ids) == 3 and not load:
                    accelerator.save_state(folder)
        accelerator._models.clear()
        accelerator._optimizers.clear()
        accelerator._dataloaders.clear()
        return ids, rows, own, [p.sum().item() for p in model.parameters()], loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids, rows, own, weights, loader = run(False)
        rest, _, _, again, _ = run(True)
    other = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=True))
    try:
        pools = other.prepare(torch.utils.data.DataLoader(doors.Rows(), 8))
        refused = sifting(other, pools, None, ps.uniform(keep=1), params={})
    except ValueError as error:
        refused = str(error)
    return {
        "steps": len(ids),
        "weights": weights,
        "rows": rows,
        "own": accelerator.gather_for_metrics([own], use_gather_object=True),
        "key": loader.state.key.tolist(),
        "resumed": rest == ids[3:] and again == weights,
        "refused": refused,
    }


def trainer(rank):
    """A sifting Trainer on this rank's share, and another that goes on from its checkpoint: where each ends."""
    import tempfile

    import torch.distributed as dist
    import transformers

    import puresift as ps
    from tests.integrations import test_huggingface as small

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1"}
    folder = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(folder)
    settings = {"max_steps": 5, "gradient_accumulation_steps": 3, "save_strategy": "steps", "save_steps": 2}
    ends = []
    for seed, checkpoint in ((0, None), (5, f"{folder[0]}/checkpoint-2")):
        args = small.arguments(folder[0], **settings, ddp_backend="gloo", ddp_find_unused_parameters=False)
        run = transformers.Trainer(small.bert(seed=seed), args, train_dataset=small.Phrases())
        run.remove_callback(transformers.PrinterCallback)
        ps.integrations.huggingface.sift(run, small.RULE).train(resume_from_checkpoint=checkpoint)
        state = run.callback_handler.train_dataloader.loader.state
        weights = [float(tensor.double().sum()) for tensor in run.model.state_dict().values()]
        ends.append({"weights": weights, "pools": int(state.step), "key": state.key.tolist()})
    return ends


def drawn_trainer(rank):
    """A Trainer on this rank's rows of drawn batches, and another that goes on from its checkpoint."""
    import tempfile

    import torch.distributed as dist
    import transformers

    from tests.integrations import test_huggingface as small

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1"}
    folder = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(folder)
    settings = {"max_steps": -1, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    settings |= {"ddp_backend": "gloo", "ddp_find_unused_parameters": False}
    runs = []
    for seed, checkpoint in ((0, None), (5, f"{folder[0]}/checkpoint-4")):
        ids = []

        def loss(model, batch, ids=ids):
            ids.append(batch["id"].tolist())
            return small.per_sample(model, batch)

        args = small.arguments(folder[0], **settings)
        run = transformers.Trainer(small.bert(seed=seed), args, train_dataset=small.Phrases())
        run.remove_callback(transformers.PrinterCallback)
        small.huggingface.sift(run, prioritizer=small.drawer(batch_size=16), loss=loss, sync=3)
        run.train(resume_from_checkpoint=checkpoint)
        table = small.sampler_of(run).state.losses.tolist()
        weights = [float(tensor.double().sum()) for tensor in run.model.state_dict().values()]
        runs.append({"ids": ids, "table": table, "weights": weights, "steps": run.state.global_step})
    whole, again = runs
    resumed = again["weights"] == whole["weights"] and again["table"] == whole["table"]
    return {**whole, "resumed": resumed and again["ids"] == whole["ids"][4:]}


def accelerated_drawing(rank):
    """A loop of accelerate's on this rank's rows of drawn batches, and another that goes on from its checkpoint."""
    import tempfile

    from accelerate import Accelerator

    from tests.integrations import test_accelerate_drawing as small

    accelerator = Accelerator(cpu=True)
    folder = accelerator.gather_for_metrics([tempfile.mkdtemp()], use_gather_object=True)[0]
    runs = []
    for load in (False, True):
        parts = small.setting(accelerator, prioritizer=small.prioritizer(batch_size=2 * small.BATCH))
        if load:
            accelerator.load_state(folder)
        ids = []
        for batch, _ in small.passes(*parts):
            ids.append(batch["id"].tolist())
            if len(ids) == 4 and not load:
                accelerator.save_state(folder)
        weights = [p.double().sum().item() for p in parts[1].parameters()]
        runs.append({"ids": ids, "weights": weights, "table": parts[3].sampler.state.losses.tolist()})
        for kept in ("_models", "_optimizers", "_dataloaders", "_custom_objects"):
            getattr(accelerator, kept).clear()
    whole, again = runs
    return {**whole, "resumed": again == {**whole, "ids": whole["ids"][4:]}}


def lightning_drawing(rank):
    """A LightningModule on this rank's rows of drawn batches, and another that goes on from its checkpoint."""
    import tempfile

    import torch.distributed as dist

    from tests.integrations import test_lightning_drawing as small

    folder = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(folder)
    settings = {"devices": WORLD, "strategy": "ddp", "drawer": small.prioritizer(batch_size=WORLD * small.BATCH)}
    runs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in (None, "epoch=1-step=4.ckpt"):
            place = f"{folder[0]}/again" if path else folder[0]
            one = small.fit(folder=place, path=path and f"{folder[0]}/{path}", **settings)
            weights = [p.double().sum().item() for p in one.module.parameters()]
            runs.append({"ids": one.module.ids, "weights": weights, "table": one.sampler.state.losses.tolist()})
    whole, again = runs
    return {**whole, "resumed": again == {**whole, "ids": whole["ids"][4:]}}


def prioritized(rank):
    """A sampler's shares and tables, exchanged at every step and at every other, and resumed between two exchanges."""
    from tests import laws
    from tests.data import test_prioritized as small

    def refused(make):
        try:
            make()
        except ValueError as error:
            return str(error)

    often = list(small.train(small.sampler(), small.start()))
    rare = list(small.train(small.sampler(sync=2), small.start()))
    _, _, flat, values = rare[4]
    again = small.sampler(sync=2, seed=5)
    again.load_state_dict(flat)
    rest = list(small.train(again, values))
    swapped = {name.replace(f"waiting/{rank}", f"waiting/{1 - rank}"): tensor for name, tensor in flat.items()}
    alone = {**flat, "plan": flat["plan"].clone()}
    alone["plan"][-2] = 1
    return {
        "ids": small.ids_of(often),
        "table": often[-1][2][":PrioritizerState/losses"].tolist(),
        "rare": rare[-1][2][":PrioritizerState/losses"].tolist(),
        "resumed": laws.equal(rest, rare[5:]),
        "swapped": refused(lambda: again.load_state_dict(swapped)),
        "odd": refused(lambda: small.sampler(batch_size=7)),
        "alone": refused(lambda: again.load_state_dict(alone)),
    }


if __name__ == "__main__":
    import torch.distributed as dist

    names, rank = sys.argv[1].split(), int(os.environ["RANK"])
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    print(json.dumps({name: globals()[name](rank) for name in names}), flush=True)
    dist.destroy_process_group()
    os._exit(0)  # what threads gloo and DDP still have would now and then abort an interpreter that ends in order
