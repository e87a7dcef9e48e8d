"""Chats that are learned from: what is published, and that the next answer waits for it."""

from typing import Any

from schemas import topics
from schemas.fact import Conversation, decode_fact
from tests.conftest import wait_until
from tests.http.openai.conftest import Gateway
from workers.client import positions
from workers.client.tail import Tail
from workers.kafka.admin import ensure_topics

TURNS: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": [{"type": "text", "text": "I moved to"}, {"type": "text", "text": "Porto."}]},
]


def published(tail: Tail, count: int) -> list[tuple[str, Conversation]]:
    found: list[tuple[str, Conversation]] = []

    def arrived() -> bool:
        for record in tail.poll():
            decoded = decode_fact(record.key, record.value)
            assert isinstance(decoded.message, Conversation)
            found.append((decoded.namespace, decoded.message))
        return len(found) >= count

    wait_until(arrived)
    return found


def test_what_the_user_said_last_is_published_where_it_is_asked_for(gateway: Gateway) -> None:
    ensure_topics(gateway.settings)
    tail = Tail(gateway.settings, (topics.FACTS,))
    with gateway.client() as client:

        def chat(**options: Any) -> Any:
            return client.chat.completions.create(model="factstream", messages=TURNS, user="ana", **options)

        header = {"X-Factstream-Learn": "true"}
        told = [
            chat(extra_body={"learn": True}), chat(extra_headers=header), chat(),
            chat(extra_headers=header, extra_body={"learn": False}),
        ]  # fmt: skip
        client.completions.create(model="factstream", prompt="Tea is green.", extra_body={"learn": True})
        records = published(tail, 3)
    assert [answer.factstream.get("learned") for answer in told] == [True, True, None, None]
    assert [namespace for namespace, _ in records] == ["ana", "ana", "default"]
    for _, conversation in records[:2]:
        (said,) = conversation.messages
        assert (said.role, said.content) == ("user", "I moved to\nPorto.")
    assert len(records) == 3 and not tail.poll(), "nothing else was published"
    tail.close()


def test_the_next_answer_waits_for_what_was_learned(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.completions.create(
            model="factstream", prompt="Tea is green.", extra_body={"learn": True}, user="ana"
        )
        client.completions.create(model="factstream", prompt="Tea is", user="ana")
        client.completions.create(model="factstream", prompt="Tea is", user="bob")
        late = client.completions.create(model="factstream", prompt="behind", user="ana")
    first, mine, others, refused, again = gateway.asked
    assert not first.after, "an answer does not wait for its own question"
    assert mine.after and set(mine.after) == {"ana"} and not others.after
    assert positions.recall(gateway.data, ["ana"]) == mine.after
    assert refused.after and not again.after and late.choices[0].text == "behind", "late is better than none"
