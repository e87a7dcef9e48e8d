"""Guard of every page: allowed origins, the size of forms, and what a browser may do.

A page on this machine can be reached by every site that its user visits. A foreign name in Host is refused
(DNS rebinding), and so is a form sent by another origin (CSRF: Fetch Metadata and Origin). Only the server's
own files run in a page (Content Security Policy), so a hostile fact stays a text.
"""

from collections.abc import Iterable
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.common import BadMessage

MAX_FORM_BYTES = 128 * 1024
MAX_FORM_FIELDS = 20

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """An ASGI application around another one. `hosts`: the accepted values of the header Host, with the port."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app, self._hosts = app, frozenset(hosts)
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the protocol {scope['type']} is not served")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refused(scope["method"], Headers(scope=scope))
        app = PlainTextResponse(refused, 403) if refused else self._app
        await app(scope, receive, guarded)

    def _refused(self, method: str, headers: Headers) -> str | None:
        """Why the request is refused; None if it is accepted."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return f"This page is served as {' and '.join(sorted(self._hosts))} only.\n"
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if method in ("GET", "HEAD"):
            if site in ("cross-site", "same-site") and mode != "navigate":
                return "Other sites may not read this page.\n"
        elif headers.get("origin") not in self._origins or site not in (None, "same-origin"):
            return "This form can only be sent from its own page.\n"
        return None


async def form(request: Request) -> dict[str, str]:
    """The fields of a form that are not blank. Reads no more than the limit. Raises `BadMessage`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise BadMessage("too-large", f"The form has more than {MAX_FORM_BYTES >> 10} KiB.")
    try:
        fields = parse_qsl(body.decode(), max_num_fields=MAX_FORM_FIELDS, errors="strict")
    except ValueError:  # UnicodeDecodeError is one
        raise BadMessage("invalid-form", "The form cannot be read.") from None
    return {name: value.replace("\r\n", "\n") for name, value in fields if value.strip()}
