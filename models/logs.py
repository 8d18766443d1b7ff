"""An arm's files, which rank 0 alone writes; after a kill the arm goes on from its last checkpoint."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import puresift as ps
from models import checkpoints, ranks
from models.files import CHECKPOINT
from models.options import Options
from models.runs import Metrics, Progress, Tally, rng, set_rng
from puresift import distributed, trees

LINES = 100  # of metrics.jsonl, about


class Log:
    """An arm's files: metrics, record and checkpoint. What was written after the last checkpoint is written again."""

    def __init__(self, folder: Path, options: Options, budget: int, sentence: Callable[[int], str], mark: str = ""):
        self.path, self.mark = folder / CHECKPOINT, mark and f"{folder.name} {mark}"
        self.every = max(budget / LINES, 1)  # pools between two lines
        self._writes = distributed.place()[0] == 0
        self._options, self._budget, self._sentence = options, budget, sentence
        self.saved = saved = ranks.first(self._opened)
        with checkpoints.fitting(self.path, ps.SiftError):
            self.tally = Tally(**saved["tally"]) if saved else Tally()
        ranks.first(self._begun)

    def _opened(self) -> dict[str, Any] | None:
        """The checkpoint, if there is one."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        saved = checkpoints.restore(folder, self.mark)
        if not saved:
            if (folder / ps.Recorder.FILE).exists():
                print(f"train: {folder} has no checkpoint; its arm begins anew", file=sys.stderr)
            (folder / ps.Recorder.FILE).unlink(missing_ok=True)
        elif line := told(saved):
            print(line, file=sys.stderr)
        return saved

    def _begun(self) -> None:
        saved, folder = self.saved, self.path.parent
        with checkpoints.fitting(self.path, ps.SiftError):  # which the recorder raises in words
            self._metrics = Metrics(folder / "metrics.jsonl", saved["metrics_bytes"] if saved else 0)
            self._recorder = ps.Recorder(
                folder,
                name=folder.name,
                sample=self._sentence,
                classes=("blame", "praise"),
                facts=asdict(self._options),
                every=int(self.every),
                state=saved["recorder"] if saved else None,
            )
        self._progress = Progress(folder.name, self._budget, self.tally.pool)

    def record(self, info: ps.Info | None) -> None:
        """What was seen and kept since the last batch."""
        if not self._writes:
            return
        tally = self.tally
        self._progress.update(tally, info.mask.float().mean().item() if info is not None and len(info.mask) else None)
        if info is not None:
            if tally.phi is not None:  # of the whole arm, as in its summary; a governor's is of the last pools
                info = info._replace(extra={name: part for name, part in info.extra.items() if name != "phi"})
            self._recorder.write(info, tally.pool, seconds=tally.seconds, phi=tally.phi)

    def write(self, optimizer: torch.optim.Optimizer, accuracy: float | None, cost: float | None = None) -> None:
        """A line of metrics, and of an evaluation where there was one; `cost` of a sample seen, if it was measured."""
        line = self.tally.line(optimizer.param_groups[0]["lr"]) | {"accuracy": accuracy}
        if not self._writes:
            return
        self._metrics.write(line)
        if accuracy is not None:
            told = {"accuracy": accuracy} | ({} if cost is None else {"measured_cost": cost})
            self._recorder.evaluate(self.tally.pool, seconds=self.tally.seconds, **told)
            self._progress.say(line)

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, score_dtype: str | None, state: ps.SiftState | None
    ) -> None:
        """All that the next step needs, as tensors and plain numbers; of several ranks, in one file."""
        sift = None if state is None else trees.to(ps.state_dict(state), torch.device("cpu"))
        every = ranks.collected({"sift": sift, "rng": rng()})

        def write() -> None:
            content = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                **every[0],
                "tally": vars(self.tally),
                "metrics_bytes": self._metrics.size(),
                "recorder": self._recorder.state_dict(),
                "score_dtype": score_dtype,
            }
            content |= {"mark": self.mark} if self.mark else {}
            content |= {"ranks": every} if len(every) > 1 else {}
            checkpoints.save(self.path, content)

        ranks.first(write)

    def close(self) -> None:
        """Write what is held."""
        if self._writes:
            self._progress.close()
            self._recorder.close()


def sifting(saved: Mapping[str, Any], like: ps.SiftState) -> ps.SiftState:
    """This rank's sifter state out of a checkpoint, of any number of ranks; rows that wait are dealt out again."""
    rank, world = distributed.place()
    parts = [part["sift"] for part in saved.get("ranks", [saved])]
    if len(parts) == world:
        return ps.load_state_dict(like, parts[rank])
    return distributed.resharded(parts, like, rank=rank, ranks=world, shared=True)


def set_dice(saved: Mapping[str, Any]) -> None:
    """The global generators of this rank; where a checkpoint has none of it, they stay at its seed."""
    rank, _ = distributed.place()
    parts = saved.get("ranks", [saved])
    if rank < len(parts):
        set_rng(parts[rank]["rng"])


def told(saved: Mapping[str, Any]) -> str | None:
    """What is no longer the same where another number of ranks goes on."""
    before, now = len(saved.get("ranks", [saved])), distributed.place()[1]
    if before == now:
        return None
    return (
        f"train: saved on {before} rank{'s' * (before > 1)}, going on with {now}: rows that wait are dealt out again; "
        "what is kept follows the same draws, but dropout and rounding differ from here on"
    )
