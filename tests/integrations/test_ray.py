"""Ray Train: the script under a TorchTrainer with two workers, whole, stopped and resumed."""

import json
import os
import subprocess
import sys

import pytest

from tests.integrations.test_scripts import FOLDER, half

pytest.importorskip("ray.train")


def run(folder, *flags):
    """The numbers of the script's last line; in a process of its own, as Ray starts servers."""
    environment = {**os.environ, "PYTHONPATH": f"{FOLDER.parents[1]}:{FOLDER}", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(FOLDER / "ray_train.py"), "--output_dir", str(folder), "--sift", *flags]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_of_ray_sift_their_shards_and_resume(tmp_path):
    whole = run(tmp_path)
    assert half(whole) and whole["eval_accuracy"] > 0.7
    stopped = run(tmp_path, "--stop_at", "40")
    assert stopped["step"] == 40 < whole["step"]
    again = run(tmp_path, "--resume_from", stopped["checkpoint"])
    assert (again["weights"], again["step"]) == (whole["weights"], whole["step"])
