"""Object stores on this machine: moto, SeaweedFS and Azurite, and s3rver, which ignores preconditions.

Each is started on a free port with its files under a folder of the test, and stopped by its pid. moto is among the
development tools. The others are large (SeaweedFS 147 MB, Azurite 360 MB), so `make store-servers` fetches them on
demand. No program emulates Google's store well enough to be of use here.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from workers.runtime.embedded_broker import free_port

FETCHED = Path(
    os.environ.get("STORE_SERVERS") or Path(__file__).parent.parent.parent / "build" / "store-servers"
)
"""Where `make store-servers` puts the programs."""
BUCKET = "factstream"
START_S = 60.0  # Azurite and SeaweedFS take a few seconds, on a busy machine many
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The public name and key of every Azurite, from its documentation."""


class Missing(Exception):
    """A server's program is not on this machine; the message says how to get it."""


@dataclass
class Server:
    """A running server. `url` is what users give as the data folder, `env` the cloud's own chain of credentials."""

    name: str
    url: str
    port: int
    env: dict[str, str]
    process: subprocess.Popen[bytes]

    def through(self, port: int) -> dict[str, str]:
        """The environment of a client that reaches the server through a proxy at this port."""
        return {name: value.replace(f":{self.port}", f":{port}") for name, value in self.env.items()}

    def stop(self) -> None:
        """Ends the server, by force if it does not end by itself, as SeaweedFS does not."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def start(name: str, folder: Path) -> Server:
    """Starts the server of this name with an empty bucket. Raises `Missing`."""
    folder.mkdir(parents=True, exist_ok=True)
    return STARTS[name](folder)


def _moto(folder: Path) -> Server:
    if not all(importlib.util.find_spec(module) for module in ("moto", "flask", "flask_cors")):
        raise Missing("moto is not installed: it is in the extra `dev`")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return _s3("moto", command, port, folder)


def _seaweedfs(folder: Path) -> Server:
    program = _program("weed", FETCHED / "bin" / "weed")
    s3, *others = range(first := free_port(14), first + 14)
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "volume.port.public", "filer.port",
        "filer.port.grpc", "filer.port.public", "s3.port.grpc", "s3.port.https", "s3.port.iceberg", "s3.port.lance",
    )  # fmt: skip
    ports = [f"-{name}={port}" for name, port in zip(names, others, strict=False)]
    command = [
        program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.port={s3}", *ports,
        "-master.volumeSizeLimitMB=64", "-volume.max=32", "-master.telemetry=false", "-s3.iam=false",
    ]  # fmt: skip
    return _s3("seaweedfs", command, s3, folder)


def _s3rver(folder: Path) -> Server:
    program = _program("s3rver", FETCHED / "node_modules" / ".bin" / "s3rver")
    port = free_port()
    command = [
        program,
        "-d",
        str(folder),
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "--allow-mismatched-signatures",
    ]
    return _s3("s3rver", command, port, folder)


def _azurite(folder: Path) -> Server:
    program = _program("azurite-blob", FETCHED / "node_modules" / ".bin" / "azurite-blob")
    port = free_port()
    command = [
        program, "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent",
        "--disableTelemetry", "--skipApiVersionCheck",
    ]  # fmt: skip
    env = {
        "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _ACCOUNT_KEY,
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{_ACCOUNT}", "AZURE_ALLOW_HTTP": "true",
    }  # fmt: skip
    path = f"/{_ACCOUNT}/{BUCKET}?restype=container"
    return _run("azurite", f"az://{BUCKET}", command, port, env, folder, lambda: (path, _shared_key(port)))


STARTS: dict[str, Callable[[Path], Server]] = {
    "moto": _moto, "seaweedfs": _seaweedfs, "azurite": _azurite, "s3rver": _s3rver,
}  # fmt: skip


def _s3(name: str, command: list[str], port: int, folder: Path) -> Server:
    env = {
        "AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    return _run(name, f"s3://{BUCKET}", command, port, env, folder, lambda: (f"/{BUCKET}", {}))


def _run(
    name: str, url: str, command: list[str], port: int, env: dict[str, str], folder: Path,
    bucket: Callable[[], tuple[str, dict[str, str]]],
) -> Server:  # fmt: skip
    """Runs the command, and returns when it has made the bucket, to which `bucket` gives the path and the headers."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "AZURE_"))}
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=plain,
            start_new_session=True,
        )
    server, deadline = Server(name, url, port, env, process), time.monotonic() + START_S
    while not _put(port, *bucket()):
        if process.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise RuntimeError(f"{name} did not start; see {log.name}")
        time.sleep(0.2)
    return server


def _put(port: int, path: str, headers: dict[str, str]) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("PUT", path, headers=headers | {"Content-Length": "0"})
        return connection.getresponse().status in (200, 201, 409)  # 409: it is there already
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _shared_key(port: int) -> dict[str, str]:
    """The headers that let the account make the container: Azure's Shared Key, as its reference describes it."""
    headers = {"x-ms-date": f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S} GMT", "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in sorted(headers.items()))]
    lines += [f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}", "restype:container"]
    digest = hmac.new(base64.b64decode(_ACCOUNT_KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    return headers | {"Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"}


def _program(name: str, fetched: Path) -> str:
    """The path of a program. Raises `Missing`."""
    for found in (fetched, shutil.which(name)):
        if found and Path(found).exists():
            return str(found)
    raise Missing(f"no {name} in {fetched.parent} or on the path: `make store-servers` fetches it")
