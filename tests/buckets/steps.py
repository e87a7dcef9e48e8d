"""The steps of a history in a bucket, at which its writers are killed or stand still: before and after each request."""

from collections.abc import Callable
from typing import Any

from pipeline.store import manifests
from pipeline.store.bucket import Bucket

STORE_STEPS = (
    "before the fence", "after the fence", "before the version", "after the version", "before the upload",
    "between object and manifest", "before the manifest", "after the manifest", "before the replacement", "after the replacement",
    "before the removal", "after the removal", "before the copy", "after the copy",
)  # fmt: skip
Step = Callable[[str], Callable[..., None]]


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
