"""The source offset of a fact that the embedded broker was given again."""

from types import SimpleNamespace

import pytest

from workers.encode.events import decode
from workers.kafka.first_offset import HEADER, with_first_offset


def cause(header: bytes, embedded: bool) -> tuple[str, int, int]:
    record = SimpleNamespace(
        key=b"a", value=b'{"text": "x"}', headers=[(HEADER, header)], timestamp=1, partition=2, offset=9
    )
    found = decode(record, "new", False, embedded).cause
    return found.topic_id, found.partition, found.offset


def test_a_fact_that_is_published_again_keeps_its_first_offset() -> None:
    assert cause(b"old/1/5", embedded=True) == ("old", 1, 5)
    headers = with_first_offset([("a", b"b"), (HEADER, b"nonsense")], "old", 1, 5)
    assert headers == [(HEADER, b"old/1/5"), ("a", b"b")]
    assert with_first_offset(headers, "new", 2, 9) == headers


def test_a_cluster_that_others_write_to_has_no_such_facts() -> None:
    assert cause(b"old/1/5", embedded=False) == ("new", 2, 9)


@pytest.mark.parametrize(
    "void", [b"new/1/5", b"old/1", b"old/1/-5", b"old/1/9999999999999999999", b"a b/1/5", b""]
)
def test_a_header_that_is_no_first_offset_is_void(void: bytes) -> None:
    assert cause(void, embedded=True) == ("new", 2, 9)
