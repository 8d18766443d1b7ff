"""The API reference as web pages, made from the docstrings by pdoc into a folder that git ignores.

    pip install -e ".[docs]"
    python -m bench docs                # then open docs/index.html
    python -m bench docs --out FOLDER

A page a namespace, and one for each integration whose framework is installed. Every name on them has an example that
runs (tests/bench/test_docs.py).
"""

from __future__ import annotations

import argparse
import html
import importlib
import importlib.util
import inspect
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
NAMESPACES = ["rules", "scores", "draws", "buffers", "data", "keys", "types", "distributed", "testing"]
DOORS = {  # and the package that each needs
    "accelerate": "accelerate",
    "huggingface": "transformers",
    "lightning": "lightning",
    "trl": None,
    "smart_sifting": None,
}
PAGES: dict[str, str | None] = {
    "puresift": None,
    **{f"puresift.{name}": None for name in NAMESPACES},
    "puresift.testing.strategies": "hypothesis",
    **{f"puresift.integrations.{name}": needs for name, needs in DOORS.items()},
}
STYLE = """
/* Lines of 120 letters fit, and scroll where a screen is narrow. */
.pdoc pre { overflow-x: auto; }
@media (min-width: 770px) { main.pdoc { width: calc(68rem + var(--sidebar-width)); } }
nav.pdoc h2 { font-size: 1.25rem; }
.pdoc blockquote { margin-left: 0; padding-left: 0; border-left: none; opacity: 1; }
"""


INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>puresift</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 48rem; margin: 3rem auto; padding: 0 1rem; }}
dt {{ margin-top: .8rem; }} dd {{ margin: 0; color: #555; }}</style>
<h1>puresift {version}</h1>
<p>Every name stands on the first page, and once more on that of its theme.</p>
<dl>
{pages}
</dl>
"""
ENTRY = '<dt><a href="{path}.html">{page}</a></dt><dd>{line}</dd>'


def names(page: str) -> Iterator[tuple[str, Any]]:
    """The functions and classes that a page shows: those of `__all__`, or else those that are written there."""
    module = importlib.import_module(page)
    shown = getattr(module, "__all__", None)
    for name in shown or [name for name in vars(module) if not name.startswith("_")]:
        thing = getattr(module, name)
        own = shown or getattr(thing, "__module__", None) == page
        if own and callable(thing) and not isinstance(thing, ModuleType):
            yield name, thing


def example(thing: Any) -> bool:
    """Whether its own docstring, and not one that it inherits, has lines that run."""
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return ">>> " in (text or "")


def installed() -> list[str]:
    return [page for page, needs in PAGES.items() if needs is None or importlib.util.find_spec(needs)]


def explain(kind: type[tuple[Any, ...]]) -> None:
    """Give the fields of a named tuple what the comments beside them say, in place of "Alias for field number 0"."""
    for field in kind._fields:  # type: ignore[attr-defined]
        said = re.search(rf"^    {field}: .*?(?:  # (.*))?$", inspect.getsource(kind), re.MULTILINE)
        vars(kind)[field].__doc__ = (said and said[1]) or ""
    kind.__new__.__doc__ = ""
    kind.__new__.__annotations__ = {}  # they stand beside the fields


def write(folder: Path) -> list[str]:
    """Make the pages; the names of those that were made."""
    import pdoc  # type: ignore[import-not-found, unused-ignore]

    pages = installed()
    for kind in {thing for page in pages for _, thing in names(page) if hasattr(thing, "_fields")}:
        explain(kind)
    # A page, and nothing below it that is no page itself.
    chosen = [part for page in pages for part in (page, f"!{re.escape(page)}[.].*")]
    with tempfile.TemporaryDirectory() as templates, warnings.catch_warnings():
        (Path(templates) / "custom.css").write_text(STYLE)
        warnings.filterwarnings("ignore", "Error parsing type annotation|Failed to run TYPE_CHECKING", UserWarning)
        pdoc.render.configure(docformat="google", show_source=False, template_directory=Path(templates))
        pdoc.pdoc(*chosen, output_directory=folder)
    (folder / "index.html").write_text(index(pages))
    return pages


def index(pages: list[str]) -> str:
    """A page that leads to all of them; pdoc's own leads to those that lie in one another's `__all__`."""
    lines = {page: (inspect.getdoc(importlib.import_module(page)) or "").split("\n\n")[0] for page in pages}
    entries = [
        ENTRY.format(path=page.replace(".", "/"), page=page, line=html.escape(line.replace("`", "")))
        for page, line in lines.items()
    ]
    return INDEX.format(version=importlib.import_module("puresift").__version__, pages="\n".join(entries))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", metavar="FOLDER", help="by default docs/")
    folder = parser.parse_args().out
    if importlib.util.find_spec("pdoc") is None:
        print('pdoc is missing: pip install -e ".[docs]"', file=sys.stderr)
        return 2
    pages = write(folder)
    print(f"written: {folder / 'index.html'}, {len(pages)} pages")
    if left := sorted({*PAGES} - {*pages}):
        print(f'without {", ".join(left)}: pip install -e ".[docs]"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
