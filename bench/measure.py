"""What every bench shares: interleaved timing, spread, peak memory, figures, and a result file that says its origin."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

RESULTS = Path(__file__).parent / "results"
COLOURS = {"ours": "#1f6fb4", "wrapper": "#d98a1f", "plain": "#444444", "other": "#3a923a", "floor": "#b03060"}
Spread = dict[str, float]
T = TypeVar("T")
NATIVE = "AVX512", "AMX"  # how the names of processors' instructions begin where bfloat16 is fast


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native() -> bool:
    """Whether the device is fast at bfloat16."""
    return device().type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith(NATIVE)


def clock() -> float:
    """Seconds, once the device has done what it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    arms: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 2, timer: Callable[[], float] = clock
) -> dict[str, list[float]]:
    """Seconds of each arm in each round; the arms take turns, so that a noisy neighbour disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-warmup, rounds):
        for name, arm in arms.items():
            start = timer()
            arm()
            if number >= 0:
                times[name].append(timer() - start)
    return times


class Turn:
    """The watch of one of several long jobs that take turns: it stands still while others run."""

    def __init__(self, ring: deque[Turn], seconds: float, timer: Callable[[], float]):
        self.ring, self.seconds, self.timer = ring, seconds, timer
        self.mine, self.before, self.since = threading.Semaphore(0), 0.0, 0.0

    def __call__(self) -> float:
        """Seconds of this job's own."""
        return self.before + self.timer() - self.since

    def offer(self) -> None:
        """Let the others run, each for a turn, if this one is over."""
        if self.timer() - self.since >= self.seconds:
            self.before = self()
            self.ring.rotate(-1)
            self.ring[0].mine.release()
            self.take()

    def take(self) -> None:
        self.mine.acquire()
        self.since = self.timer()

    def leave(self) -> None:
        self.ring.popleft()
        if self.ring:
            self.ring[0].mine.release()


def turns(
    jobs: Mapping[str, Callable[[Turn], T]], *, seconds: float = 0.5, timer: Callable[[], float] = clock
) -> dict[str, T]:
    """Run jobs that are too long to repeat, one at a time and in turns, each in a thread.

    A job is given its watch and calls its `offer()` every now and then; a slow minute then falls on all of them.
    """
    ring: deque[Turn] = deque()
    ring.extend(Turn(ring, seconds, timer) for _ in jobs)

    def run(job: Callable[[Turn], T], turn: Turn) -> T:
        turn.take()
        try:
            return job(turn)
        finally:
            turn.leave()

    with ThreadPoolExecutor(len(jobs)) as pool:
        made = {name: pool.submit(run, job, turn) for (name, job), turn in zip(jobs.items(), list(ring), strict=True)}
        ring[0].mine.release()
    return {name: future.result() for name, future in made.items()}


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def ratio(one: Sequence[float], other: Sequence[float]) -> Spread:
    """The spread of the ratios round by round: neighbours in time are compared with each other."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent b of the power law y = a * x ** b that lies nearest, in squares of logarithms."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope


class Reads(TorchFunctionMode):
    """Counts what would wait for a device: every way in which Python looks at a tensor's numbers."""

    WAITING = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__")
    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if getattr(function, "__name__", "") in self.WAITING:
            self.count += 1
        return function(*args, **(kwargs or {}))


def reads(run: Callable[[int], Any], pools: int) -> float:
    """Host reads a pool of `run(pools)`; those of its beginning and its end cancel out."""
    counts = []
    for number in (pools, 2 * pools):
        with Reads() as mode:
            run(number)
        counts.append(mode.count)
    return (counts[1] - counts[0]) / pools


def bytes_of(tree: Any) -> int:
    """Bytes of all tensors in nested tuples and dicts."""
    if isinstance(tree, torch.Tensor):
        return tree.numel() * tree.element_size()
    parts: Iterable[Any] = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple) else ()
    return sum(bytes_of(part) for part in parts)


def hardware() -> str:
    """The processor or the GPU, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """What ran."""
    import puresift

    found = {"puresift": puresift.__version__, "torch": torch.__version__, "python": platform.python_version()}
    for name in ("transformers", "numpy"):
        if importlib.util.find_spec(name):
            found[name] = importlib.metadata.version(name)
    return found


def where() -> dict[str, Any]:
    """What a result was measured on."""
    return {
        "hardware": hardware(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def save(theme: str, result: Mapping[str, Any], **settings: Any) -> Path:
    """Write `bench/results/<theme>_<hardware>_<date>.json` with versions, hardware and settings."""
    origin = where()
    date = datetime.date.today().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", origin["hardware"].lower()).strip("-")
    path = RESULTS / f"{theme}_{slug}_{date}.json"
    path.parent.mkdir(exist_ok=True)
    record = {"theme": theme, "date": date, **origin, "settings": settings, **result}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path.relative_to(RESULTS.parent.parent)}")
    return path


# Figures. Matplotlib comes with the demo extra; without it a bench still prints and saves its numbers.


def figure(path: Path, widths: Sequence[float], draw: Callable[..., None]) -> None:
    """Draw a row of panels beside the result file: `draw(*axes)`; widths in inches."""
    if importlib.util.find_spec("matplotlib") is None:
        print('no figure: matplotlib is missing, pip install -e ".[demo]"')
        return
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    whole = Figure(figsize=(sum(widths), 4.2), layout="constrained")
    panels = whole.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    draw(*panels)
    for axes in panels:
        low, high = axes.get_ylim()
        if axes.get_yscale() == "log" and high < 3_000 * low:  # powers of ten alone would be too few
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    whole.suptitle(f"{hardware()}, torch {torch.__version__}", fontsize=9, color="#666666")
    target = path.with_suffix(".png")
    whole.savefig(target, dpi=130)
    print(f"drawn: {target.relative_to(RESULTS.parent.parent)}")


def line(axes: Any, xs: Sequence[float], rows: Sequence[Spread], name: str, shade: str, style: str = "o-") -> None:
    """Medians joined by a line, quartiles as bars."""
    axes.errorbar(xs, [row["median"] for row in rows], whiskers(rows), fmt=style, color=shade, label=name, capsize=2)


def bars(axes: Any, names: Sequence[str], groups: Mapping[str, Sequence[Spread]], form: str = "{:.3g}") -> None:
    """Groups of bars side by side, each with its number on top; a single group without a name has a colour a bar."""
    width = 0.8 / len(groups)
    for number, (group, rows) in enumerate(groups.items()):
        places = [place + (number - (len(groups) - 1) / 2) * width for place in range(len(names))]
        colours = [colour(group, number)] * len(names) if group else [colour(name) for name in names]
        heights = [row["median"] for row in rows]
        axes.bar(places, heights, width * 0.94, color=colours, label=group or None)
        axes.errorbar(places, heights, whiskers(rows), fmt="none", ecolor="#222222", capsize=2)
        above = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        for place, row in zip(places, rows, strict=True):
            axes.annotate(form.format(row["median"]), (place, row["high"]), **above)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.grid(False, axis="x")
    axes.margins(y=0.2)


def colour(name: str, number: int = 0) -> str:
    """By what the name starts with, else by its number."""
    others = [COLOURS["other"], COLOURS["ours"], COLOURS["wrapper"], COLOURS["floor"]]
    return next((shade for arm, shade in COLOURS.items() if name.startswith(arm)), others[number % 4])


def whiskers(rows: Sequence[Spread]) -> list[list[float]]:
    return [[row["median"] - row["low"] for row in rows], [row["high"] - row["median"] for row in rows]]
