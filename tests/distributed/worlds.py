"""Groups of gloo processes: `launch` runs cases of a module in them, each in a process group of its own size."""

import faulthandler
import importlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds for one case, after which its process shows where it waits, and ends


def launch(module: str, jobs: list[tuple[str, int, dict]], *, processes: int = 4, seconds: float = 200) -> list[list]:
    """What each job, (function, ranks, arguments), returned, by rank. A run that hangs is killed and fails.

    The processes are started once, as that costs seconds; a job takes the first `ranks` of them.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.json"
        path.write_text(json.dumps(jobs))
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.worlds", module, str(path), str(rank)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]
        try:
            outputs = [rank.communicate(timeout=seconds) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, errors[-8000:]
    answers = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    return [[answers[rank][place] for rank in range(job[1])] for place, job in enumerate(jobs)]


def ended(function):
    """What a call returned and None, or None and the error it ended with: its kind and its words."""
    try:
        return function(), None
    except Exception as error:
        return None, [type(error).__name__, str(error)]


def _run(module: str, path: Path, rank: int) -> list:
    import torch.distributed as dist

    cases, answers = importlib.import_module(module), []
    for place, (name, world, arguments) in enumerate(json.loads(path.read_text())):
        if rank >= world:
            answers.append(None)
            continue
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        store = dist.FileStore(str(path.parent / f"store{place}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=30))
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            print(f"{name} on {world} ranks: {arguments}", file=sys.stderr, flush=True)
            answers.append(getattr(cases, name)(rank, world, **arguments))
        dist.barrier()
        dist.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()
    return answers


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print(json.dumps(_run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))), flush=True)
    os._exit(0)  # what threads gloo and DDP still have would now and then abort an interpreter that ends in order
