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

    One process imports torch and forks the others, as that costs seconds; a job takes the first `ranks` of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, "-m", __name__, module, folder, str(processes)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as group:
            try:
                _, errors = group.communicate(timeout=seconds)
            finally:
                if group.poll() is None:
                    os.killpg(group.pid, 9)
        assert group.returncode == 0, errors[-8000:]
        answers = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]
    return [[answers[rank][place] for rank in range(job[1])] for place, job in enumerate(jobs)]


def ended(function):
    """What a call returned and None, or None and the error it ended with: its kind and its words."""
    try:
        return function(), None
    except Exception as error:
        return None, [type(error).__name__, str(error)]


def _run(cases, folder: Path, rank: int) -> None:
    """Do all jobs that this rank has a part in, and write down what they return."""
    import torch.distributed as dist

    answers = []
    for place, (name, world, arguments) in enumerate(json.loads((folder / "jobs.json").read_text())):
        if rank >= world:
            answers.append(None)
            continue
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        store = dist.FileStore(str(folder / f"store{place}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=30))
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            print(f"{name} on {world} ranks: {arguments}", file=sys.stderr, flush=True)
            answers.append(getattr(cases, name)(rank, world, **arguments))
        dist.barrier()
        dist.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()
    (folder / f"{rank}.json").write_text(json.dumps(answers))


def _forked(cases, folder: Path, processes: int) -> int:
    """Run the ranks, and give 0 if all of them came to their end; the first that does not ends the others."""
    ranks = []
    for rank in range(processes):
        if child := os.fork():
            ranks.append(child)
            continue
        try:
            _run(cases, folder, rank)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)  # what threads gloo and DDP still have would now and then abort an interpreter that ends in order
    failed = 0
    while ranks:
        child, status = os.wait()
        ranks.remove(child)
        if status and not failed:
            failed = 1
            for other in ranks:
                os.kill(other, 9)
    return failed


if __name__ == "__main__":
    import torch
    import torch._dynamo  # which optimizers import when they are first used: once for all

    torch.set_num_threads(1)
    sys.exit(_forked(importlib.import_module(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
