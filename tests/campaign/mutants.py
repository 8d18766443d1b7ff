"""A random sample of mutants of the pure core: `python -m tests.campaign.mutants --sample 100 --seed 0`.

mutmut makes them and runs the tests that reach each (`[tool.mutmut]` in pyproject.toml); all of them take days on two
cores, a sample says within a few points what share is killed. What survives is printed, to be read.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

MADE = Path("mutants/puresift")
KILLED = ("killed", "timeout", "segfault", "suspicious")


def verdicts() -> dict[str, int | None]:
    """Every mutant, and the exit code of its tests if they were run."""
    found: dict[str, int | None] = {}
    for file in sorted(MADE.rglob("*.meta")):
        found |= json.loads(file.read_text())["exit_code_by_key"]
    return found


def main() -> int:
    from mutmut.stats import status_by_exit_code  # of the extra [mutation]; the tests are collected without it

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the mutants' names, as in rules.ranking")
    parser.add_argument("--processes", default="2")
    o = parser.parse_args()
    mutmut = [sys.executable, "-m", "mutmut"]
    if not verdicts():  # made before any is run; the name is no mutant's
        subprocess.run([*mutmut, "run", "none.at.all"], check=False)
    names = sorted(name for name in verdicts() if o.only in name)
    chosen = random.Random(o.seed).sample(names, min(o.sample, len(names)))
    subprocess.run([*mutmut, "run", "--max-children", o.processes, *chosen], check=False)
    codes = {name: status_by_exit_code[verdicts()[name]] for name in chosen}
    for name in sorted(name for name in chosen if codes[name] not in KILLED):
        print(f"--- {codes[name]}: {name}")
        print(subprocess.run([*mutmut, "show", name], check=False, capture_output=True, text=True).stdout)
    killed = sum(codes[name] in KILLED for name in chosen)
    print(f"{killed} of {len(chosen)} killed, out of {len(names)}, seed {o.seed}: {dict(Counter(codes.values()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
