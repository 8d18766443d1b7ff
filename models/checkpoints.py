"""Checkpoints with a checksum over the whole file, the last two of them; a damaged one is never trained on."""

import hashlib
import json
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from models.files import ASIDE, BEFORE, CHECKPOINT, RESTORE, first_line, replace
from models.options import Options

ENTRIES = {"model", "optimizer", "sift", "tally", "rng", "metrics_bytes", "recorder", "score_dtype"}
# The comment that a zip file may end with: a checksum of everything before its digits. torch.load passes over it.
SEAL, DIGITS = b"sha256 of all that is before: ", 64
END, END_SIZE = b"PK\5\6", 22  # a zip file's end record, whose last two bytes are the size of the comment
MISFITS = (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError)


class Damaged(ValueError):
    """A checkpoint that is not what was saved; the one before it may be whole."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Put a checkpoint in place, with a checksum over the whole file; the one it replaces is kept as well."""
    replace(path, lambda file: seal(file, content), keep=path.with_name(BEFORE))


def seal(file: IO[bytes], content: Mapping[str, Any]) -> None:
    torch.save(dict(content), file)
    size = file.seek(0, os.SEEK_END)
    file.seek(size - 2)
    file.write((len(SEAL) + DIGITS).to_bytes(2, "little") + SEAL)
    file.write(digest(file, size + len(SEAL)))


def digest(file: IO[bytes], size: int) -> bytes:
    """The checksum of the first bytes of a file, in hexadecimal; leaves the position right behind them."""
    file.seek(0)
    sha = hashlib.sha256()
    while size > 0 and (part := file.read(min(size, 1 << 20))):
        sha.update(part)
        size -= len(part)
    return sha.hexdigest().encode()


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, on the CPU; None if there is no file.

    Raises:
        Damaged: naming what is wrong with it. Nothing of a file that is not whole is returned.
    """
    if not path.exists():
        return None
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what other programs write
            check_whole(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Damaged as error:
        raise Damaged(f"{path} {error}") from None
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): let this user read it") from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a reader of damaged bytes may raise anything
        raise Damaged(f"{path} is no checkpoint of models.train ({first_line(error):.80})") from error
    if not isinstance(content, dict) or not content.keys() >= ENTRIES:
        lacking = ENTRIES - content.keys() if isinstance(content, dict) else ENTRIES
        raise Damaged(f"{path} is no checkpoint of models.train (without {', '.join(sorted(lacking))})")
    return content


def check_whole(file: IO[bytes]) -> None:
    """Raise if a file is not as it was written: by its own checksum, or by those of zip in files from before it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - END_SIZE - len(SEAL) - DIGITS, 0))
    tail = file.read()
    if tail.startswith(END) and tail[END_SIZE:].startswith(SEAL):
        if digest(file, size - DIGITS) != tail[-DIGITS:]:
            raise Damaged("is damaged (its checksum is not that of its content)")
    elif tail[-END_SIZE:].startswith(END) and tail.endswith(b"\0\0"):
        with zipfile.ZipFile(file) as parts:
            if bad := parts.testzip():
                raise Damaged(f"is damaged (the checksum of {bad} in it is not that of its content)")
    else:
        raise Damaged("is damaged (it is empty)" if not size else "is damaged (it is cut short, or no checkpoint)")


def restore(folder: Path, mark: str = "") -> dict[str, Any] | None:
    """The newest checkpoint in an arm's folder that is whole and bears the mark; None if there is none at all.

    One that cannot be used is put aside, in words, and never trained on.

    Raises:
        ValueError: none of them can be used.
    """
    newest, before = folder / CHECKPOINT, folder / BEFORE
    try:
        content = marked(newest, mark)
        why = f"there is no {newest}"
    except Damaged as error:
        content, why = None, str(error)
    if content is not None or not (newest.exists() or before.exists()):
        return content
    try:
        content = marked(before, mark)
    except Damaged as error:
        raise ValueError(f"{why}, and {error}: {RESTORE}") from error
    if content is None:
        raise ValueError(f"{why}: {RESTORE}")
    if newest.exists():
        os.replace(newest, folder / ASIDE)  # or the next save would take it for the one before
        why += f", now named {ASIDE}"
    print(f"train: {why}: going on from {BEFORE}, pool {content['tally'].get('pool')}", file=sys.stderr)
    return content


def marked(path: Path, mark: str) -> dict[str, Any] | None:
    """What `load` reads, if it is of the run and the arm that the mark names; files without a mark are from before."""
    content = load(path)
    if content is not None and not isinstance(content["tally"], dict):
        raise Damaged(f"{path} is no checkpoint of models.train (without counts)")
    if content is not None and mark and content.get("mark", mark) != mark:
        raise Damaged(f"{path} is of another run or arm ({content['mark']!s:.60}, this one is {mark})")
    return content


@contextmanager
def fitting(path: Path, *passing: type[Exception]) -> Iterator[None]:
    """Turn whatever a checkpoint of another model or rule raises into one line; `passing` errors stay."""
    try:
        yield
    except passing:
        raise
    except MISFITS as error:
        raise ValueError(f"{path} does not fit this run ({first_line(error)}): {RESTORE}") from error


def mark(o: Options, facts: dict[str, Any]) -> str:
    """What decides about the weights, in a few digits."""
    free = {"data", "device", "threads", "save_every", "compare"}
    content = {name: value for name, value in asdict(o).items() if name not in free} | {"rows": facts["checksum"]}
    for later in ("score_tokens", "bucket"):  # switched off, a run is what it was before there were any
        if not content[later]:
            del content[later]
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
