"""Searches over several namespaces, of generators that hold every memory and of those that hold some."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pipeline.memory.bank import memory_id
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseError, UsedMemory
from tests.memories.samples import learned, write
from workers.memories.filters import Where
from workers.memories.service import Memories

TEXTS = {
    "ann": ("Ann likes tea.", 0.2, 3.0),
    "bob": ("Bob likes gin.", 0.9, 2.0),
    "eve": ("Eve likes rum.", 0.0, 9.0),
}


class Generators:
    """A client of generators, which may answer for one namespace at a time only."""

    def __init__(self, partitioned: bool) -> None:
        self.partitioned, self.asked = partitioned, list[list[str]]()

    async def ask(self, request: GenerationRequest, recent: Any) -> GenerationResponse:
        self.asked.append(request.namespaces)
        if self.partitioned and len(request.namespaces) > 1:
            error = ResponseError(reason="namespaces-apart", message="ask for each namespace by itself")
            return GenerationResponse(request_id="r", finish_reason="error", error=error)
        hits = []
        for space in request.namespaces:
            text, gate, score = TEXTS[space]
            hits.append(
                UsedMemory(
                    memory_id=memory_id(space, text), namespace=space, text=text, score=score, gate=gate
                )
            )
        hits.sort(key=lambda hit: (hit.gate, hit.score), reverse=True)
        return GenerationResponse(request_id="r", finish_reason="stop", memories=hits)


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_search_over_several_namespaces_finds_the_best_of_all(tmp_path: Path, partitioned: bool) -> None:
    data = write(tmp_path, [learned(n, space, TEXTS[space][0]) for n, space in enumerate(TEXTS)])
    generators: Any = Generators(partitioned)
    found = asyncio.run(Memories(generators, data).search("who?", Where(), 2))
    assert [one.memory.memory for one in found] == ["Bob likes gin.", "Ann likes tea."]
    assert [len(spaces) for spaces in generators.asked] == ([1, 1, 1] if partitioned else [3])
