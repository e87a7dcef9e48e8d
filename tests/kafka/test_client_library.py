"""The parts of kafka-python that are not its public interface, and on which workers/kafka builds."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from kafka.consumer.fetcher import Fetcher
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

FOLDER = Path(__file__).parent.parent.parent / "workers" / "kafka"
IMPORTS = sorted(
    {
        (node.module, name.name)
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "kafka"
        for name in node.names
    }
)


@pytest.mark.parametrize(("module", "name"), IMPORTS)
def test_imported_name_exists(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (Fetcher, "_append", ["drained", "part", "max_records", "update_offsets"]),
        (Fetcher.PartitionRecords, "_unpack_records", ["tp", "records", "key_deserializer", "value_deserializer"]),
        (Fetcher.PartitionRecords, "_consume_aborted_transactions_up_to", ["offset"]),
        (Fetcher.PartitionRecords, "_is_batch_aborted", ["batch"]),
        (Fetcher.PartitionRecords, "take", ["n"]),
        (Fetcher.PartitionRecords, "drain", []),
        (KafkaNetClient, "__init__", ["net", "manager", "configs"]),
        (KafkaNetClient, "close", ["node_id"]),
        (KafkaConnectionManager, "get_connection", ["node_id"]),
        (KafkaConnectionManager, "close", ["node_id"]),
        (NetworkSelector, "run", ["coro", "args"]),
    ],
)  # fmt: skip
def test_method_that_is_called_or_replaced_takes_what_it_took(
    owner: type, name: str, parameters: list[str]
) -> None:
    found = list(inspect.signature(getattr(owner, name)).parameters)[1:]
    assert found[: len(parameters)] == parameters
