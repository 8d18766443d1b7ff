"""One folder for the states of all ranks, written by torch.distributed.checkpoint and read on any number of ranks."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puresift.checkpoint import load_state_dict, state_dict
from puresift.distributed.gathering import gathered
from puresift.distributed.ranks import place
from puresift.distributed.resharding import resharded
from puresift.errors import MomentError, SiftError
from puresift.types import SiftState

_MANIFEST, _VERSION, _NAME = "manifest.json", 1, "state-"


def save_state(folder: str | os.PathLike[str], state: SiftState, *, wait: bool = True) -> Future[None] | None:
    """Save the states of all ranks in one folder; every rank must call it.

    The folder's manifest names the last state that is whole, and changes once a new one is: a disk that is full or a
    rank that dies meanwhile leaves the state before. Older ones are removed.

    Args:
        folder: seen by all ranks.
        state: this rank's.
        wait: False returns at once, and saves a copy in the background; it needs a process group with gloo for the CPU.

    Returns:
        None; or, without `wait`, a future, whose `result()` is to be awaited before the next save and at the end.

    Raises:
        RuntimeError: it could not be written; the state before is still there. A future raises it from `result()`.

    Example:
        >>> import puresift as ps, tempfile
        >>> state = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2).init(ps.key(0), torch.zeros(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_state(folder, state)
        ...     load_state(folder, state).key
        tensor([0, 0])
    """
    rank, ranks = place()
    folder = Path(folder)
    last = max((int(path.name.removeprefix(_NAME)) for path in folder.glob(f"{_NAME}[0-9]*")), default=0)
    number = int(gathered(torch.tensor(last + 1))[0])  # as rank 0 sees it
    target = folder / f"{_NAME}{number}"
    flat = {f"rank{rank}/{name}": tensor for name, tensor in state_dict(state).items()}
    alone = ranks == 1
    if wait:
        with _quiet(), _told(f"no state was saved; the one before is still in {folder}", MomentError):
            _dcp().save(flat, checkpoint_id=target, no_dist=alone)
        _settle(folder, target, rank, ranks)
        gathered(torch.tensor(0))  # no rank goes on before the manifest is there
        return None
    copied = {name: tensor.clone() for name, tensor in flat.items()}  # the caller's may change meanwhile
    with _quiet():
        saving = _dcp().async_save(copied, checkpoint_id=target, no_dist=alone)
    done: Future[None] = Future()

    def settle(future: Future[Any]) -> None:
        try:
            with _told(f"no state was saved; the one before is still in {folder}", MomentError):
                future.result()
            _settle(folder, target, rank, ranks)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    saving.add_done_callback(settle)
    return done


def load_state(folder: str | os.PathLike[str], like: SiftState, *, shared: bool = False) -> SiftState:
    """This rank's state out of a folder; on as many ranks as saved it, the same to the bit.

    On another number of ranks rows are dealt out again: see `resharded`, which says what stays equal. As
    torch.distributed.checkpoint does, it unpickles the folder's metadata: load none that you would not run.

    Args:
        folder: of `save_state`.
        like: a state of this rank's sifter as it is built now, `sifter.init(key, batch)`; of another shape where the
            number of ranks changed the batch or the pool.
        shared: whether the sifter has ranks="global".

    Returns:
        A state on the device of `like`.

    Raises:
        SiftError: the folder has no whole state, a rank's is missing or damaged, or the states are of another kind.

    Example:
        >>> import puresift as ps, tempfile
        >>> sifter = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2)
        >>> state, _ = sifter.step(sifter.init(ps.key(0), torch.zeros(2)), {}, torch.ones(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_state(folder, state)
        ...     int(load_state(folder, like=sifter.init(ps.key(1), torch.zeros(2))).step)
        1
    """
    rank, ranks = place()
    folder = Path(folder)
    target, saved = _whole(folder)
    with _told(f"{target}/.metadata cannot be read; {_way_on(folder)}", SiftError):
        held: dict[str, Any] = _dcp().FileSystemReader(target).read_metadata().state_dict_metadata
    for old in range(saved):
        if f"rank{old}/version" not in held:
            raise SiftError(f"the state of rank {old} is missing in {target}; {_way_on(folder)}")
    wanted = [rank] if ranks == saved else range(saved)
    names = {f"rank{old}/" for old in wanted}
    flat: dict[str, Tensor] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in held.items()
        if f"{name.split('/')[0]}/" in names
    }
    with _quiet(), _told(f"{target} cannot be read; {_way_on(folder)}", SiftError):
        _dcp().load(flat, checkpoint_id=target, no_dist=True)
    each = [
        {name.removeprefix(f"rank{old}/"): tensor for name, tensor in flat.items() if name.startswith(f"rank{old}/")}
        for old in wanted
    ]
    if ranks == saved:
        return load_state_dict(like, each[0])
    return resharded(each, like, rank=rank, ranks=ranks, shared=shared)


def _dcp() -> Any:
    """torch.distributed.checkpoint, which takes half a second to import."""
    return importlib.import_module("torch.distributed.checkpoint")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the word that a single process saves for itself, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to (save|load) in a single process")
        yield


def _settle(folder: Path, target: Path, rank: int, ranks: int) -> None:
    """Let the manifest name the new state, and remove those before."""
    if rank:
        return
    beside = folder / f".{_MANIFEST}.{os.getpid()}"
    beside.write_text(json.dumps({"version": _VERSION, "ranks": ranks, "state": target.name}) + "\n")
    os.replace(beside, folder / _MANIFEST)
    for other in folder.glob(f"{_NAME}[0-9]*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def _whole(folder: Path) -> tuple[Path, int]:
    """The folder of the last whole state, and how many ranks saved it."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        version, ranks, name = (manifest[key] for key in ("version", "ranks", "state"))
    except FileNotFoundError:
        raise SiftError(f"{folder} has no {_MANIFEST}: no state was saved there as a whole") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SiftError(f"{folder / _MANIFEST} cannot be read ({_last(error)}); restore it, or start anew") from error
    if version != _VERSION:
        raise SiftError(f"{folder} has version {version}, and this puresift reads version {_VERSION}")
    if not isinstance(ranks, int) or ranks < 1 or Path(str(name)).name != name:
        raise SiftError(f"{folder / _MANIFEST} names no state of so many ranks; restore it, or start anew")
    return folder / name, ranks


def _last(error: BaseException) -> str:
    """The last line of an error, which is the cause where it quotes a whole traceback."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[-1][:200]


@contextmanager
def _told(words: str, kind: type[SiftError]) -> Iterator[None]:
    """What goes wrong within is told in words; torch's own error of checkpoints is no Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise kind(f"{words} ({_last(error)})") from error


def _way_on(folder: Path) -> str:
    return f"restore it from a copy of {folder}, or start the sifter anew"
