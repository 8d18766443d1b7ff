"""How long `import puresift` takes, against `import torch` alone, which it includes: fresh processes in turns.

    python -m bench importing

Time inside the process, around the import, so that starting Python does not count: seconds that pass, and those of the
processor, which other work on the machine disturbs less. The first round reads the files from disk, compiles them
as installing does, and is left out. Which modules may not be imported at all is a law of tests/test_packaging.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import torch

from bench.measure import ratio, save, spread

GOAL = 1.5  # times torch's own
CODE = """
import time
passed, worked = time.perf_counter(), time.process_time()
import {}
print([time.perf_counter() - passed, time.process_time() - worked])
"""


def seconds(name: str) -> tuple[float, float]:
    """Passed and worked in `import name`, in a process of its own, in an empty folder."""
    compiled = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE.format(name)]
        found = subprocess.run(command, cwd=folder, env=compiled, check=True, capture_output=True, text=True).stdout
    passed, worked = json.loads(found)
    return passed, worked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rounds_of = [[seconds(name) for name in ("torch", "puresift")] for _ in range(rounds + 1)][1:]
    result: dict[str, Any] = {"goal": GOAL}
    for number, kind in enumerate(("passed", "worked")):
        alone, whole = ([row[name][number] for row in rounds_of] for name in (0, 1))
        result[kind] = {"torch": spread(alone), "puresift": spread(whole), "ratio": ratio(whole, alone)}
        for name, values in result[kind].items():
            print("seconds {}  {:9} {median:6.2f} [{low:.2f}, {high:.2f}]".format(kind, name, **values))
    save("importing", result, rounds=rounds)
    over = result["worked"]["ratio"]["median"]
    print(f"{over:.2f} times torch's own, to be under {GOAL}")
    return int(over >= GOAL)


if __name__ == "__main__":
    sys.exit(main())
