"""A LangChain retriever and chat history over factstream, for langchain-core as it is.

    FACTSTREAM_BOOTSTRAP=127.0.0.1:9092 python examples/langchain_memory.py

It needs a stack that runs (`factstream up`), and on this machine its data folder, from which the history is read.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import conversation
from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever

from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from workers import client
from workers.cli.options import data_folder
from workers.client import positions
from workers.kafka.config import KafkaSettings

ROLES = {"human": "user", "ai": "assistant"}
KINDS = {"user": HumanMessage, "assistant": AIMessage, "system": SystemMessage}


class FactstreamRetriever(BaseRetriever):
    """Memories as documents, the likeliest to answer first. The frozen model that holds them ranks them."""

    asker: client.Client
    data: Path
    namespace: str = "default"
    k: int = 5

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return _documents(self._sent(query).result())

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return _documents(await asyncio.wrap_future(self._sent(query)))

    def _sent(self, query: str) -> "client.asking.Future[GenerationResponse]":
        request = GenerationRequest(prompt=query, namespace=self.namespace, task="retrieve", limit=self.k)
        return self.asker.submit(request, positions.recall(self.data, [self.namespace]))


def _documents(response: GenerationResponse) -> list[Document]:
    if response.error:
        raise RuntimeError(f"{response.error.reason}: {response.error.message}")
    return [
        Document(
            id=memory.memory_id,
            page_content=memory.text,
            metadata=(memory.metadata or {}) | {"score": memory.score, "gate": memory.gate},
        )
        for memory in response.memories
    ]


class FactstreamChatHistory(BaseChatMessageHistory):
    """The messages of a session. What the user states in them is learned, so the retriever finds it in any later session."""

    def __init__(self, settings: KafkaSettings, data: Path, session: str) -> None:
        super().__init__()
        self.settings, self.data, self.session = settings, data, session

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        turns = conversation.turns(self.data, self.session)
        return [KINDS.get(role, AIMessage)(content=text) for role, text in turns]

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        turns = [(ROLES.get(message.type, message.type), str(message.text)) for message in messages]
        conversation.add(self.settings, self.data, self.session, turns)

    def clear(self) -> None:
        conversation.clear(self.settings, self.session)


def main() -> None:
    settings, data = KafkaSettings.from_env(), data_folder()
    history = FactstreamChatHistory(settings, data, "langchain-ana")
    history.clear()
    history.add_messages(
        [
            HumanMessage("The Harlow desk lamp is made of walnut."),
            AIMessage("I will remember that."),
            HumanMessage("Thanks, why?"),
        ]
    )
    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", "These facts are known:\n{facts}"),
            MessagesPlaceholder("history"),
            ("human", "{question}"),
        ]
    )
    with client.Client(settings) as asker:
        retriever = FactstreamRetriever(asker=asker, data=data, namespace="langchain-ana", k=3)
        question = "What is the Harlow desk lamp made of?"
        found = retriever.invoke(question)
        assert found == asyncio.run(retriever.ainvoke(question))
    for document in found:
        print(f"{document.metadata['score']:.1f}", document.metadata["role"], document.page_content)
    facts = "\n".join(document.page_content for document in found)
    filled = prompt.invoke({"facts": facts, "history": history.messages, "question": question})
    print(filled.to_string())  # what any chat model of LangChain takes


if __name__ == "__main__":
    main()
