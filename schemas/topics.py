"""Topics: their names, the meaning of their keys, and how they are created."""

from dataclasses import dataclass, field

FACTS = "facts"
FACT_ENCODINGS = "fact-encodings"
MEMORY_CHANGELOG = "memory-changelog"
MEMORY_HITS = "memory-hits"
GENERATION_REQUESTS = "generation-requests"
GENERATION_RESPONSES = "generation-responses"
DEAD_LETTERS = "dead-letters"

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""`max.message.bytes` of all topics but dead-letters, unless a setting says otherwise; dead-letters take twice as much."""


@dataclass(frozen=True)
class Topic:
    name: str
    key: str
    purpose: str
    config: dict[str, str] = field(default_factory=dict)


TOPICS = [
    Topic(FACTS, "namespace", "The public input: facts, and requests to forget."),
    Topic(
        FACT_ENCODINGS,
        "namespace",
        "Facts with their loss delta and their vectors, from the encoder to the writer.",
    ),
    Topic(
        MEMORY_CHANGELOG,
        "namespace/memory_id",
        "The memory itself, compacted.",
        {"cleanup.policy": "compact"},
    ),
    Topic(MEMORY_HITS, "namespace", "Which memories answered, from the generator to the writer."),
    Topic(GENERATION_REQUESTS, "the request_id, or any", "Prompts to answer."),
    Topic(
        GENERATION_RESPONSES,
        "request_id",
        "Answers; a streamed one is sent in deltas before the complete one.",
    ),
    Topic(
        DEAD_LETTERS,
        "the original's",
        "Invalid records: the original bytes, with the reason in the headers.",
    ),
]
