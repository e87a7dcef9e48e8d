"""The unmodified `openai` client against the gateway: sync, async and streaming."""

import asyncio
import math
from typing import Any

import openai
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from tests.http.conftest import serve
from tests.http.fake_model import memory_of
from tests.http.openai.conftest import Gateway

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]


def test_a_chat_and_the_memories_that_spoke(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.chat.completions.create(
            model="factstream", messages=HI, max_tokens=2, temperature=0.5, top_p=0.9, seed=7,
            metadata={"namespace": "ada"},
        )  # fmt: skip
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant" and choice.message.content == "one two"
    assert choice.finish_reason == "length" and choice.logprobs is None
    assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        3, 2, 5
    )  # fmt: skip
    extra = answer.factstream  # type: ignore[attr-defined]
    assert extra["namespace"] == "ada"
    ((memory),) = extra["memories"]
    assert memory["memory_id"] == memory_of("ada").memory_id and memory["gate"] == 0.9
    assert memory["text"] == "a memory of ada" and memory["metadata"] == {"page": 3}
    (asked,) = gateway.asked
    assert (asked.max_new_tokens, asked.temperature, asked.top_p, asked.seed) == (2, 0.5, 0.9, 7)
    assert asked.messages and asked.messages[0].content == "one two three" and asked.use_memory
    assert asked.deadline is not None


def chunks_of(client: openai.OpenAI, **options: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(model="factstream", messages=HI, stream=True, **options))


def test_a_stream_has_the_text_in_chunks_then_memories_and_usage(gateway: Gateway) -> None:
    with gateway.client() as client:
        chunks = list(
            client.chat.completions.create(
                model="factstream",
                messages=HI,
                stream=True,
                stream_options={"include_usage": True},
                user="ada",
            )
        )
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "one two three" and len([text for text in said if text]) == 3
    *_, last, counted = chunks
    assert last.choices[0].finish_reason == "stop" and last.factstream["memories"][0]["namespace"] == "ada"  # type: ignore[attr-defined]
    assert counted.choices == [] and counted.usage and counted.usage.total_tokens == 6
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_usage_ends_with_its_last_choice(gateway: Gateway) -> None:
    with gateway.client() as client:
        chunks = list(
            client.chat.completions.create(model="factstream", messages=HI, stream=True, max_tokens=1)
        )
    assert chunks[-1].choices[0].finish_reason == "length" and chunks[-1].usage is None


def test_the_async_client_streams_many_at_once_each_its_own(gateway: Gateway) -> None:
    async def ask(client: openai.AsyncOpenAI, name: str) -> tuple[str, list[str]]:
        stream = await client.chat.completions.create(
            model="factstream", messages=[{"role": "user", "content": f"I am {name}"}], stream=True, user=name
        )
        text, spoke = "", list[str]()
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            spoke += [m["namespace"] for m in getattr(chunk, "factstream", {"memories": []})["memories"]]
        return text, spoke

    async def ask_all() -> list[tuple[str, list[str]]]:
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*[ask(client, f"user {n}") for n in range(20)])

    for n, (text, spoke) in enumerate(asyncio.run(ask_all())):
        assert text == f"I am user {n}" and spoke == [f"user {n}"]


def test_completions_whole_and_streamed(gateway: Gateway) -> None:
    with gateway.client() as client:
        whole = client.completions.create(
            model="factstream", prompt="one two END three", stop=["END"], logprobs=2
        )
        chunks = list(
            client.completions.create(model="factstream", prompt=["one two"], stream=True, logprobs=1)
        )
    choice = whole.choices[0]
    assert whole.object == "text_completion" and choice.text == "one two" and choice.finish_reason == "stop"
    assert choice.logprobs and choice.logprobs.tokens == ["one", " two"]
    assert choice.logprobs.token_logprobs == [-0.5, -0.5] and choice.logprobs.text_offset == [0, 3]
    assert choice.logprobs.top_logprobs == [{"w0": -1.0, "w1": -2.0}] * 2
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "stop" and chunks[-1].choices[0].logprobs is None
    offsets = [part.text_offset for chunk in chunks if (part := chunk.choices[0].logprobs)]
    assert offsets == [[0], [3]], "of the whole answer"
    assert gateway.asked[0].max_new_tokens == 16 and gateway.asked[0].prompt == "one two END three"


def test_logprobs_of_a_chat_whole_and_streamed(gateway: Gateway) -> None:
    with gateway.client() as client:
        whole = client.chat.completions.create(
            model="factstream", messages=HI, logprobs=True, top_logprobs=2
        ).choices[0]
        parts = [chunk.choices[0].logprobs for chunk in chunks_of(client, logprobs=True, top_logprobs=2)]
    assert [len(part.content or []) if part else 0 for part in parts] == [0, 1, 1, 1, 0], "with their chunk"
    streamed = [token for part in parts if part for token in part.content or []]
    assert whole.logprobs and whole.logprobs.content and streamed == whole.logprobs.content
    token = whole.logprobs.content[1]
    assert (token.token, token.logprob, token.bytes) == (" two", -0.5, list(b" two"))
    assert [one.token for one in token.top_logprobs] == ["w0", "w1"]


def test_embeddings_in_both_encodings_and_fewer_dimensions(gateway: Gateway) -> None:
    texts = ["a", "bb", "c" * 60_000, "d" * 60_000]
    with gateway.client() as client:

        def embed(**options: object) -> CreateEmbeddingResponse:
            return client.embeddings.create(model="factstream", input=texts, **options)  # type: ignore[arg-type]

        packed, plain, short = embed(), embed(encoding_format="float"), embed(dimensions=2)
        one = client.embeddings.create(model="factstream", input="bb")
        with pytest.raises(openai.BadRequestError, match="4 dimensions"):
            embed(dimensions=5)
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert [item.index for item in plain.data] == [0, 1, 2, 3]
    assert plain.data[1].embedding == one.data[0].embedding == [0, 0, 1, 0]
    assert all(len(item.embedding) == 2 for item in short.data)
    assert math.isclose(math.hypot(*short.data[0].embedding), 1.0)
    assert packed.usage.prompt_tokens == 4 == packed.usage.total_tokens


def test_models_and_the_bare_one(gateway: Gateway) -> None:
    with gateway.client() as client:
        assert [model.id for model in client.models.list()] == ["factstream", "factstream-bare"]
        assert client.models.retrieve("factstream-bare").owned_by == "factstream"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4o")
        bare = client.chat.completions.create(model="factstream-bare", messages=HI)
    assert bare.factstream["memories"] == [] and not gateway.asked[0].use_memory  # type: ignore[attr-defined]


def test_a_token_is_asked_for_where_one_is_set(gateway: Gateway) -> None:
    token = "a token of 26 characters."
    running = serve(gateway.settings, gateway.data, token)
    try:
        for key in (token, token[:-1]):
            with openai.OpenAI(base_url=f"{running.url}v1", api_key=key, max_retries=0) as client:
                if key == token:
                    assert client.models.list().data
                    continue
                with pytest.raises(openai.AuthenticationError) as refused:
                    client.models.list()
                assert refused.value.code == "invalid_api_key"
    finally:
        running.end()
