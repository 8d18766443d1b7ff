"""One process a run folder: a file that says which one, so that what a dead one left can be taken over."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not on Windows, where two that start in the same instant are not told apart
    fcntl = None  # type: ignore[assignment]

FILE = "lock.json"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder, which is created if missing.

    Raises:
        ValueError: another process is in it, or the folder cannot be written.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        take(path)
    except OSError as error:
        with suppress(OSError):
            if not path.stat().st_size:  # a full disk: nobody's
                path.unlink()
        raise ValueError(f"--out {folder} cannot be written ({error.strerror}): choose another folder") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            leave(path)


def take(path: Path) -> None:
    with alone(path) as file:
        other = read(file)
        if other is not None and alive(other):
            sure = other["host"] == platform.node() and born(other["pid"]) is not None
            where = "" if sure else f" (if it is gone, remove {path})"
            raise ValueError(
                f"{path.parent} is in use by process {other['pid']} on {other['host']}: wait until it has ended, or "
                f"choose another --out{where}"
            )
        if other is not None:
            print(f"train: process {other['pid']} left {path} when it died; taking it over", file=sys.stderr)
        file.truncate(0)
        file.write(json.dumps(ours()).encode())
        file.flush()


def leave(path: Path) -> None:
    with alone(path) as file:
        if read(file) in (None, ours()):
            path.unlink()


@contextmanager
def alone(path: Path) -> Iterator[IO[bytes]]:
    """The file, while no other process reads or writes it."""
    while True:
        with open(path, "a+b") as file:
            if fcntl is not None:
                with suppress(OSError):  # a file system without such locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                same = False
            if same:  # else it was removed while we waited
                yield file
                return


def read(file: IO[bytes]) -> dict[str, Any] | None:
    """Who holds the lock; None if that cannot be read, which a kill in the middle of writing it leaves."""
    file.seek(0)
    try:
        content = json.loads(file.read())
        known = type(content["pid"]) is int and content["pid"] > 0 and isinstance(content["host"], str)
        return content if known else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def ours() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node(), "born": born(os.getpid())}


def alive(other: dict[str, Any]) -> bool:
    """Whether the process may still run: it does, or it is on another host, which cannot be asked."""
    if other["host"] != platform.node() or os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(other["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's, so there is one
        pass
    since = born(other["pid"])
    return since is None or other.get("born") in (None, since)


def born(pid: int) -> int | None:
    """When a process began, which tells it from a later one of the same number; 0 if dead, None if not known."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return 0 if state in "ZX" else int(rest[18])
