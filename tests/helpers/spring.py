"""The headers of a request of Spring's ReplyingKafkaTemplate, byte by byte, and a check of its reply.

As in spring-kafka 3: the correlation is a UUID's two longs, most significant first; the reply partition is
`ByteBuffer.putInt`; texts are UTF-8. The key is null unless the caller gives one. JsonSerializer adds __TypeId__.
"""

CORRELATION = bytes.fromhex("0f8fad5bd9cb469fa16570867728950e")
SPRING: list[tuple[str, bytes | None]] = [
    ("__TypeId__", b"com.acme.shop.GenerationRequest"),
    ("tenant", b"acme"),
    ("kafka_replyTopic", b"replies"),
    ("kafka_replyPartition", b"\x00\x00\x00\x05"),
    ("kafka_correlationId", CORRELATION),
]
