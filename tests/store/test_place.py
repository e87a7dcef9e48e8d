"""Places of a history: a path is itself, and a URL has a folder of this machine."""

from pathlib import Path

import pytest

from pipeline.history.errors import HistoryError
from pipeline.store import opening
from pipeline.store.folder import Folder
from pipeline.store.objects import ObjectStore
from pipeline.store.opening import store_at
from pipeline.store.place import folder_of, place_of, url_of
from workers.kafka.config import KafkaSettings
from workers.runtime.supervisor import worker_commands


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTSTREAM_CACHE", str(tmp_path))
    return tmp_path


def test_a_path_is_a_store_of_its_own(tmp_path: Path) -> None:
    folder = folder_of(str(tmp_path / "data"))
    assert folder == tmp_path / "data" and url_of(folder) is None
    assert isinstance(store_at(folder), Folder)


def test_a_url_has_a_folder_in_the_cache(cache: Path) -> None:
    folder = folder_of("s3://facts/eu/one/")
    assert folder.parent == cache / "stores" and folder == folder_of("s3://facts/eu/one")
    assert folder != folder_of("s3://facts/eu-one") and url_of(folder) == "s3://facts/eu/one"


def test_a_folder_of_the_cache_that_was_removed_is_no_store_of_its_own() -> None:
    folder = folder_of("s3://facts/eu")
    (folder / "store.url").unlink()
    with pytest.raises(HistoryError, match="was removed while it was in use; start this command again"):
        store_at(folder)
    assert isinstance(store_at(folder_of("s3://facts/eu")), ObjectStore)


def test_the_workers_of_up_get_the_url_and_not_its_folder_which_may_be_removed(tmp_path: Path) -> None:
    for place in ("s3://facts/eu", str(tmp_path / "data")):
        folder = folder_of(place)
        assert place_of(folder) == place
        for command in worker_commands(KafkaSettings(), folder, "default", "text", http="8642").values():
            assert command[command.index("--data") + 1] == place


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@facts/one",
        "http://facts/one",
        "s3://facts/one?secret=1",
        "s3://",
        "s3://facts/../one",
        "gs:///one",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="s3://, gs:// or az://BUCKET/PREFIX without a login"):
        folder_of(url)


def test_a_store_is_opened_by_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    store = store_at(folder_of("s3://facts/eu"))
    assert isinstance(store, ObjectStore) and store.where == "s3://facts/eu"
    monkeypatch.setenv("FACTSTREAM_STORE_CACHE_MB", "many")
    with pytest.raises(HistoryError, match="not a number of MiB"):
        store_at(folder_of("s3://facts/eu"))
    assert opening.DEFAULT_CACHE_MB > 0
