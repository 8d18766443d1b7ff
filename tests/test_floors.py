"""The house: a folder imports only folders above it in one ordered list, and the pure ones may not name the world."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "puresift"
# A room is a folder, or a file at the top. Each may import those before it, and itself.
ORDER = [
    *["errors", "types", "settings", "listed", "trees", "paths", "philox", "keys", "ids", "tables", "order", "signals"],
    *["infos", "draws", "scores", "rules", "buffers", "cascades", "steps", "sifters", "prioritizers", "checkpoint"],
    *["uniforms", "distributed", "data", "stream", "recipes", "trials", "testing", "records", "report"],
    *["integrations", "cli", "__main__"],
]
PURE = ORDER[: ORDER.index("checkpoint")]
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path):
    return str(path.relative_to(ROOT))


def test_every_room_has_its_place():
    assert {room(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_folder_imports_only_those_above_it(path):
    place = ORDER.index(room(path))
    for parts in (name.split(".") for name in imports(path)):
        if parts[0] == "puresift":
            assert ORDER.index(parts[1]) <= place, f"{room(path)} may not import {parts[1]}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_of_a_folder_do_not_import_each_other_in_a_circle(path):
    """Nor does any of them import its own package, whose __init__ imports them all."""
    seen, waiting = set(), [path]
    while waiting:
        for imported in imports(waiting.pop()):
            place = ROOT.parent / imported.replace(".", "/")
            for file in (place.with_suffix(".py"), place.parent.with_suffix(".py")):  # a module, or a name in one
                assert file != path, "a circle"
                if file in FILES and room(file) == room(path) and file not in seen:
                    seen.add(file)
                    waiting.append(file)


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in PURE], ids=name)
def test_the_lower_floors_are_pure(path):
    allowed = {
        *("torch", "einops", "puresift"),
        *("__future__", "collections", "contextlib", "contextvars", "copy", "enum", "functools", "inspect"),
        *("itertools", "math", "operator", "types", "typing", "warnings", "weakref"),
    }
    assert {name.split(".")[0] for name in imports(path)} <= allowed
    assert not any(name.startswith("torch.distributed") for name in imports(path))
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    forbidden = {"item", "manual_seed", "rand", "randn", "randint", "randperm", "bernoulli_", "multinomial", "seed"}
    assert not {name for name in called if name.split(".")[-1] in forbidden}


def test_only_trees_knows_pytree():
    assert [path.stem for path in FILES if "_pytree" in path.read_text()] == ["trees"]


def test_only_distributed_knows_other_ranks():
    knowing = {room(path) for path in FILES if any(name.startswith("torch.distributed") for name in imports(path))}
    assert knowing == {"distributed"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_are_short(path):
    code = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= 260, "what in it wants a room of its own?"
