"""The API reference: every public name has an example, and the pages can be made."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import puresift as ps
from bench import docs
from tests.test_api import PUBLIC

PAGES = docs.installed()


@pytest.mark.parametrize("page", PAGES)
def test_every_public_name_has_an_example_that_runs(page):
    """They are doctests, which the suite runs with the package."""
    without = [name for name, thing in docs.names(page) if not docs.example(thing)]
    assert not without, f"{page}: an example each, please"


def test_every_namespace_and_every_door_has_a_page():
    spaces = {name for name in PUBLIC if isinstance(getattr(ps, name), ModuleType)}
    doors = {path.stem for path in (Path(ps.__file__).parent / "integrations").iterdir() if path.name[0] not in "_R"}
    shown = {page.removeprefix("puresift.") for page in docs.PAGES}
    assert spaces - {"integrations"} <= shown
    assert {f"integrations.{name}" for name in doors} <= shown


@pytest.mark.parametrize(
    ("text", "own"), [("A sum.\n\n    >>> 1 + 1\n    2", True), ("A sum, as in `1 + 1`.", False), (None, False)]
)
def test_an_example_is_lines_that_run(text, own):
    base = type("Base", (), {"__doc__": text})
    assert docs.example(base) is own
    assert not docs.example(type("Child", (base,), {})), "an inherited one is another class's"


@pytest.mark.slow
def test_the_pages_are_made(tmp_path):
    pytest.importorskip("pdoc")
    run = subprocess.run(
        [sys.executable, "-m", "bench", "docs", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0 and not run.stderr, run.stderr
    text = (tmp_path / "puresift" / "types.html").read_text()
    assert "finite and &gt; 0" in text and "Alias for field" not in text
    assert not (tmp_path / "puresift" / "stream.html").exists()
    index = (tmp_path / "index.html").read_text()
    for page in PAGES:
        assert f'href="{page.replace(".", "/")}.html"' in index
        file = tmp_path / f"{page.replace('.', '/')}.html"
        for name, _ in docs.names(page):
            assert f'id="{name}"' in file.read_text(), f"{page}.{name}"


def test_without_pdoc_the_command_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["docs"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert docs.main() == 2
    assert 'pip install -e ".[docs]"' in capsys.readouterr().err
