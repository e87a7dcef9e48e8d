"""Program of mem0's client, which test_client.py runs in an environment without this project."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from mem0 import AsyncMemoryClient, MemoryClient
from mem0.client.types import AddMemoryOptions, GetAllMemoryOptions, SearchMemoryOptions, UpdateMemoryOptions
from mem0.exceptions import MemoryNotFoundError, ValidationError

HOST = sys.argv[1]


def fails(
    kind: type[Exception], word: str, call: Callable[..., Any], *arguments: Any, **options: Any
) -> None:
    """The call fails with this error, whose text has this word."""
    try:
        call(*arguments, **options)
    except kind as error:
        assert word in str(error), error
        return
    raise AssertionError(f"{call} did not fail")


def together() -> None:
    memory = MemoryClient(api_key="none", host=HOST)
    assert memory.project.org_id == "factstream"
    options = AddMemoryOptions(
        filters={"user_id": "ann"}, infer=False, metadata={"n": 1}, expiration_date="2099-01-01"
    )
    tea = memory.add("Ann drinks tea at four.", options)["results"][0]
    said = [{"role": "user", "name": "Ann", "content": "I work as a nurse in Bergen. Hello!"}]
    job = memory.add(said, user_id="ann")["results"][0]
    assert tea["event"] == job["event"] == "ADD" and "Ann works as a nurse in Bergen" in job["memory"]

    mine = {"AND": [{"user_id": "ann"}]}
    page = memory.get_all(GetAllMemoryOptions(filters=mine, page=1, page_size=1))
    assert page["count"] == 2 and len(page["results"]) == 1 and page["next"] and page["previous"] is None
    assert memory.get_all(filters={"user_id": "ann", "metadata": {"n": 1}})["results"][0]["id"] == tea["id"]
    found = memory.search(
        "When does Ann drink tea?", SearchMemoryOptions(filters=mine, top_k=1, threshold=0.0)
    )["results"]
    assert found[0]["id"] == tea["id"] and 0 < found[0]["score"] <= 1
    assert memory.get(tea["id"])["expiration_date"] == "2099-01-01"

    assert memory.add("Ann drinks tea at four.", user_id="ann", infer=False)["results"][0]["event"] == "NONE"
    assert memory.update(tea["id"], UpdateMemoryOptions(text="Ann drinks coffee at four."))["id"] == tea["id"]
    assert memory.update(tea["id"], metadata={"n": 2}, expiration_date="2098-01-01")["metadata"] == {"n": 2}
    assert memory.update(tea["id"], expiration_date=None)["expiration_date"] is None
    assert memory.batch_update([{"memory_id": tea["id"], "text": "Ann drinks cocoa at four."}])["message"]
    assert memory.get(tea["id"])["memory"] == "Ann drinks cocoa at four."
    events = [event["event"] for event in memory.history(tea["id"])]
    assert events[0] == "ADD" and set(events[1:]) == {"UPDATE"}, events
    memory.delete(tea["id"])
    fails(MemoryNotFoundError, tea["id"], memory.get, tea["id"])
    memory.batch_delete([{"memory_id": job["id"]}])
    assert memory.get_all(filters=mine)["count"] == 0

    memory.add("The agent speaks Norwegian.", agent_id="guide", infer=False)
    memory.add("The run began at noon.", user_id="ann", run_id="7", infer=False)
    assert {one["type"] for one in memory.users()["results"]} == {"agent", "user", "run"}
    assert (
        memory.delete_all(user_id="ann")["message"]
        and memory.get_all(filters={"run_id": "7", "user_id": "*"})["count"] == 1
    )
    memory.delete_users(run_id="7")
    memory.reset()
    assert memory.users()["results"] == []

    fails(ValidationError, "custom_instructions", memory.add, "x", user_id="a", custom_instructions="y")
    fails(ValidationError, "nope", memory.search, "x", filters={"user_id": "a", "nope": 1})
    for call in (memory.get_summary, memory.get_profile_settings, memory.project.get):
        fails(ValidationError, "no equal", call)
    fails(ValidationError, "no equal", memory.feedback, "0" * 32, "POSITIVE")
    fails(ValidationError, "no equal", memory.create_memory_export, "{}")
    fails(ValidationError, "no equal", memory.get_webhooks, "factstream")
    fails(ValidationError, "no equal", memory.get_profile, "ann")


async def one_by_one() -> None:
    async with AsyncMemoryClient(api_key="none", host=HOST) as memory:
        texts = [f"Gate {n} leads to platform {n}." for n in range(5)]
        added = await asyncio.gather(*(memory.add(text, user_id="station", infer=False) for text in texts))
        ids = {one["results"][0]["id"] for one in added}
        assert (
            len(ids) == 5
            and {one["id"] for one in (await memory.get_all(filters={"user_id": "station"}))["results"]}
            == ids
        )
        found = await memory.search("Where does gate 3 lead?", filters={"user_id": "station"})
        assert found["results"][0]["memory"] == texts[3]
        await memory.delete_all(user_id="station")
        assert (await memory.get_all(filters={"user_id": "station"}))["count"] == 0


together()
asyncio.run(one_by_one())
print("done")
