"""What a hostile HTTP client sends to the APIs: noise, and good bodies with something wrong.

All of it is drawn from a `random.Random` that is passed in, so that a run can be repeated.
"""

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from tests.helpers.hostile import WRONG

CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
ADD, SEARCH, LIST, MCP = "/v3/memories/add/", "/v3/memories/search/", "/v3/memories/", "/mcp"
ACCEPTED = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
"""Without these MCP looks at no body."""
TOOLS = (
    "add_memory",
    "get_memories",
    "update_memory",
    "delete_memory",
    "delete_all_memories",
    "ask",
    "why",
    "no_such",
)
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {
        "model": "factstream", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 4, "temperature": 0.5,
        "top_p": 0.9, "seed": 1, "stop": ["."], "stream": False, "logprobs": True, "top_logprobs": 2, "user": "u",
        "metadata": {"namespace": "n"}, "n": 1,
    },
    COMPLETION: {
        "model": "factstream", "prompt": "one two", "max_tokens": 4, "temperature": 0, "logprobs": 1, "stream": True,
        "stream_options": {"include_usage": True}, "user": "u",
    },
    EMBEDDING: {"model": "factstream", "input": ["one", "two"], "encoding_format": "float", "dimensions": 2},
    ADD: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "I moved to Porto."}], "name": "Ana"}], "user_id": "u",
        "run_id": 7, "metadata": {"n": [1]}, "timestamp": 1_700_000_000, "infer": True, "expiration_date": "2099-01-01",
    },
    SEARCH: {
        "query": "one two", "filters": {"AND": [{"user_id": "tenant 1"}, {"NOT": [{"created_at": {"gte": "2026-01-01"}}]}]},
        "top_k": 5, "threshold": 0.1, "fields": ["memory"],
    },
    LIST: {"filters": {"user_id": {"in": ["tenant 1", "tenant 2"]}, "metadata": {"n": {"gt": 1}}}, "keywords": ["memory"]},
    MCP: {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "search_memories", "arguments": {"query": "one", "limit": 3, "metadata": {"n": 1}}},
    },
}  # fmt: skip
"""A body of each address, as it should be."""
HEADERS: Sequence[dict[str, str]] = (
    {}, {}, {}, {}, {"X-Factstream-Namespace": "\x80\xff"}, {"X-Factstream-Namespace": "a" * 5000},
    {"Content-Type": "text/plain"}, {"Authorization": "Bearer \xe9"}, {"Authorization": "Basic !"},
    {"traceparent": "00-" + "0" * 52}, {"Expect": "x"}, {"X-Factstream-Learn": "maybe"}, {"Content-Encoding": "gzip"},
)  # fmt: skip


class Attack(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def attack(dice: random.Random, others: Sequence[tuple[str, str]]) -> Attack:
    """One request. `others`: the methods and paths of further addresses."""
    path = dice.choice(sorted(GOOD) + [CHAT, COMPLETION, EMBEDDING] * 2)  # the others may read files
    body, method, headers = _body(dice, path), "POST", ACCEPTED | dice.choice(HEADERS)
    if others and dice.random() < 0.1:
        method, path = dice.choice(others)
    elif dice.random() < 0.03:
        path = dice.choice(
            ["/v1/", "/v1/../..//etc/passwd", "/v1/models/%00", "/v1/models/" + "%ff" * 999, "/v1/%2e%2e/"]
        )
    return Attack(method, path, headers, body)


def _body(dice: random.Random, path: str) -> bytes:
    good, chance = GOOD[path], dice.random()
    text = json.dumps(good).encode()
    if chance < 0.15:
        return dice.choice([b"", b"null", b"7", b"[]", b"\xff\xfe{}", dice.randbytes(dice.randint(1, 3000))])
    if chance < 0.25:
        return dice.choice(
            [
                text[: dice.randrange(len(text))],
                text * 2,
                text.replace(b":", b":NaN,", 1),
                b"\xef\xbb\xbf" + text,
            ]
        )
    if chance < 0.28:
        depth = dice.randint(1_000, 40_000)
        return b'{"messages":' + b"[" * depth + b"]" * depth + b"}"
    if chance < 0.29:
        return dice.choice([b" ", b"[", b"\x00"]) * dice.choice([300_000, 3 << 20])
    body: dict[str, Any] = json.loads(text)
    if path == MCP and dice.random() < 0.5:
        body["params"]["name"] = dice.choice(TOOLS)
    for _ in range(dice.randint(1, 3)):
        if dice.random() < 0.2:
            name = dice.choice(["tools", "__proto__", "x" * 500, "\x00", "learn", "response_format"])
            body[name] = deepcopy(dice.choice(WRONG))
        else:
            _spoil(dice, body)
    return json.dumps(body).encode()


def _spoil(dice: random.Random, value: Any) -> None:
    """Replaces or removes something at a random depth."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = dice.choice(keys)
        if isinstance(value[key], dict | list) and dice.random() < 0.6:
            value = value[key]
        elif isinstance(value, dict) and dice.random() < 0.2:
            del value[key]
            return
        else:
            value[key] = deepcopy(dice.choice(WRONG))
            return
