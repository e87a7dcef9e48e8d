"""A schema registry on a free port: as much of Confluent's HTTP interface as its clients use."""

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubRegistry:
    """Keeps schemas by number. `status` makes every answer fail; `asked` counts the paths that were read."""

    def __init__(self) -> None:
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.asked = Counter[str]()
        self.status = 200
        self.login: str | None = None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, subject: str, schema: dict[str, Any]) -> dict[str, Any]:
        """Register a schema under a subject. Returns what the registry answers."""
        known = next((one for one in self.schemas if one["body"] == schema), None)
        if known is None:
            known = {
                "id": len(self.schemas) + 7,
                "guid": str(uuid.UUID(int=len(self.schemas) + 7)),
                "body": schema,
            }
            self.schemas.append(known)
        versions = self.subjects.setdefault(subject, [])
        if known["id"] not in versions:
            versions.append(known["id"])
        version = versions.index(known["id"]) + 1
        return {
            **known["body"],
            "id": known["id"],
            "guid": known["guid"],
            "subject": subject,
            "version": version,
        }

    def find(self, path: str) -> dict[str, Any] | None:
        match path.strip("/").split("/"):
            case ["schemas", "ids", number]:
                found = next((one for one in self.schemas if str(one["id"]) == number), None)
            case ["schemas", "guids", guid]:
                found = next((one for one in self.schemas if one["guid"] == guid), None)
            case ["subjects", subject, "versions", version]:
                versions = self.subjects.get(subject, [])
                wanted = versions[-1] if version == "latest" else versions[int(version) - 1]
                found = next(one for one in self.schemas if one["id"] == wanted)
            case _:
                found = None
        return found and {**found["body"], "id": found["id"], "guid": found["guid"]}


def _handler(registry: StubRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            registry.asked[path] += 1
            if registry.login and self.headers.get("Authorization") != registry.login:
                return self.answer(401, {"error_code": 401})
            if registry.status != 200:
                return self.answer(registry.status, {"message": "as a proxy says it"})
            found = registry.find(path)
            self.answer(200 if found else 404, found or {"error_code": 40403})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = {name: body[name] for name in ("schema", "schemaType", "references") if body.get(name)}
            subject = self.path.partition("?")[0].split("/")[2]
            self.answer(200, registry.add(subject, known))

        def answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    return Handler


@contextmanager
def running() -> Iterator[StubRegistry]:
    """A registry for the length of the block."""
    registry = StubRegistry()
    thread = threading.Thread(
        target=registry.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()
