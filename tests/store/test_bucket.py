"""The requests of a bucket: what an answer is worth that says "exists", or that never came."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError
from obstore.store import MemoryStore

from pipeline.history.errors import HistoryError, Unwritable
from pipeline.store import bucket
from pipeline.store.bucket import TRIES, Bucket, Missing, Taken

TOKEN = "ab" * 16
BODY = b"body " + TOKEN.encode()


class Faults:
    """`obstore.put` with an answer of our own to its first calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *faults: Callable[..., Any]) -> None:
        self.calls, self.pauses, self._faults, self.put = 0, list[float](), list(faults), obstore.put
        monkeypatch.setattr(obstore, "put", self)

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.calls += 1
        return self._faults.pop(0)(self.put, *args, **more) if self._faults else self.put(*args, **more)


def lost(put: Any, *args: Any, **more: Any) -> None:
    """The PUT lands, and its answer does not."""
    put(*args, **more)
    raise GenericError("timed out")


def repeated(put: Any, *args: Any, **more: Any) -> None:
    """The client library has sent it again after a 503, and met its own object."""
    put(*args, **more)
    raise AlreadyExistsError("412")


def conflict(put: Any, *args: Any, **more: Any) -> None:
    raise AlreadyExistsError("409: a conflict with a request that failed in the end")


def refused(put: Any, *args: Any, **more: Any) -> None:
    raise GenericError("503")


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def own(pauses: list[float]) -> Bucket:
    return Bucket(MemoryStore(), "memory://", pause=pauses.append)


@pytest.mark.parametrize(("fault", "calls"), [(lost, 1), (repeated, 1), (conflict, 2), (refused, 2)])
def test_the_object_tells_whose_it_is(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any], calls: int
) -> None:
    faults = Faults(monkeypatch, fault)
    own.create("a", BODY, TOKEN)
    assert own.get("a") == BODY and faults.calls == calls


@pytest.mark.parametrize("fault", [conflict, refused])
def test_another_writers_object_is_kept(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any]
) -> None:
    own.create("a", b"another" + b"cd" * 16, "cd" * 16)
    Faults(monkeypatch, fault)
    with pytest.raises(Taken):
        own.create("a", BODY, TOKEN)
    assert own.get("a").startswith(b"another")


def test_a_store_that_never_answers_is_given_up(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    faults = Faults(monkeypatch, *[refused] * 99)
    with pytest.raises(Unwritable, match="memory:///a: 503; check the network"):
        own.create("a", BODY, TOKEN)
    assert faults.calls == TRIES and pauses == [0.2, 0.4, 0.8]


def test_only_what_was_found_is_replaced(own: Bucket) -> None:
    own.create("rows/a", BODY, TOKEN)
    (found,) = own.objects("rows")
    second = own.replace(found, b"second")
    assert own.get("rows/a") == b"second"
    assert [found[:3] for found in own.objects("rows")] == [second[:3]]
    with pytest.raises(Unwritable, match="changed meanwhile"):
        own.replace(found, b"third")
    assert own.get("rows/a") == b"second"
    own.delete(["rows/a", "rows/never"])
    with pytest.raises(Missing):
        own.get("rows/a")


def test_a_store_that_ignores_preconditions_is_refused(own: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not own.probe("1")

    def careless(put: Any, *args: Any, mode: Any = None, **more: Any) -> Any:
        return put(*args, mode="overwrite", **more)

    Faults(monkeypatch, careless, careless)
    with pytest.raises(HistoryError, match="ignores If-None-Match"):
        own.probe("2")
    assert own.objects("") == [], "the probe leaves nothing"


@pytest.mark.parametrize("fault", [lost, repeated, conflict, refused])
def test_a_probe_whose_first_request_fails_goes_on(
    own: Bucket, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    Faults(monkeypatch, fault)
    assert not own.probe("1")


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ranges that were asked for, in pieces of five bytes."""
    ranges, get = list[Any](), obstore.get

    def noted(*args: Any, **more: Any) -> Any:
        ranges.append(more.get("options", {}).get("range"))
        return get(*args, **more)

    monkeypatch.setattr(bucket, "PIECE_BYTES", 5)
    monkeypatch.setattr(obstore, "get", noted)
    return ranges


@pytest.mark.parametrize(
    ("body", "ranges"),
    [(b"", [None]), (b"12345", [None]), (b"123456789ab", [None, (0, 5), (5, 10), (10, 11)])],
)
def test_a_large_object_comes_in_pieces(
    own: Bucket, tmp_path: Path, gets: list[Any], body: bytes, ranges: list[Any]
) -> None:
    """Each has the time of a request, which would not be enough for the whole on a slow line."""
    obstore.put(own._store, "a", body)
    own.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == body and gets == ranges


def test_pieces_are_of_one_state(
    own: Bucket, tmp_path: Path, gets: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    obstore.put(own._store, "a", b"1234567890")
    get = obstore.get

    def replaced_meanwhile(*args: Any, **more: Any) -> Any:
        if len(gets) == 2:
            obstore.put(own._store, "a", b"another!!!")
        return get(*args, **more)

    monkeypatch.setattr(obstore, "get", replaced_meanwhile)
    with pytest.raises(Unwritable, match="memory:///a"):
        own.download("a", tmp_path / "a")


def test_a_disk_that_refuses_is_no_fault_of_the_bucket(own: Bucket, tmp_path: Path) -> None:
    own.create("a", BODY, TOKEN)
    with pytest.raises(Unwritable, match=r"^/dev/full: cannot be written: No space left on device"):
        own.download("a", Path("/dev/full"))
    with pytest.raises(Unwritable, match=r"gone/a: cannot be written: No such file"):
        own.download("a", tmp_path / "gone" / "a")
    with pytest.raises(Unwritable, match=r"gone: cannot be written: No such file"):
        own.upload("b", tmp_path / "gone")
