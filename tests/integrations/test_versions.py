"""The doors' tests in environments of their own, each with one version of a framework; slow, and needs a package index.

`PURESIFT_VERSIONS=FOLDER` keeps the environments there and uses them again; without it each is deleted after its run.
`PURESIFT_PYTHON=PROGRAM` makes them with another Python.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("PURESIFT_PYTHON", sys.executable)
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
IMPORTS = {"lightning": "lightning.pytorch", "pytorch-lightning": "pytorch_lightning"}  # where the name is another
HUGGINGFACE, LIGHTNING, ACCELERATE, SMART = (
    ("test_huggingface.py", "test_language_models.py"),
    ("test_lightning.py", "test_lightning_drawing.py"),
    ("test_accelerate.py", "test_accelerate_drawing.py"),
    ("test_smart_sifting.py", "test_smart_sifting_rule.py", "test_smart_sifting_runs.py"),
)
EVERY = (*HUGGINGFACE, *LIGHTNING, *ACCELERATE, *SMART, "test_padding.py")


class Row(NamedTuple):
    """An environment: puresift's extras, the versions asked for, and the files of tests run in it."""

    extras: str
    versions: dict[str, str]
    files: tuple[str, ...]


def both(version: str) -> dict[str, str]:
    """Lightning under its two names; the newer package would do, too, for a `lightning` that asks for the other."""
    return {"lightning": version, "pytorch-lightning": version}


ROWS = {
    "transformers 4.57": Row("huggingface", {"transformers": "4.57.*"}, HUGGINGFACE),
    "transformers 5": Row("huggingface", {"transformers": "5.*"}, HUGGINGFACE),
    "lightning 2.5": Row("lightning", both("2.5.*"), LIGHTNING),
    "lightning 2.6": Row("lightning", both("2.6.*"), LIGHTNING),
    "accelerate 1.10": Row("accelerate", {"accelerate": "1.10.*"}, ACCELERATE),
    "accelerate, the newest": Row("accelerate", {"accelerate": "1.*"}, ACCELERATE),
    "all, the oldest": Row(
        "huggingface,lightning,smart_sifting",
        {"transformers": "4.57.1", **both("2.5.0"), "accelerate": "1.10.0"},
        EVERY,
    ),
    "all, the newest": Row(
        "huggingface,lightning,smart_sifting",
        {"transformers": "5.*", **both("2.*"), "accelerate": "1.*"},
        EVERY,
    ),
}


def run(*command: str | Path, seconds: float = 3000) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**kept, "OMP_NUM_THREADS": "1", "PURESIFT_PATIENCE": "600"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Skips where pip reaches no packages."""
    probe = ("-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "-d", tmp_path_factory.mktemp("probe"))
    reached = run(PYTHON, *probe, "iniconfig", seconds=300)
    if reached.returncode:
        pytest.skip(f"pip reaches no package index: {reached.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def environment(request, tmp_path, index):
    """A Python with the row's versions."""
    row, kept = ROWS[request.param], os.environ.get("PURESIFT_VERSIONS")
    folder = Path(kept, request.param.replace(", ", " ").replace(" ", "-")).resolve() if kept else tmp_path / "venv"
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            made = run(PYTHON, "-m", "venv", folder)
            assert made.returncode == 0, made.stderr
        asked = [f"{name}=={version}" for name, version in row.versions.items()]
        install = ("-m", "pip", "install", "-q", "-U", "--no-compile", "-e", f"{ROOT}[{row.extras}]")
        made = run(python, *install, *asked, *TOOLS)
        assert made.returncode == 0, made.stderr
        yield request.param, python
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)  # 1.5 GB


def installed(python: Path, packages: list[str]) -> dict[str, str]:
    code = "import platform, sys; from importlib.metadata import version as of; print(platform.python_version())"
    asked = run(python, "-c", f"{code}; print(*map(of, sys.argv[1:]), sep='\\n')", *packages)
    assert asked.returncode == 0, asked.stderr
    return dict(zip(["python", *packages], asked.stdout.split(), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("environment", ROWS, indirect=True)
def test_the_doors_open_with_this_version(environment, capsys):
    name, python = environment
    row = ROWS[name]
    found = installed(python, ["torch", *row.versions])
    for package, version in row.versions.items():
        assert (found[package] + ".").startswith(version.removesuffix("*").rstrip(".") + "."), found
    files = [f"tests/integrations/{file}" for file in (*row.files, "test_doors.py")]
    options = ("-n", "0", "-q", "-rs", "--tb=short", "-p", "no:cacheprovider", "--timeout", "900")
    slow_too = ("-m", "slow or not slow") if row.files == EVERY else ()  # once with the oldest, once with the newest
    tests = run(python, "-m", "pytest", *options, *slow_too, *files)
    closing = tests.stdout.strip().splitlines()[-1] if tests.stdout.strip() else tests.stderr
    with capsys.disabled():
        print(f"\n{name}: {', '.join(map(' '.join, found.items()))}: {closing}", flush=True)
    assert tests.returncode == 0, tests.stdout[-20_000:] + tests.stderr
    for package in row.versions:
        missing = f"could not import '{IMPORTS.get(package, package)}"
        assert missing not in tests.stdout, "what is installed is what runs"
    passed = re.search(r"(\d+) passed", closing)
    assert passed and int(passed[1]) >= 15, closing
