"""models/locks.py: one living process a run folder, and no dead one."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models import locks

ROOT = Path(__file__).parents[2]


def left(folder: Path, **other: Any) -> Path:
    """A lock as another process wrote it."""
    path = folder / locks.FILE
    path.write_text(json.dumps({"pid": os.getpid(), "host": platform.node(), "born": None} | other))
    return path


def test_a_lock_names_its_process_and_goes_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with locks.held(folder):
        told = json.loads((folder / locks.FILE).read_text())
        assert (told["pid"], told["host"]) == (os.getpid(), platform.node())
    assert not [*folder.iterdir()]
    with pytest.raises(KeyError), locks.held(folder):
        raise KeyError
    assert not [*folder.iterdir()]


def test_a_living_process_keeps_others_out(tmp_path: Path) -> None:
    words = rf"{tmp_path} is in use by process {os.getpid()} on .*: wait until it has ended, or choose another --out$"
    with locks.held(tmp_path):
        with pytest.raises(ValueError, match=words), locks.held(tmp_path):
            pytest.fail("two at once")
        assert (tmp_path / locks.FILE).exists(), "the refused one leaves the lock alone"
    path = left(tmp_path, pid=os.getppid())
    with pytest.raises(ValueError, match=f"process {os.getppid()} on "), locks.held(tmp_path):
        pytest.fail("two at once")
    assert json.loads(path.read_text())["pid"] == os.getppid()


def test_another_host_cannot_be_asked(tmp_path: Path) -> None:
    path = left(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(ValueError, match=rf"process 1 on elsewhere: .*\(if it is gone, remove {path}\)"):  # noqa: SIM117
        with locks.held(tmp_path):
            pytest.fail("two at once")


def test_a_process_that_may_be_another_one_of_its_number_has_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "born", lambda pid: None)  # as where there is no /proc
    path = left(tmp_path, pid=os.getppid())
    with pytest.raises(ValueError, match=rf"\(if it is gone, remove {path}\)$"), locks.held(tmp_path):
        pytest.fail("two at once")


def test_what_a_dead_process_left_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = locks.born(os.getpid())
    for other in ({"pid": dead.pid}, {"pid": 2**70}, *([{"born": mine + 1}] if mine else [])):
        path = left(tmp_path, **other)
        with locks.held(tmp_path):
            assert json.loads(path.read_text()) == locks.ours()
        said = capsys.readouterr().err
        assert f"left {path} when it died; taking it over" in said and said.count("\n") == 1
        assert not path.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    while locks.born(dead.pid):
        time.sleep(0.01)
    left(tmp_path, pid=dead.pid, born=7)
    with locks.held(tmp_path):
        pass
    dead.wait()


@pytest.mark.parametrize(
    "raw", [b"", b'{"pid": 1', b"[]", b"\xff", b'{"pid": -1, "host": "x"}', b'{"pid": "1", "host": "x"}', b"[" * 99_999]
)
def test_half_a_lock_is_nobodys(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / locks.FILE).write_bytes(raw)
    with locks.held(tmp_path):
        assert json.loads((tmp_path / locks.FILE).read_text()) == locks.ours()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--out .*file/run cannot be written \(.*\): choose another folder"):  # noqa: SIM117
        with locks.held(tmp_path / "file" / "run"):
            pytest.fail("there is no folder")


def test_of_many_that_race_for_a_dead_ones_folder_one_wins(tmp_path: Path) -> None:
    left(tmp_path, pid=2**70)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom models import locks\n"
        "try:\n    with locks.held(Path(sys.argv[1])):\n        print('in', flush=True)\n        sys.stdin.read()\n"
        "except ValueError:\n    print('out', flush=True)\n"
    )
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(5)
    ]
    said = [process.stdout.readline().strip() for process in racing if process.stdout]
    for process in racing:
        process.communicate()
    assert sorted(said) == ["in", "out", "out", "out", "out"]
    assert not [*tmp_path.iterdir()]
