"""Object stores on this machine, for tests: moto's S3 in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import obstore
from obstore.store import S3Store


@contextmanager
def moto() -> Iterator[Mapping[str, str]]:
    """An S3 with the bucket `facts`; the environment by which its clients find it and log in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    try:
        make_bucket(env["AWS_ENDPOINT_URL"], "facts")
        yield env
    finally:
        process.kill()
        process.wait()


def make_bucket(endpoint: str, name: str, within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            urllib.request.urlopen(
                urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=5
            ).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def names(env: Mapping[str, str], bucket: str = "facts") -> list[str]:
    """The objects of a bucket."""
    config = {
        "endpoint": env["AWS_ENDPOINT_URL"],
        "access_key_id": "test",
        "secret_access_key": "test",
        "region": "us-east-1",
    }
    own = S3Store(bucket, client_options={"allow_http": True}, **config)  # type: ignore[arg-type]
    return sorted(meta["path"] for meta in obstore.list(own).collect())


def set_env(env: Mapping[str, str]) -> None:
    os.environ.update(env)
