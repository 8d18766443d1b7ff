"""`python -m puresift.integrations.smart_sifting SCRIPT ARGS...` runs a script that was written for `smart_sifting`."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from puresift.errors import SiftError
from puresift.integrations.smart_sifting import ALIAS, register


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a script as `python SCRIPT ARGS...` would, with `smart_sifting` importable.

    Args:
        arguments: the script and its arguments; by default `sys.argv[1:]`.

    Returns:
        0; or 2, with one line on stderr, if the script cannot be run or misuses smart_sifting. Other exceptions of
        the script are not caught, SystemExit included.
    """
    chosen = _parser().parse_args(arguments)
    script = Path(chosen.script).resolve()
    if not script.is_file():
        print(f"puresift: there is no script {chosen.script}", file=sys.stderr)
        return 2
    try:
        register()
    except ImportError as error:
        print(f"puresift: {error}", file=sys.stderr)
        return 2
    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [chosen.script, *chosen.arguments], [str(script.parent), *sys.path]
    try:
        with _known_to_children():
            runpy.run_path(str(script), run_name="__main__")
    except SiftError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(script)]
        place = f"{script.name}:{frames[-1].lineno}: " if frames else ""
        print(f"puresift: {place}{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        sys.argv, sys.path = argv, path
    return 0


@contextmanager
def _known_to_children() -> Iterator[None]:
    """Let the processes that a script starts (ranks, workers) import `smart_sifting` too, by a module on their path.

    A new interpreter reads the environment; a spawned or forkserver child is handed this process's own path instead.
    """
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{ALIAS}.py").write_text(f"from {__package__} import register\n\nregister()\n")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
        sys.path.append(folder)  # `main` puts its own list back
        try:
            yield
        finally:
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m puresift.integrations.smart_sifting",
        description="Run a script that was written for Amazon SageMaker Smart Sifting, unchanged, on puresift.",
        epilog="With torchrun: torchrun --nproc-per-node 2 -m puresift.integrations.smart_sifting SCRIPT ARGS...",
    )
    parser.add_argument("script", metavar="SCRIPT", help="a Python file that imports smart_sifting")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="the script's own arguments")
    return parser


if __name__ == "__main__":
    sys.exit(main())
