"""The files of a run: written beside the old ones, then put in their place, and read only if they are whole."""

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# The newest checkpoint, the one before it, and where one that cannot be used is put.
CHECKPOINT, BEFORE, ASIDE = "checkpoint.pt", "checkpoint.before.pt", "checkpoint.damaged.pt"
RESTORE = "put a copy of it back, or start a new run in another --out"


def replace(path: Path, write: Callable[[IO[bytes]], Any], keep: Path | None = None) -> None:
    """Replace a file atomically, so that it is complete at any time; what it replaces stays under the name `keep`.

    Raises:
        ValueError: the disk is full or refuses; the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with open(beside, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.is_file():
            rename_copy(path, keep)
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        # torch.save answers a full disk by an error of its own
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            raise ValueError(unwritten(cause, path)) from error
        raise


def rename_copy(path: Path, name: Path) -> None:
    """A second name for a file, so that none is missing at any time; where there are no links, it is moved."""
    link = name.with_name(f".{name.name}.new")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, name)
    else:
        os.replace(link, name)
        link.unlink(missing_ok=True)  # which stays where both are names of one file


def unwritten(error: OSError, path: str | Path | None = None) -> str:
    """What the disk refused, and what to do."""
    cures = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room")
    cures |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "let this user write there")
    cure = cures.get(error.errno or 0, "mend that")
    return (
        f"{path or error.filename or 'the run folder'} cannot be written or read ({error.strerror or error}): {cure}, "
        "then go on with --resume; what was saved before is whole"
    )


def clean(folder: Path) -> None:
    """Remove what a kill left half written in a run folder and its arms."""
    for name in ("config.json", "costs.json", "summary.json", CHECKPOINT, BEFORE):  # nothing of anybody else's
        for left in (folder / f".{name}.new", *folder.glob(f"*/.{name}.new")):
            left.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(plain(content), indent=1, allow_nan=False) + "\n"
    replace(path, lambda file: file.write(text.encode()))


def read_json(path: Path, *entries: str, cure: str = RESTORE) -> Any:
    """The object in a JSON file, which must have the entries; None if there is no file."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}): {cure}") from error
    if not isinstance(content, dict) or not content.keys() >= set(entries):
        raise ValueError(f"{path} is damaged (no object with the entries {', '.join(entries)}): {cure}")
    return content


def plain(content: Any) -> Any:
    """NaN as null, because JSON has no NaN."""
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def saved(folder: Path) -> list[Path]:
    """The checkpoints in a run folder."""
    return [path for name in (CHECKPOINT, BEFORE) for path in folder.glob(f"*/{name}")]


def unused(folder: Path) -> None:
    """Raise if a folder holds a run."""
    if (folder / "summary.json").exists() or saved(folder):
        raise ValueError(f"{folder} holds a run: go on with it by --resume, choose another --out, or remove it")


def writable(folder: Path) -> None:
    """Raise if a folder cannot be created or written to, without creating it yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--out {folder} cannot be written: {place} is no folder you may write to; choose another")


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
