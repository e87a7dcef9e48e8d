"""An HTTP proxy before an object store, which loses answers, refuses, delays and cuts as it is told.

What it does follows from its rules, or from a seed and the name and the number of each request, never from the time. So the
client's own retries, which are a part of what is tested, meet the same faults again.
"""

import contextlib
import http.client
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

FAULTS = {
    "answer lost": "the request landed, and the connection ends without an answer",
    "request lost": "the connection ends, and nothing has landed",
    "refused 503": "nothing landed: 503 Slow Down",
    "503 after success": "the request landed, and the answer is 503",
    "409": "nothing landed: 409 Conditional Request Conflict, which S3 asks to try again",
    "409 after success": "the request landed, and the answer is 409",
    "slow": "the request waits, and lands also when its client is gone",
    "cut": "the answer ends in its middle",
}
"""The faults of a request, and what each means."""
IN_A_STORM = {
    "PUT": ("answer lost", "request lost", "refused 503", "503 after success", "409", "409 after success"),
    "GET": ("request lost", "refused 503", "cut"),
    "HEAD": ("request lost", "refused 503"),
    "DELETE": ("answer lost", "refused 503"),
    "POST": ("answer lost", "refused 503"),
}
"""Faults that may come to a request by chance, by its method."""
IN_A_ROW = 2
"""Faults that a storm gives to a request and its repetitions, at most: no client tries for ever."""
_ANSWERS = {503: "SlowDown", 409: "ConditionalRequestConflict"}
_TOKEN = re.compile("[0-9a-f]{32}")  # in names that are made at random
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Rule:
    """A fault for the requests of a method to a path that matches, after the first `after` of them."""

    fault: str
    method: str = "PUT"
    path: str = ""
    after: int = 0
    times: int = 1
    before: Callable[[], object] = lambda: None
    """Called before the request is passed on: a slow one lands when this has returned."""
    then: Callable[[], object] = lambda: None
    """Called when the fault has happened, before the client can know it."""


@dataclass
class Storm:
    """Faults by chance: this share of the requests."""

    seed: int
    share: float
    quiet: bool = False

    def fault(self, method: str, path: str, number: int) -> str:
        """The fault of the `number`-th request of this method for this path; empty for none."""
        dice = random.Random(f"{self.seed} {method} {_TOKEN.sub('', path)} {number}")
        faults = IN_A_STORM.get(method, ())
        if self.quiet or not faults or number % (IN_A_ROW + 1) == IN_A_ROW or dice.random() >= self.share:
            return ""
        return dice.choice(faults)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # a client was killed: as planned


@dataclass
class Proxy:
    """A proxy of the server at `upstream`, which listens on `port` from `start` to `stop`."""

    upstream: int
    storm: Storm | None = None
    rules: list[Rule] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    log: list[tuple[str, str, int, str]] = field(default_factory=list)
    """Of each request the method, the path, the upstream's status (0 where it was not asked), and the fault."""
    port: int = 0

    def start(self) -> "Proxy":
        self._lock, self._seen = threading.Lock(), Counter[tuple[str, str]]()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next(self, method: str, path: str) -> Rule | None:
        """The fault of this request, by the first rule that fits, or by the storm."""
        with self._lock:
            for rule in self.rules:
                if rule.method == method and re.search(rule.path, path):
                    if rule.after > 0:
                        rule.after -= 1
                        continue
                    rule.times -= 1
                    if rule.times <= 0:
                        self.rules.remove(rule)
                    return rule
            number, self._seen[method, path] = self._seen[method, path], self._seen[method, path] + 1
            fault = self.storm.fault(method, path, number) if self.storm else ""
            return Rule(fault) if fault else None

    def note(self, method: str, path: str, status: int, fault: str) -> None:
        with self._lock:
            self.log.append((method, path, status, fault))
            if fault:
                self.done[fault] += 1


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None: ...

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle_one_request()
                return
            self.close_connection = True

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            rule = proxy.next(self.command, path)
            fault = rule.fault if rule else ""
            if rule:
                rule.before()
            lands = fault not in ("request lost", "refused 503", "409")
            status, headers, content = self.ask(body) if lands else (0, [], b"")
            if rule:
                rule.then()
            proxy.note(self.command, path, status, fault)
            if fault in ("answer lost", "request lost"):
                self.hang_up()
            elif code := next((code for code in _ANSWERS if str(code) in fault), None):
                self.answer(code, [("Content-Type", "application/xml")], _error(code))
            elif fault == "cut" and len(content) > 1:
                self.answer(status, headers, content, len(content) // 2)
                self.hang_up()
            else:
                self.answer(status, headers, content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

        def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """The upstream's answer. The request's headers stay as they are, since its signature covers them."""
            connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                return response.status, response.getheaders(), response.read()
            finally:
                connection.close()

        def answer(
            self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None
        ) -> None:
            self.send_response_only(status)
            length = {name.lower(): value for name, value in headers}.get("content-length")
            for name, value in headers:
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header(
                "Content-Length", length if length and self.command == "HEAD" else str(len(content))
            )
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:sent])

        def hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def _error(code: int) -> bytes:
    name = _ANSWERS[code]
    return f'<?xml version="1.0"?><Error><Code>{name}</Code><Message>by the proxy</Message></Error>'.encode()
