"""Writers that die, or stand still, at a named step: on a real store, with topics that are a list.

Each decides the messages of the stream from the last committed offset on. A file has that offset and the number of the
writer that is a member of the group: another one's commit fails, as the group's would.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.history import checkpoint, compaction, erasure, layout
from pipeline.history.errors import Unwritable
from pipeline.store import manifests
from pipeline.store.bucket import Bucket
from pipeline.store.opening import store_at
from pipeline.store.place import folder_of
from pipeline.store.store import Store
from tests.buckets.stream import Stream, make_stream
from tests.helpers.forking import Options, Step, fork_each, read_order
from tests.write.local_writer import NOW, Local, batch, begin, take, writer
from workers.runtime.worker import Retry
from workers.write import partition
from workers.write.worker import WriterWorker

STORE_STEPS = (
    "before the fence", "after the fence", "before the version", "after the version", "before the upload",
    "between object and manifest", "before the manifest", "after the manifest", "before the replacement", "after the replacement",
    "before the removal", "after the removal", "before the copy", "after the copy",
)  # fmt: skip
"""Before and after each request to the store."""
STEPS = (
    "taken", "decided", "before the changelog", "before the commit", "after the commit", "folded", "before merging", "merged",
    "checkpoint written", "before erasing", "erased", *STORE_STEPS,
)  # fmt: skip
STARTING = ("folded", "before the fence", "after the fence", "before the copy", "after the copy")
"""Steps of a writer that takes the partition, on a disk where it never was."""
BATCH = 3  # messages
DONE, PUT_OUT, FAILED = 0, 3, 4
"""Exit codes: all is decided; another writer is the group's member now; it failed, as its log says."""
RETRIES = 20
_TURN_S = 0.002


@contextmanager
def small_files() -> Iterator[None]:
    """A merge every few files, a checkpoint every few decisions, and fences that go after seconds, within the block."""
    with (
        patch.multiple(compaction, FAN=4, KEEP_S=0.0),
        patch.multiple(manifests, KEPT_S=3.0, SURE_S=1.0),
        patch.object(partition, "CHECKPOINT_EVERY", 25),
    ):
        yield


def name_steps(at: Step) -> None:
    """Names the steps of this process."""

    def around(owner: Any, name: str, before: str = "", after: str = "") -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **more: Any) -> Any:
            if before:
                at(before)()
            result = real(*args, **more)
            if after:
                at(after)()
            return result

        setattr(owner, name, wrapped)

    around(WriterWorker, "process", "taken")
    around(WriterWorker, "_append", "decided", "before the changelog")
    around(WriterWorker, "_recover", "folded")
    around(compaction, "merge", "before merging", "merged")
    around(checkpoint, "write_batches", "", "checkpoint written")
    around(erasure, "erase", "before erasing", "erased")
    name_store_steps(at)


def name_store_steps(at: Step) -> None:
    """Wraps the requests of this process's buckets; `at` names the step that a function then takes."""
    taking = False

    def noun(key: str) -> str:
        if "manifest-" in key:
            return "fence" if taking else "manifest"
        return "version" if key.startswith("history/") else "answer"

    def around(name: str, before: Callable[..., str], after: Callable[..., str]) -> None:
        real = getattr(Bucket, name)

        def wrapped(self: Bucket, *args: Any, **more: Any) -> Any:
            at(before(*args))()
            result = real(self, *args, **more)
            at(after(*args))()
            return result

        setattr(Bucket, name, wrapped)

    real_take = manifests.take

    def take(*args: Any) -> Any:
        nonlocal taking
        taking = True
        try:
            return real_take(*args)
        finally:
            taking = False

    manifests.take = take  # type: ignore[assignment]
    around("create", lambda key, *_: f"before the {noun(key)}", lambda key, *_: f"after the {noun(key)}")
    around("upload", lambda *_: "before the upload", lambda *_: "between object and manifest")
    around("replace", lambda *_: "before the replacement", lambda *_: "after the replacement")
    around("delete", lambda *_: "before the removal", lambda *_: "after the removal")
    around("download", lambda *_: "before the copy", lambda *_: "after the copy")


class Group:
    """The committed offset, and the writer that may commit: in a file that all writers of a run share."""

    def __init__(self, path: Path, member: int) -> None:
        self._path, self._member = path, member

    def read(self) -> tuple[int, int]:
        member, offset = json.loads(self._path.read_text())
        return member, offset

    def is_member(self) -> bool:
        return self.read()[0] == self._member

    def commit(self, offset: int) -> None:
        write_group(self._path, self._member, offset)


def write_group(path: Path, member: int, offset: int) -> None:
    path.with_suffix(f".{os.getpid()}").write_text(json.dumps((member, offset)))
    path.with_suffix(f".{os.getpid()}").rename(path)


def decide(options: Options, stream: Stream, at: Step) -> int:
    """Decides the messages up to the limit, as the loop of a worker does: takes its partition again after each Retry."""
    group, limit = Group(Path(options["group"]), options["member"]), options["limit"]
    with on_machine({}, Path(options["disk"])):
        data = folder_of(options["url"])
    worker = WriterWorker(Local(), data, now=lambda: NOW)
    failures, begun, ready = 0, False, False
    while True:
        if not group.is_member():
            return PUT_OUT
        offset = group.read()[1]
        try:
            if not ready:
                (take if begun else begin)(worker)
                begun = ready = True
            if offset >= limit:
                worker.close()
                return DONE
            end = min(offset + BATCH, limit)
            keep_answers(store_at(data), stream, range(offset, end))
            worker.process(batch(*stream.messages[offset:end], start=offset))
            failures = 0
        except Retry as error:
            ready, failures = False, failures + 1
            print(f"retry {failures}: {error}", flush=True)
            if failures > RETRIES:
                return FAILED
            time.sleep(0.05 * failures)
            continue
        at("before the commit")()
        if not group.is_member():
            return PUT_OUT
        group.commit(end)
        at("after the commit")()
        time.sleep(_TURN_S)


def calm(data: Path, stream: Stream) -> None:
    """Decides the whole stream in a folder, in the same batches, without any fault."""
    with small_files():
        worker, _ = writer(data)
        for offset in range(0, end := len(stream.messages), BATCH):
            keep_answers(store_at(data), stream, range(offset, min(offset + BATCH, end)))
            worker.process(batch(*stream.messages[offset : offset + BATCH], start=offset))


@contextmanager
def on_machine(env: dict[str, str], cache: Path) -> Iterator[None]:
    """A machine with these credentials and this disk."""
    before = dict(os.environ)
    os.environ.update(env | {"FACTSTREAM_CACHE": str(cache)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def keep_answers(store: Store, stream: Stream, offsets: range) -> None:
    """Keeps the answers before these messages, as a generator does. Raises Retry."""
    try:
        for n in offsets:
            if answer := stream.answers.get(n):
                store.add(layout.GENERATIONS_FOLDER, [answer], f"answer-{n}")
    except Unwritable as error:
        raise Retry(str(error)) from error


def main() -> None:
    stream = make_stream(int(sys.argv[1]), int(sys.argv[2]))
    with small_files():
        fork_each(lambda options: run(options, stream))


def run(options: Options, stream: Stream) -> int:
    at, code, new = read_order(Path(options["order"])), FAILED, Path(options["code"] + ".new")
    name_steps(at)
    try:
        code = decide(options, stream, at)
    finally:
        new.write_text(str(code))
        new.rename(options["code"])
    return code


if __name__ == "__main__":
    main()
