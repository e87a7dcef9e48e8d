"""The return address of a request, from the headers as clients send them."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.common import BadMessage, validate
from schemas.reply import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    reply_place,
    return_address,
    takes_one_reply,
)
from schemas.response import GenerationResponse
from tests.helpers.spring import CORRELATION, SPRING

PLACE = (3, 1042, 1_790_000_000_000)
FASTSTREAM = [
    ("correlation_id", b"7b1f0a2e-5a9c-4a55-9c38-0f1d2e3c4b5a"),
    ("content-type", b"application/json"),
    ("reply_to", b"answers"),
]


def test_spring_is_answered_by_its_correlation_at_its_partition() -> None:
    address = return_address(None, SPRING, *PLACE)
    assert address.request_id == uuid.UUID(bytes=CORRELATION).hex
    assert address.headers == (("kafka_correlationId", CORRELATION), ("tenant", b"acme"))
    assert reply_place(SPRING) == ("replies", 5) and takes_one_reply(SPRING)


def test_faststream_is_answered_by_its_correlation() -> None:
    address = return_address(None, FASTSTREAM, *PLACE)
    assert address.request_id == FASTSTREAM[0][1].decode() and address.headers == (FASTSTREAM[0],)
    assert reply_place(FASTSTREAM) == ("answers", None) and takes_one_reply(FASTSTREAM)


@pytest.mark.parametrize(
    ("key", "headers", "request_id"),
    [
        (b"r-1", SPRING, "r-1"),
        (b"no request id", SPRING, CORRELATION.hex()),
        (None, [("kafka_correlationId", b"a-text-of-Springs")], "a-text-of-Springs"),
        (None, [("kafka_correlationId", b"sixteen-letters.")], b"sixteen-letters.".hex()),
        (None, [("correlation_id", b"order-1234567890")], "order-1234567890"),
        (None, [("correlation_id", b"\xff\x00")], "ff00"),
        (None, [("correlation_id", b"\xff" * 65)], "generation-requests:3:1042:1790000000000"),
        (None, [("correlation_id", None)], "generation-requests:3:1042:1790000000000"),
        (b"", [], "generation-requests:3:1042:1790000000000"),
        (b"r\n", [], "generation-requests:3:1042:1790000000000"),
    ],
)
def test_a_request_without_an_id_as_its_key_gets_one(
    key: bytes | None, headers: list[tuple[str, bytes | None]], request_id: str
) -> None:
    assert return_address(key, headers, *PLACE).request_id == request_id


def test_headers_about_the_bytes_of_the_request_do_not_come_back() -> None:
    theirs = [
        "__TypeId__", "__value_schema_id", "ce_id", "content-type", "traceparent", "factstream.error", "reply_to",
        "kafka_replyTopic", "kafka_nativeHeaders",
    ]  # fmt: skip
    address = return_address(None, [(name, b"x") for name in [*theirs, "tenant", "content-language"]], *PLACE)
    assert [name for name, _ in address.headers] == ["tenant", "content-language"]


def test_headers_that_come_back_are_bounded() -> None:
    many: list[tuple[str, bytes | None]] = [(f"h{n}", b"x") for n in range(60)]
    assert len(return_address(None, [*many, *SPRING], *PLACE).headers) == MAX_HEADERS
    large = [("large", b"x" * MAX_HEADER_BYTES), ("small", b"x"), *SPRING]
    assert [name for name, _ in return_address(None, large, *PLACE).headers] == [
        "kafka_correlationId", "small", "tenant"
    ]  # fmt: skip


@pytest.mark.parametrize("number", [b"", b"5", b"\x00" * 8])
def test_a_partition_that_is_no_integer_is_refused(number: bytes) -> None:
    with pytest.raises(BadMessage, match="kafka_replyPartition") as caught:
        reply_place([("kafka_replyPartition", number)])
    assert caught.value.reason == "invalid-header"


@given(
    st.none() | st.binary(max_size=200),
    st.lists(st.tuples(st.text(max_size=30), st.none() | st.binary(max_size=5000)), max_size=64),
)
def test_any_record_has_an_address(key: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
    address = return_address(key, headers, *PLACE)
    validate(GenerationResponse, {"request_id": address.request_id, "finish_reason": "stop"})
    assert (
        sum(len(name.encode("utf-8", "replace")) + len(value) for name, value in address.headers)
        <= MAX_HEADER_BYTES
    )
