"""What is published: the wheel and the source distribution, what an import brings in, types that a checker sees."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import puresift as ps

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTED = ["pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "puresift"]
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
IMPORTED = "import sys, torch; before = {*sys.modules}; import puresift; print(*{*sys.modules} - before)"
# Each costs a good part of torch's own import time, or belongs to an extra.
HEAVY = {
    *("torch._dynamo", "torch._inductor", "torch.onnx", "torch.testing", "torch.utils.tensorboard", "torch.profiler"),
    *("torch.distributed.fsdp", "torch.distributed.checkpoint", "torch.distributed.tensor", "torch.distributed.nn"),
    *("puresift.testing", "puresift.report", "puresift.cli"),
    *("numpy", "sympy", "matplotlib", "hypothesis", "transformers", "accelerate", "lightning", "trl", "datasets"),
}


def built(kind, folder, target):
    """The file that the build backend makes of `folder`, as `pip wheel` and `python -m build` do."""
    made = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(target)], cwd=folder, check=True, capture_output=True, text=True
    )
    return target / made.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A source distribution of a copy of the tree, stray tests and benches included, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("published")
    tree = folder / "tree"
    tree.mkdir()
    for name in DISTRIBUTED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tree / name)
    for stray in ("tests/test_stray.py", "bench/__init__.py", "models/__init__.py"):
        (tree / stray).parent.mkdir()
        (tree / stray).touch()
    source = built("sdist", tree, folder)
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
    with tarfile.open(source) as archive:
        archive.extractall(folder, **safe)
    return source, built("wheel", folder / source.name.removesuffix(".tar.gz"), folder)


def modules():
    return {str(path.relative_to(ROOT)) for path in (ROOT / "puresift").rglob("*.py")}


def test_the_wheel_holds_the_library_alone_and_whole(published):
    names = set(zipfile.ZipFile(published[1]).namelist())
    assert {name.split("/")[0] for name in names} == {"puresift", f"puresift-{ps.__version__}.dist-info"}
    assert modules() | {"puresift/py.typed"} <= names
    assert {name for name in names if name.endswith(".py")} == modules()


def test_the_source_distribution_has_neither_tests_nor_benches(published):
    with tarfile.open(published[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in DISTRIBUTED if name != "puresift"} | modules() <= names
    assert not {name.split("/")[0] for name in names} & {"tests", "bench", "models"}


def test_the_metadata_say_what_the_package_says(published):
    with zipfile.ZipFile(published[1]) as wheel:
        text = wheel.read(f"puresift-{ps.__version__}.dist-info/METADATA").decode()
    head, _, description = text.partition("\n\n")
    assert f"Version: {ps.__version__}" in head and "://" not in head
    assert description.strip() == (ROOT / "README.md").read_text().strip()


def test_the_version_has_its_changelog_and_its_citation():
    dated = re.search(rf"^## {re.escape(ps.__version__)}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert dated, "a section for users"
    assert cited and cited[1] == ps.__version__
    assert PROJECT["license"] in (ROOT / "CITATION.cff").read_text()


def test_an_import_brings_in_nothing_heavy_that_torch_did_not():
    run = subprocess.run([sys.executable, "-c", IMPORTED], check=True, capture_output=True, text=True, cwd=ROOT)
    came = set(run.stdout.split())
    assert "puresift.stream" in came
    assert not {name for name in came if any(name == heavy or name.startswith(f"{heavy}.") for heavy in HEAVY)}
    outside = {name.split(".")[0] for name in came} - set(sys.stdlib_module_names)
    assert {name for name in outside if not name.startswith("_")} <= {"puresift", "einops", "torch"}
    doors = {name for name in came if name.startswith("puresift.integrations.")}
    assert not doors, "each door is imported on first use"


def checked(script, python):
    """What `mypy --strict` says of a user's script, where puresift is among that Python's packages."""
    strict = ["--strict", "--config-file", os.devnull, "--python-executable", str(python)]
    command = [sys.executable, "-m", "mypy", *strict, script.name]
    return subprocess.run(command, cwd=script.parent, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_users_type_checker_sees_the_types_of_the_wheel(published, tmp_path):
    """And would not, without the marker: so what is checked is the installed package."""
    pytest.importorskip("mypy")
    venv.create(tmp_path / "venv", with_pip=False)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    for path in Path(sysconfig.get_path("purelib")).iterdir():  # torch, and all else but the tree that is worked on
        if "puresift" not in path.name and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    zipfile.ZipFile(published[1]).extractall(site)
    script = Path(shutil.copy(ROOT / "tests" / "scripts" / "typed.py", tmp_path))
    python = tmp_path / "venv" / "bin" / "python"
    assert checked(script, python) == "Success: no issues found in 1 source file\n"
    wrong = tmp_path / "wrong.py"
    wrong.write_text(script.read_text().replace("ps.floor(half(), 0.1)", "ps.floor(0.1, half())"))
    assert 'Argument 1 to "floor" has incompatible type "float"; expected "Rule"' in checked(wrong, python)
    (site / "puresift" / "py.typed").unlink()
    assert "py.typed marker" in checked(script, python)
