"""Files of sample texts: lines or JSON Lines, and an error that names the line of what is wrong."""

from pathlib import Path

import pytest

from pipeline.ingest import samples
from pipeline.ingest.samples import read_samples


def file_of(folder: Path, content: bytes) -> Path:
    path = folder / "samples"
    path.write_bytes(content)
    return path


def test_each_line_is_a_text(tmp_path: Path) -> None:
    content = "\ufeffOne lamp.\r\n\r\n  naïve 東京 \n{not JSON, but a line}".encode()
    assert read_samples(file_of(tmp_path, content)) == ["One lamp.", "naïve 東京", "{not JSON, but a line}"]


def test_json_lines_have_a_text_each(tmp_path: Path) -> None:
    path = file_of(tmp_path, b'{"text": "One\\nlamp.", "key": 1}\n\n{"text": "Two."}\n')
    assert read_samples(path) == ["One\nlamp.", "Two."]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no texts"),
        (b"\n \n", "has no texts"),
        (b"good\nbad \xff\n", "line 2: it is not UTF-8"),
        (b'{"text": "a"}\n\nplain\n', "line 3: it is not JSON, as the first line is"),
        (b'{"text": "a"}\n{"texts": "b"}\n', "line 2: it has no `text`"),
        (b'{"text": 7}\n', "line 1: it has no `text`"),
        (b'{"text": " "}\n', "line 1: it has no `text`"),
        (b'{"text": "a"}\n["b"]\n', "line 2: it has no `text`"),
        (b"good\n" + b"x" * 65_537, "line 2: 65,537 bytes"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_samples(file_of(tmp_path, content))


def test_a_large_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="has 11 bytes; samples take 10 at most"):
        read_samples(file_of(tmp_path, b"a" * 11))
