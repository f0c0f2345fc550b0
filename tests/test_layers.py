"""The shape of the code: imports go one way, heavy libraries stay in their rooms, exported names are the listed ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sftdata

PACKAGE = Path(sftdata.__file__).parent

STAGES = {"preparing", "signing", "resolving", "tokenizer_making", "tokenizing", "planning", "gathering"}

COMPOSERS = {
    "pipeline", "ingesting", "tokenizer_building", "repairing", "garbage", "task_files", "ablation", "views.preview",
    "commands", "screen", "__init__", "__main__",
}  # fmt: skip
"""The modules that put stages together, or stand above them."""


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return (module, whether at the top) of every import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, id(node) in top)]
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def reached(path: Path) -> set[str]:
    """Return the project's modules that a file imports, without the package name."""
    names = {name.removeprefix("sftdata.") for name, _ in imports(path) if name.startswith("sftdata.")}
    return {name for name in names if name in MODULES or f"{name}.__init__" in MODULES}


def room(name: str) -> str:
    """Return what a module counts as: the commands are one room."""
    return "commands" if name.startswith("commands.") else name


def test_stages_never_import_each_other() -> None:
    assert set(MODULES) >= STAGES
    for stage in STAGES:
        assert not reached(MODULES[stage]) & STAGES, stage


def test_only_composers_import_stages_and_executors() -> None:
    seen = 0
    for name, path in MODULES.items():
        uses = reached(path) & (STAGES | {"executors.choice", "executors.local", "executors.ray", "pipeline"})
        seen += bool(uses)
        if room(name) not in COMPOSERS and name not in STAGES and not name.startswith("executors"):
            assert not uses, f"{name} imports {uses}"
    assert seen > 3


@pytest.mark.parametrize("package", ["ingestors", "cleaners", "formatters"])
def test_steps_never_import_each_other(package: str) -> None:
    kinds = {"ingestors", "cleaners", "formatters"}
    steps = [name for name in MODULES if name.startswith(f"{package}.")]
    assert len(steps) > 3
    for name in steps:
        for other in reached(MODULES[name]):
            kind, _, module = other.partition(".")
            private = kind == package and module.startswith("_")
            assert kind not in kinds or private or not module, f"{name} imports {other}"


HEAVY = ["torch", "transformers", "datasets", "pandas", "peft", "accelerate", "bs4", "trafilatura", "sqlparse", "matplotlib"]
HEAVY += ["ray", "fsspec"]


def test_heavy_libraries_are_imported_late_and_torch_only_by_the_trainer() -> None:
    seen = set()
    for name, path in MODULES.items():
        for imported, top in imports(path):
            root = imported.partition(".")[0]
            if root in HEAVY:
                seen.add(root)
                assert name.startswith("trainer.") or not top, f"{name} imports {root} at the top"
                assert root not in ("torch", "peft", "accelerate") or name.startswith("trainer."), f"{name} imports {root}"
                assert root != "ray" or name == "executors.ray", f"{name} imports {root}"
                assert root != "fsspec" or name == "remote", f"{name} imports {root}"
    assert {"torch", "transformers", "pandas", "sqlparse", "bs4", "ray", "fsspec"} <= seen


def test_late_imports_of_our_own_modules_are_few_and_known() -> None:
    late = {
        (name, imported)
        for name, path in MODULES.items()
        for imported, top in imports(path)
        if not top and imported.startswith("sftdata.") and imported.removeprefix("sftdata.") in MODULES
    }
    known = {"commands", "screen", "views.terminal", "__init__", "trainer.__init__", "templates.__init__"}
    assert {room(name) for name, _ in late} <= known, late


def test_imports_have_no_cycle() -> None:
    graph = {
        name: {
            other
            for imported, top in imports(path)
            if top and (other := imported.removeprefix("sftdata.")) in MODULES and other != name
        }
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) == len(MODULES) > 50


def test_exported_names_are_the_listed_ones() -> None:
    functions = ["build", "ingest", "inspect", "load_recipe", "open_shards", "train", "verify", "why"]
    decorators = ["cleaner", "formatter", "ingestor"]
    errors = [name for name in vars(sftdata.errors) if name.endswith("Error")]
    assert sorted(sftdata.__all__) == sorted([*functions, *decorators, "Drop", *errors])
    for name in sftdata.__all__:
        assert getattr(sftdata, name).__doc__, name
    assert (PACKAGE / "py.typed").is_file()


def test_every_public_function_and_class_says_what_it_is() -> None:
    seen = 0
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), name
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in [*tree.body, *(member for kind in classes for member in kind.body if not kind.name.startswith("_"))]:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                stub = any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)
                assert stub or ast.get_docstring(node), f"{name}.{node.name} says nothing"
                seen += 1
    assert seen > 200


def test_code_stays_within_its_budgets() -> None:
    sizes = []
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, f"{name} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                sizes.append(size)
                assert size <= 60, f"{name}.{node.name} has {size} lines"
    assert len(sizes) > 300 and sorted(sizes)[int(0.9 * len(sizes))] <= 30
