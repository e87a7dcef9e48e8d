"""docs/mcp.md and the README: the configurations of hosts are valid, and the page's program runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.served import served
from workers.cli.app import app
from workers.mcp.server import PATH
from workers.memories.headers import NAMESPACE

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [PAGE, README])
def test_a_hosts_configuration_names_a_command_or_an_address_that_is_there(page: str) -> None:
    found = re.findall(r"<!-- host -->\n```json\n(.*?)```", page, re.DOTALL)
    assert found
    for text in found:
        (host,) = json.loads(text)["mcpServers"].values()
        if "url" in host:
            assert host["url"].endswith(f":8642{PATH}") and [name.lower() for name in host["headers"]] == [
                NAMESPACE
            ]
        else:
            help = CliRunner(env={"COLUMNS": "200"}).invoke(app, [host["args"][0], "--help"])
            assert host["command"] == "factstream" and host["args"][1] in help.output


@pytest.mark.slow
def test_the_program_of_the_page_runs(llama: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    command = tmp_path / "bin" / "factstream"
    command.parent.mkdir()
    with served(llama, tmp_path / "data") as stack:
        where = {
            "FACTSTREAM_BOOTSTRAP": stack.settings.bootstrap,
            "FACTSTREAM_DATA": str(stack.data),
            "PYTHONPATH": str(ROOT),
        }
        # The client passes on only a few variables of its own, so the command has the others.
        exports = " ".join(f"{name}={value}" for name, value in where.items())
        command.write_text(f'#!/bin/sh\n{exports} exec {sys.executable} -m workers.cli "$@"\n')
        command.chmod(0o755)
        env = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=150
        )
    assert done.returncode == 0 and "The Harlow desk lamp is made of walnut." in done.stdout, done.stderr
