"""A worker that is stopped while it calibrates its model: it ends at once, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.files import is_locked
from workers.kafka.config import KafkaSettings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_calibration(
    settings: KafkaSettings, llama: Path, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    command = [
        sys.executable,
        "-m",
        "workers.cli",
        "worker",
        "encoder",
        "--model",
        str(llama),
        "--device",
        "cpu",
    ]
    command += ["--data", str(tmp_path / "data"), "--bootstrap", settings.bootstrap]
    env = os.environ | {"FACTSTREAM_CACHE": str(cache), "FACTSTREAM_TOPIC_PREFIX": settings.topic_prefix}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    log = ""
    while "calibrating" not in log:
        line = process.stderr.readline()
        assert line, log
        log += line
    process.send_signal(number)
    log += process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "stopped" in log and "Traceback" not in log, log
    (lock,) = (cache / "calibrations").iterdir()
    assert lock.suffix == ".lock" and not is_locked(lock)
