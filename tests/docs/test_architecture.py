"""The map of docs/architecture.md: the files that it names exist, and each walk is short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MOST = {"The walk of a fact": 16, "The walk of an answer": 18}
"""Files that a newcomer has to read for each walk."""


def walk(page: str, title: str) -> list[str]:
    """The paths of the section's list, one a line: `- `path`: what it does`."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^(?:-|\d+\.) `([^`]+)`", section, re.MULTILINE)


def missing(page: str) -> list[str]:
    """The files and folders in code type that the repository does not have."""
    named = re.findall(r"`((?:schemas|pipeline|workers|tests|docs)/[^`\s*]*)`", page)
    return [path for path in named if not (ROOT / path).exists()]


def test_every_path_of_the_page_exists() -> None:
    assert missing(PAGE) == []


def test_a_path_that_does_not_exist_is_found() -> None:
    assert missing("- `pipeline/no_such_file.py`: nothing\n- `pipeline/memory_lm.py`: is there") == [
        "pipeline/no_such_file.py"
    ]


@pytest.mark.parametrize("title", MOST)
def test_a_walk_names_its_files_once_and_is_short(title: str) -> None:
    files = walk(PAGE, title)
    assert files == [path for path in dict.fromkeys(files) if (ROOT / path).is_file()]
    assert 0 < len(files) <= MOST[title]
