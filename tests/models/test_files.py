"""models/files.py: a file is whole at any moment, and one that is damaged is named."""

import errno
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoints, files
from tests.models.test_checkpoints import content, equal, saved


class Full(io.RawIOBase):
    """A file on a disk with room for so many bytes."""

    def __init__(self, room: int):
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self.room -= len(part)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(part)


@pytest.mark.parametrize("room", [0, 100, 1000, 4000])
def test_a_full_disk_leaves_the_old_file_and_nothing_half(room: int, tmp_path: Path) -> None:
    path = saved(tmp_path)
    words = re.escape(
        f"{path} cannot be written or read (No space left on device): make room, then go on with --resume"
    )
    with pytest.raises(ValueError, match=words):
        files.replace(path, lambda file: torch.save(content(2), Full(room)), keep=tmp_path / files.BEFORE)
    assert equal(checkpoints.load(path), content()) and [*tmp_path.iterdir()] == [path]


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "sifted").mkdir()
    for name in (".config.json.new", "sifted/.checkpoint.pt.new", "sifted/.checkpoint.before.pt.new"):
        (tmp_path / name).write_text("half")
    kept = saved(tmp_path / "sifted")
    other = tmp_path / ".bashrc.new"
    other.write_text("somebody's")
    files.clean(tmp_path)
    other.unlink()  # a folder may hold more than a run
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b"3", b"[" * 100_000, b'{"rows": 1}', b"\0" * 30])
def test_damaged_json_is_named(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged (") + ".*: remove it"):
        files.read_json(path, "score", cure="remove it")
    files.write_json(path, {"score": float("nan")})
    assert files.read_json(path, "score") == {"score": None} and json.loads(path.read_text())
