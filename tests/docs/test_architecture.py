"""The files and tests that the pages name exist, and the walks of docs/architecture.md are short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = {
    page.name: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
MOST = {"The walk of a fact": 16, "The walk of an answer": 18}
"""Files that a newcomer has to read for each walk."""


def missing_files(page: str) -> list[str]:
    """The files of the repository that the page names and that are not there."""
    named = re.findall(
        r"(?<![\w/.])((?:schemas|pipeline|workers|tests|examples|deploy)/[\w./-]*\w\.\w+)", page
    )
    return [path for path in named if not (ROOT / path).exists()]


def missing_tests(page: str) -> list[str]:
    """The words after `-k` that are in no test of the files before it."""
    missing = []
    for files, words in re.findall(r"`pytest ((?:tests/\S+ )+)-k \"?([\w ]+)\"?`", page):
        names = [
            name
            for path in files.split()
            for name in re.findall(r"def (test_\w+)", (ROOT / path).read_text())
        ]
        missing += [
            word
            for word in words.split()
            if word not in ("and", "or", "not") and not any(word in name for name in names)
        ]
    return missing


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_file_and_test_that_a_page_names_exists(name: str) -> None:
    assert missing_files(PAGES[name]) == []
    assert missing_tests(PAGES[name]) == []


def test_a_file_or_a_test_that_does_not_exist_is_found() -> None:
    page = '`pipeline/no_such_file.py`, `pipeline/memory_lm.py`, `pytest tests/faults/test_crash.py -k "wiped or eaten"`'
    assert missing_files(page) == ["pipeline/no_such_file.py"]
    assert missing_tests(page) == ["eaten"]


@pytest.mark.parametrize("title", MOST)
def test_a_walk_names_each_of_its_files_once_and_is_short(title: str) -> None:
    section = PAGES["architecture.md"].split(f"## {title}\n")[1].split("\n## ")[0]
    files = re.findall(r"^(?:-|\d+\.) `([^`]+)`", section, re.MULTILINE)
    assert files == [path for path in dict.fromkeys(files) if (ROOT / path).is_file()]
    assert 0 < len(files) <= MOST[title]
