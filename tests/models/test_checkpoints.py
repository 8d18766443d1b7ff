"""models/checkpoints.py: a checkpoint is whole or refused in one line; nothing of a damaged one is ever used."""

import errno
import re
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from models import checkpoints, files

Content = dict[str, Any]


def content(pool: int = 1) -> Content:
    """What a checkpoint has, in small."""
    generator = torch.Generator().manual_seed(pool)
    return {
        "model": {"weight": torch.randn(40, 20, generator=generator)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.5, "params": [0]}]},
        "sift": None,
        "tally": {"pool": pool, "step": pool},
        "rng": {"cpu": torch.randn(50, generator=generator), "cuda": []},
        "metrics_bytes": 10 * pool,
        "recorder": {"bytes": 3},
        "score_dtype": "float32",
        "mark": "sifted 1234",
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def saved(folder: Path, name: str = files.CHECKPOINT, pool: int = 1) -> Path:
    checkpoints.save(folder / name, content(pool))
    return folder / name


def plainly(path: Path, pool: int = 1) -> Path:
    """As before there was a checksum over the whole file."""
    torch.save(content(pool), path)
    return path


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


@pytest.mark.parametrize("write", [saved, plainly])
def test_a_checkpoint_is_read_as_it_was_written(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path) if write is saved else plainly(tmp_path / files.CHECKPOINT)
    read = checkpoints.load(path)
    assert read is not None and equal(read, content())
    assert equal(torch.load(path, weights_only=True), content()), "any program may read it"
    assert zipfile.ZipFile(path).testzip() is None
    assert checkpoints.load(tmp_path / "none.pt") is None and checkpoints.restore(tmp_path / "none") is None


@pytest.mark.parametrize("write", [saved, plainly])
def test_no_flipped_bit_is_trained_on(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path) if write is saved else plainly(tmp_path / files.CHECKPOINT)
    raw, chance, refused = path.read_bytes(), Random(1), 0
    # A bit of the weights in any case, which torch.load reads without a word.
    weight = content()["model"]["weight"].numpy().tobytes()
    bits = [8 * raw.index(weight) + 77, *(chance.randrange(8 * len(raw)) for _ in range(60))]
    for bit in bits:
        flip(path, bit)
        try:
            read = checkpoints.load(path)
        except checkpoints.Damaged as error:
            refused += 1
            assert str(error).startswith(f"{path} ") and "\n" not in str(error)
        else:  # one that nothing depends on, in a file without a checksum of its own
            assert write is plainly and bit != bits[0] and read is not None and equal(read, content())
        path.write_bytes(raw)
    assert refused == len(bits) if write is saved else refused > 10


def foreign(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(3)}}, path)


def by_pickle(path: Path) -> None:
    torch.save(content(), path, _use_new_zipfile_serialization=False)


def another_arm(path: Path) -> None:
    files.replace(path, lambda file: checkpoints.seal(file, content() | {"mark": "random 1234"}))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "is damaged (it is cut short"),
    "cut at the checksum": (lambda path: path.write_bytes(path.read_bytes()[:-70]), "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged (it is empty)"),
    "zeros": (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "is damaged (it is cut short"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\n"), "is damaged"),
    "a flipped bit": (lambda path: flip(path, 9999), "is damaged (its checksum is not that of its content)"),
    "text": (lambda path: path.write_text("a checkpoint"), "is damaged (it is cut short, or no checkpoint)"),
    "foreign": (foreign, "is no checkpoint of models.train (without metrics_bytes, "),
    "a pickle": (by_pickle, "is damaged (it is cut short, or no checkpoint)"),
    "another arm": (another_arm, "is of another run or arm (random 1234, this one is sifted 1234)"),
    "a folder": (a_folder, "cannot be read (Is a directory)"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_newest_checkpoint_is_put_aside_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = DAMAGE[name]
    for pool in (1, 2, 3):
        path = saved(tmp_path, pool=pool)
    before = tmp_path / files.BEFORE
    assert equal(checkpoints.load(before), content(2)), "the last two are kept"
    damage(path)
    read = checkpoints.restore(tmp_path, "sifted 1234")
    assert read is not None and equal(read, content(2))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{path} {words}" in said, said
    assert f"now named {files.ASIDE}: going on from {files.BEFORE}, pool 2" in said
    saved(tmp_path, pool=4)
    assert equal(checkpoints.load(before), content(2)), "the damaged one is not taken for the one before"
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("name", DAMAGE)
def test_without_a_whole_checkpoint_the_run_is_refused(name: str, tmp_path: Path) -> None:
    damage, words = DAMAGE[name]
    path = saved(tmp_path)
    damage(path)
    with pytest.raises(ValueError, match=re.escape(f"{path} {words}")) as refused:
        checkpoints.restore(tmp_path, "sifted 1234")
    assert str(refused.value).endswith(files.RESTORE) and "\n" not in str(refused.value)


def test_a_missing_checkpoint_is_replaced_by_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path)
    saved(tmp_path, pool=2)
    path.unlink()
    assert equal(checkpoints.restore(tmp_path), content(1))
    assert f"there is no {path}: going on from {files.BEFORE}, pool 1" in capsys.readouterr().err
    (tmp_path / files.BEFORE).write_text("")
    with pytest.raises(ValueError, match=r"there is no .* and .*before.pt is damaged \(it is empty\): put a copy"):
        checkpoints.restore(tmp_path)


def test_without_links_the_file_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", refuse)
    for pool in (1, 2):
        path = saved(tmp_path, pool=pool)
    assert equal(checkpoints.load(path), content(2)) and equal(checkpoints.load(tmp_path / files.BEFORE), content(1))


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"c.pt does not fit this run \(RuntimeError: .*\): put a copy") as refused:  # noqa: SIM117
        with checkpoints.fitting(Path("c.pt")):
            model.load_state_dict({"weight": torch.ones(3, 2), "other": torch.ones(1)})
    assert "\n" not in str(refused.value)
    with pytest.raises(KeyError), checkpoints.fitting(Path("c.pt"), KeyError):
        raise KeyError("mine")
