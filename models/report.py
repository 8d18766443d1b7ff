"""The output at the end of a run: a verdict, the table, the remarks under it, and the hardware and versions."""

import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from models import runs, verdict
from models.options import Options
from puresift.distributed import place
from puresift.report import draw

COLUMNS = ("arm", "accuracy %", "time", "seconds", "seen", "scored", "trained", "phi", "k", "cost")


def circumstances(o: Options, facts: dict[str, Any]) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    hardware = {"cpu": cpu, "cores": os.cpu_count()}
    if o.device.startswith("cuda"):
        hardware["gpu"] = torch.cuda.get_device_name(o.device)
    packages = ("puresift", "torch", "transformers", "tokenizers")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "config": asdict(o),
        "data": facts,
        "seed": o.seed,
        "threads": o.threads,
        "ranks": place()[1],
        "hardware": hardware,
        "versions": versions,
        "date": date,
    }


def tell(
    folder: Path,
    o: Options,
    facts: dict[str, Any],
    arms: dict[str, dict[str, Any]],
    measured: dict[str, Any],
    synthetic: bool,
) -> None:
    """Write the summary and the figures, and print a verdict and the table."""
    runs.write_json(folder / "summary.json", {"arms": arms, **measured, **circumstances(o, facts)})
    draw([folder / name for name in arms], folder)
    print(f"{verdict.verdict(arms, facts['test'])}\n")
    print(table(arms))
    print(remarks(arms, measured, synthetic, o.bucket), end="")
    print(f"\nall of it on a page: puresift report {folder}\nrun folder: {folder}")


def table(arms: dict[str, dict[str, Any]]) -> str:
    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, a in arms.items():
        times = [number(a["time"], 2), number(a["seconds"], 1)]
        counts = [number(a[key], 0) for key in ("seen", "scored", "trained")]
        shares = [number(a[key], 2) for key in ("phi", "keep", "cost")]
        rows.append((name, number(100 * a["accuracy"], 2), *times, *counts, *shares))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def remarks(arms: dict[str, dict[str, Any]], measured: dict[str, Any], synthetic: bool, bucket: bool = False) -> str:
    lines = []
    if turns := measured["interleaved"]:
        lines.append(
            f"sifted pass costs {turns['cost']:.2f} [{turns['low']:.2f}-{turns['high']:.2f}] of a plain one, "
            f"interleaved (median and quartiles of {turns['alternations']} turns, sifting all the time; "
            f"phi {turns['phi']:.2f}, k {turns['keep']:.2f})"
        )
    if "sifted" in arms:
        lines.append(
            f"scored in {measured['score']['dtype']}; predicted cost of the sifted arm, phi + k: "
            f"{arms['sifted']['predicted_cost']:.2f}"
        )
    lines.append(
        "cost: of a sample seen, in samples trained on; time: in whole plain runs, by the cost; seconds: by the clock, "
        "with all that the machine did besides"
    )
    lines += verdict.savings(arms, measured.get("loops"), bucket)
    if synthetic:
        lines.append("the reviews are generated: these numbers show how things work, not how well on real text")
    return "".join(line + "\n" for line in lines)
