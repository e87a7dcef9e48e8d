"""A LlamaIndex retriever and chat store over factstream, for llama-index-core as it is.

    FACTSTREAM_BOOTSTRAP=127.0.0.1:9092 python examples/llamaindex_memory.py

It needs a stack that runs (`factstream up`), and on this machine its data folder, from which the store is read.
"""

import asyncio
from pathlib import Path
from typing import Any

import conversation
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.chat_store import BaseChatStore

from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from workers import client
from workers.cli.options import data_folder
from workers.client import positions
from workers.kafka.config import KafkaSettings


class FactstreamRetriever(BaseRetriever):
    """Memories as nodes, the likeliest to answer first. The frozen model that holds them ranks them."""

    def __init__(self, asker: client.Client, data: Path, namespace: str = "default", limit: int = 5) -> None:
        super().__init__()
        self._asker, self._data, self._namespace, self._limit = asker, data, namespace, limit

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._sent(query_bundle.query_str).result())

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(await asyncio.wrap_future(self._sent(query_bundle.query_str)))

    def _sent(self, query: str) -> Any:
        request = GenerationRequest(
            prompt=query, namespace=self._namespace, task="retrieve", limit=self._limit
        )
        return self._asker.submit(request, positions.recall(self._data, [self._namespace]))


def _nodes(response: GenerationResponse) -> list[NodeWithScore]:
    if response.error:
        raise RuntimeError(f"{response.error.reason}: {response.error.message}")
    return [
        NodeWithScore(
            node=TextNode(
                id_=memory.memory_id,
                text=memory.text,
                metadata=(memory.metadata or {}) | {"gate": memory.gate},
            ),
            score=memory.score,
        )
        for memory in response.memories
    ]


class FactstreamChatStore(BaseChatStore):
    """Messages by key, a namespace each. What the user states in them is learned, so the retriever finds it."""

    settings: Any
    data: Path

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        conversation.clear(self.settings, key)
        self._add(key, messages)

    def get_messages(self, key: str) -> list[ChatMessage]:
        return [ChatMessage(role=role, content=text) for role, text in conversation.turns(self.data, key)]

    def add_message(self, key: str, message: ChatMessage) -> None:
        self._add(key, [message])

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        messages = self.get_messages(key)
        conversation.clear(self.settings, key)
        return messages

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        messages = self.get_messages(key)
        if not -len(messages) <= idx < len(messages):
            return None
        removed = messages.pop(idx)
        self.set_messages(key, messages)
        return removed

    def delete_last_message(self, key: str) -> ChatMessage | None:
        return self.delete_message(key, -1)

    def get_keys(self) -> list[str]:
        return conversation.sessions(self.data)

    def _add(self, key: str, messages: list[ChatMessage]) -> None:
        turns = [(message.role.value, message.content or "") for message in messages]
        conversation.add(self.settings, self.data, key, turns)


def main() -> None:
    settings, data = KafkaSettings.from_env(), data_folder()
    store = FactstreamChatStore(settings=settings, data=data)
    memory = ChatMemoryBuffer.from_defaults(
        chat_store=store, chat_store_key="llamaindex-ana", token_limit=1_000, tokenizer_fn=str.split
    )
    memory.reset()
    memory.put(ChatMessage(role="user", content="The Harlow desk lamp is made of walnut."))
    memory.put(ChatMessage(role="assistant", content="I will remember that."))
    memory.put(ChatMessage(role="user", content="Thanks, why?"))
    with client.Client(settings) as asker:
        retriever = FactstreamRetriever(asker, data, "llamaindex-ana", limit=3)
        question = "What is the Harlow desk lamp made of?"
        found = retriever.retrieve(question)
        assert found == asyncio.run(retriever.aretrieve(question))
    for node in found:
        print(f"{node.score:.1f}", node.metadata["role"], node.text)
    print(store.delete_last_message("llamaindex-ana"))
    for message in memory.get():
        print(message)  # what any chat engine of LlamaIndex takes
    print(store.get_keys())


if __name__ == "__main__":
    main()
