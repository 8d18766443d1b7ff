"""The house: a file imports only lower floors, and floors 0 to 2 are pure by what they may not name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "puresift"
FLOORS = {
    0: "types settings keys trees ranks histories columns chunks twins",
    1: "scores outputs tables rules cuts weighted draws buffers",
    2: "wrappers adjust groups cheap sifters memory combine tokenwise",
    3: "fits metrics checkpoint pools stream governor watch checks replays audit ids samplers distributed handout "
    "recorder images auto",
    4: "cli loader report page figures drawing reading huggingface_settings",
    5: "accelerate due lightning huggingface huggingface_passes smart_sifting",  # the doors
}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules.split()}
# Within a floor: words build on words, and the stream on the rest of the shell.
BESIDE = {
    *{
        ("histories", "ranks"),
        ("histories", "columns"),
        ("histories", "types"),
        ("keys", "types"),
        ("trees", "types"),
        ("chunks", "trees"),
        ("chunks", "columns"),
        ("twins", "types"),
        ("ranks", "settings"),
        ("ranks", "types"),
    },
    ("auto", "governor"),
    *{("draws", "keys"), ("stream", "metrics"), ("stream", "pools")},
    *{("recorder", "metrics"), ("recorder", "images"), ("cli", "report"), ("page", "report"), ("figures", "report")},
    *{("lightning", "due"), ("huggingface", "huggingface_passes")},
    *{("stream", "governor"), ("stream", "watch"), ("watch", "governor")},
    ("smart_sifting", "smart_sifting"),  # a package: one room, whatever its files are called
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")
PURE = [path for path in FILES if FLOOR.get(path.stem, 9) <= 2]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [alias.name for alias in node.names]
            whole = node.module == "puresift"
            yield from (f"puresift.{name}" for name in names) if whole else [node.module]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_imports_only_lower_floors(path):
    room = "smart_sifting" if "smart_sifting" in path.parts else path.stem
    assert room in FLOOR, f"give {path.name} a floor"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "puresift":
            continue
        module = parts[2] if parts[1] == "integrations" else parts[1]
        below = FLOOR[module] < FLOOR[room]
        assert below or (room, module) in BESIDE, f"{room} may not import {module}"


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_the_lower_floors_are_pure(path):
    allowed = {
        "torch",
        "einops",
        "puresift",
        "__future__",
        "collections",
        "typing",
        "copy",
        "functools",
        "inspect",
        "itertools",
        "math",
    }
    assert {name.split(".")[0] for name in imports(path)} <= allowed
    assert not any(name.startswith("torch.distributed") for name in imports(path))
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    forbidden = {"item", "manual_seed", "rand", "randn", "randint", "randperm", "bernoulli_", "multinomial", "seed"}
    assert not {name for name in called if name.split(".")[-1] in forbidden}


def test_only_trees_knows_pytree():
    assert [path.stem for path in FILES if "_pytree" in path.read_text()] == ["trees"]


def test_only_distributed_knows_other_ranks():
    knowing = [path.stem for path in FILES if any(name.startswith("torch.distributed") for name in imports(path))]
    assert knowing == ["distributed"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_short(path):
    code = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= 260, "what in it wants a room of its own?"
