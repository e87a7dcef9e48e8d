"""mem0's addresses on a running stack: a memory's life, pages, events, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import wait_until
from tests.helpers.served import Served, served
from workers.http.mem0.routes import _REFUSED
from workers.memories import changes


@pytest.fixture(scope="module")
def stack(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(llama, tmp_path_factory.mktemp("mem0")) as running:
        yield running


def add(stack: Served, text: str, **fields: Any) -> dict[str, Any]:
    """What became of a text that is stored as it is."""
    body = {"messages": [{"role": "user", "content": text}], "infer": False, **fields}
    status, answer = stack.call("POST", "/v3/memories/add/", body)
    assert (status, answer["status"]) == (200, "SUCCEEDED"), answer
    found: dict[str, Any] = answer["results"][0]
    return found


def listed(stack: Served, query: str = "", **body: Any) -> dict[str, Any]:
    status, answer = stack.call("POST", f"/v3/memories/{query}", body)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def test_a_memory_is_added_changed_and_deleted_under_one_id(stack: Served) -> None:
    fields = {"user_id": "ann@example.com", "metadata": {"topic": "food"}, "expiration_date": "2099-12-31"}
    added = add(stack, "Ann loves tiramisu.", **fields)
    assert added["event"] == "ADD" and added["memory"] == "Ann loves tiramisu."
    address = f"/v1/memories/{added['id']}/"
    one = stack.call("GET", address)[1]
    assert (one["user_id"], one["run_id"], one["metadata"]) == ("ann@example.com", None, {"topic": "food"})
    assert (one["memory"], one["expiration_date"]) == ("Ann loves tiramisu.", "2099-12-31")

    changed = stack.call("PUT", address, {"text": "Ann loves panna cotta."})[1]
    again = stack.call(
        "PUT", address, {"text": "Ann loves figs.", "metadata": {"topic": "fruit"}, "expiration_date": None}
    )[1]
    assert changed["id"] == again["id"] == added["id"] and changed["expiration_date"] == "2099-12-31"
    assert stack.call("GET", address)[1] == again
    assert (again["memory"], again["metadata"], again["expiration_date"]) == (
        "Ann loves figs.",
        {"topic": "fruit"},
        None,
    )
    assert listed(stack, filters={"user_id": "ann@example.com"})["results"] == [again]

    assert stack.call("DELETE", address)[0] == 200
    assert stack.call("GET", address)[0] == stack.call("DELETE", address)[0] == 404
    events = stack.call("GET", f"{address}history/")[1]
    assert [(one["event"], one["old_memory"], one["new_memory"]) for one in events] == [
        ("ADD", None, "Ann loves tiramisu."),
        ("UPDATE", "Ann loves tiramisu.", "Ann loves panna cotta."),
        ("UPDATE", "Ann loves panna cotta.", "Ann loves figs."),
        ("DELETE", "Ann loves figs.", None),
    ]
    assert listed(stack, filters={"user_id": "ann@example.com"})["count"] == 0


def test_what_replaces_or_repeats_is_told_as_such(stack: Served) -> None:
    first = add(stack, "Acme is based in Bonn.", user_id="acme")
    second = add(stack, "Acme is based in Kiel.", user_id="acme")
    third = add(stack, "Acme is based in Kiel.", user_id="acme")
    assert (second["event"], second["previous_memory"]) == ("UPDATE", "Acme is based in Bonn.")
    assert (third["event"], third["id"]) == ("NONE", second["id"])
    status, error = stack.call("GET", f"/v1/memories/{first['id']}/")
    assert status == 404 and second["id"] in error["detail"]
    linked = f"/v1/memories/{second['id']}/?delete_linked=true"
    assert stack.call("DELETE", linked)[0] == 200
    assert [one["event"] for one in stack.call("GET", f"/v1/memories/{first['id']}/history/")[1]] == [
        "ADD",
        "UPDATE",
        "DELETE",
    ]


def test_a_conversation_is_remembered_by_what_its_speaker_states(stack: Served) -> None:
    said = [
        {"role": "user", "name": "Ana", "content": "Hello there! I moved to Porto last year."},
        {"role": "assistant", "content": "Porto is by the sea."},
        {"role": "user", "name": "Ana", "content": [{"type": "text", "text": "Who is the mayor of it?"}]},
    ]
    body = {
        "messages": said,
        "user_id": "ana",
        "run_id": "7",
        "metadata": {"n": 1},
        "timestamp": 1_700_000_000,
    }
    status, answer = stack.call("POST", "/v3/memories/add/", body)
    assert status == 200 and [one["event"] for one in answer["results"]] == ["ADD"]
    assert "Ana moved to Porto" in answer["results"][0]["memory"]
    (found,) = listed(stack, filters={"user_id": "ana", "run_id": "*"})["results"]
    assert (found["run_id"], found["metadata"]["n"], found["created_at"][:10]) == ("7", 1, "2023-11-14")
    assert listed(stack, filters={"user_id": "ana"})["results"] == []
    status, event = stack.call("GET", f"/v1/event/{answer['event_id']}/")
    assert (status, event["status"], event["results"]) == (200, "SUCCEEDED", answer["results"])


def test_a_search_finds_within_its_user_and_conditions(stack: Served) -> None:
    for user in ("kim", "lee"):
        add(stack, f"The lamp of {user} is made of walnut.", user_id=user, metadata={"room": user})
        add(stack, f"The harbour of {user} lies in the north.", user_id=user)
    query = {"query": "What is the lamp made of?", "filters": {"user_id": "kim"}, "threshold": 0}
    found = stack.call("POST", "/v3/memories/search/", query)[1]["results"]
    assert found[0]["memory"] == "The lamp of kim is made of walnut." and {
        one["user_id"] for one in found
    } == {"kim"}
    assert all(0 <= one["score"] <= 1 for one in found) and found == sorted(
        found, key=lambda one: -one["score"]
    )
    both = query | {
        "filters": {"user_id": {"in": ["kim", "lee"]}},
        "metadata": {"room": "lee"},
        "fields": ["memory"],
    }
    (one,) = stack.call("POST", "/v3/memories/search/", both)[1]["results"]
    assert one["memory"] == "The lamp of lee is made of walnut." and set(one) == {"id", "memory", "score"}
    assert len(stack.call("POST", "/v3/memories/search/", query | {"top_k": 1})[1]["results"]) == 1
    assert stack.call("POST", "/v3/memories/search/", query | {"threshold": 1})[1]["results"] == []
    assert (
        stack.call("POST", "/v3/memories/search/", query | {"filters": {"user_id": "nobody"}})[1]["results"]
        == []
    )


def test_pages_entities_and_whole_users(stack: Served) -> None:
    for n in range(3):
        add(stack, f"Row {n} of the ledger is about the number {n}.", agent_id="clerk", app_id="a/b & c")
    add(stack, "The clerk likes tea.", agent_id="clerk")
    both = {"agent_id": "clerk", "app_id": "a/b & c"}
    pages = [listed(stack, f"?page={n}&page_size=2", filters=both) for n in (1, 2, 3)]
    assert [len(page["results"]) for page in pages] == [2, 1, 0] and {page["count"] for page in pages} == {3}
    assert "page=2" in pages[0]["next"] and pages[1]["next"] is None and "page=1" in pages[1]["previous"]
    assert len({one["id"] for page in pages for one in page["results"]}) == 3
    entities = {
        (one["type"], one["name"]): one["total_memories"]
        for one in stack.call("GET", "/v1/entities/")[1]["results"]
    }
    assert entities["agent", "clerk"] == 4 and entities["app", "a/b & c"] == 3
    assert stack.call("DELETE", "/v1/memories/?agent_id=clerk")[0] == 200
    assert (
        listed(stack, filters={"agent_id": "clerk"})["count"] == 0
        and listed(stack, filters=both)["count"] == 3
    )
    name = quote("a/b & c", safe="")
    assert stack.call("DELETE", f"/v2/entities/app/{name}/")[0] == 200
    assert stack.call("DELETE", f"/v2/entities/app/{name}/")[0] == 404
    assert listed(stack, filters=both)["count"] == 0


def test_a_batch_is_changed_and_deleted_or_nothing_is(stack: Served) -> None:
    ids = [add(stack, f"Batch fact {n} is about {n}.", user_id="batch")["id"] for n in range(2)]
    updates = [{"memory_id": id, "text": f"Batch fact {n} became {n}."} for n, id in enumerate(ids)]
    missing = {"memory_id": "0" * 32, "text": "No such fact is there."}
    assert stack.call("PUT", "/v1/batch/", {"memories": [*updates, missing]})[0] == 404
    assert (
        stack.call("DELETE", "/v1/batch/", {"memories": [{"memory_id": id} for id in (*ids, "0" * 32)]})[0]
        == 404
    )
    assert [one["memory"][:10] for one in listed(stack, filters={"user_id": "batch"})["results"]] == [
        "Batch fact"
    ] * 2
    assert stack.call("PUT", "/v1/batch/", {"memories": updates})[0] == 200
    assert {one["memory"] for one in listed(stack, filters={"user_id": "batch"})["results"]} == {
        one["text"] for one in updates
    }
    assert stack.call("DELETE", "/v1/batch/", {"memories": [{"memory_id": id} for id in ids]})[0] == 200
    assert listed(stack, filters={"user_id": "batch"})["count"] == 0


def test_a_slow_addition_is_pending_and_its_event_tells_its_end(
    stack: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "WAIT_S", 0.0)
    body = {
        "messages": [{"role": "user", "content": "The slow train leaves at noon."}],
        "user_id": "slow",
        "infer": False,
    }
    status, answer = stack.call("POST", "/v3/memories/add/", body)
    assert (status, answer["status"], answer["results"]) == (200, "PENDING", [])
    address = f"/v1/event/{answer['event_id']}/"
    wait_until(lambda: stack.call("GET", address)[1]["status"] == "SUCCEEDED")
    assert stack.call("GET", address)[1]["results"][0]["event"] == "ADD"
    assert answer["event_id"] in {
        one["id"] for one in stack.call("GET", "/v1/events/?page_size=200")[1]["results"]
    }
    assert stack.call("GET", "/v1/event/11111111-1111-1111-1111-111111111111/")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": "x"}]}, "user_id"),
        ("/v3/memories/add/", {"messages": [], "user_id": "a"}, "messages"),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": 7}], "user_id": "a"}, "messages.0.content: expected a text"),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": "x"}], "user_id": [1]}, "user_id: Input should"),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": "x"}], "user_id": "a", "timestamp": {}}, "timestamp: expected"),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": "x"}], "user_id": "a", "includes": "y"}, "includes"),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": "x"}], "user_id": "*"}, "user_id"),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": "x"}], "user_id": "a", "expiration_date": "soon"}, "YYYY"),
        ("/v3/memories/add/", {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}], "user_id": "a"}, "messages.0.content.0.type: only parts of the type text are read, not 'image_url'"),
        ("/v3/memories/search/", {"query": "x", "user_id": "a"}, "user_id"),
        ("/v3/memories/search/", {"query": "x", "filters": {"categories": "a"}}, "user_id"),
        ("/v3/memories/search/", {"query": "x", "filters": {"user_id": "a"}, "top_k": 1000}, "top_k"),
        ("/v3/memories/search/", {"query": "x", "filters": {"user_id": "a"}, "reference_date": "2026-01-01"}, "memories_at"),
        ("/v3/memories/", {"filters": {"user_id": "a"}, "latest_only": False}, "latest_only"),
        ("/v3/memories/?page=0", {"filters": {"user_id": "a"}}, "page"),
        ("/v3/memories/?page_size=100000", {"filters": {"user_id": "a"}}, "page_size"),
        ("/v3/memories/", b"{", "JSON"),
    ],
)  # fmt: skip
def test_a_request_that_is_wrong_gets_400_and_what_to_do(
    stack: Served, path: str, body: object, word: str
) -> None:
    status, error = stack.call("POST", path, body)
    assert status == 400 and word in error["detail"], error


def test_what_has_no_equal_is_refused_at_every_address(stack: Served) -> None:
    for route in _REFUSED:
        path = route.replace("{rest:path}", "x/y/").replace("{name}", "ann")
        for method in ("GET", "POST", "DELETE"):
            status, error = stack.call(method, path)
            assert status == 400 and "has no equal here" in error["detail"]
    assert (
        stack.call("DELETE", "/v1/memories/")[0] == stack.call("DELETE", "/v1/memories/?filters=x")[0] == 400
    )
