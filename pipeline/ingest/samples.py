"""A file of sample texts, such as a calibration takes: one text a line, or JSON Lines with `text`.

A file is JSON Lines if its first line is a JSON object; then every line must be one. Empty lines are left out.
"""

from pathlib import Path

import orjson

MOST_BYTES = 64 << 20  # of a file, which is read at once
LONGEST = 65_536  # bytes of a line: as long as a fact may be


def read_samples(path: Path) -> list[str]:
    """The texts, in order. Raises OSError, and ValueError with the line of what is wrong."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes; samples take {MOST_BYTES:,} at most: a tenth of them will do"
        )
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path} has no texts")
    as_json = numbered[0][1].lstrip().startswith(b"{")
    return [_text(line, as_json, f"{path}, line {number}") for number, line in numbered]


def _text(line: bytes, as_json: bool, where: str) -> str:
    if len(line) > LONGEST:
        raise ValueError(f"{where}: {len(line):,} bytes; a text has {LONGEST:,} at most")
    try:
        if not as_json:
            return line.decode().strip()
        value = orjson.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: it is not UTF-8") from error
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{where}: it is not JSON, as the first line is: {error}") from error
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: it has no `text`")
    return text
