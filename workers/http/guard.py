"""Guard of every address: hosts, origins, the token, the size of forms, what a browser may do.

A page on this machine can be reached by every site that its user visits. A foreign name in Host is refused
(DNS rebinding), and so is what another origin sends (CSRF: Fetch Metadata and Origin). An API is called by programs, which
send no Origin. Only the server's own files run in a page (Content Security Policy), so a hostile fact stays a text.

With a token every request needs it: a program in `Authorization: Bearer TOKEN` (or `Token`, as mem0's client does), and a browser,
which asks its user, as the password of Basic. A foreign name in Host then does no harm, since the site of that name has no token.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.common import BadMessage
from workers.http.endpoint import Shape
from workers.http.errors import ApiError

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
    """An ASGI application around another one. `hosts`: the accepted values of the header Host, with the port.

    `apis`: how the paths of the APIs begin. `shape`: an error as they tell it.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str],
        token: str | None = None,
        apis: tuple[str, ...] = (),
        shape: Shape | None = None,
    ) -> None:
        self._app, self._hosts = app, frozenset(hosts)
        self._token, self._apis, self._shape = token and token.encode(), apis, shape
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

        api = scope["path"].startswith(self._apis) if self._apis else False
        refused = self._refused(scope["method"], Headers(scope=scope), api)
        if refused is None:
            await self._app(scope, receive, guarded)
        elif api and self._shape:
            await self._shape(refused)(scope, receive, guarded)
        else:
            response = PlainTextResponse(f"{refused.message}\n", refused.status, refused.headers)
            await response(scope, receive, guarded)

    def _refused(self, method: str, headers: Headers, api: bool) -> ApiError | None:
        """Why the request is refused; None if it is accepted."""
        host = ",".join(headers.getlist("host")).lower()
        if not self._token and host not in self._hosts:
            return ApiError(403, "host", f"This is served as {' and '.join(sorted(self._hosts))} only.")
        site, mode, origin = (headers.get(name) for name in ("sec-fetch-site", "sec-fetch-mode", "origin"))
        own = (f"http://{host}", f"https://{host}") if self._token else self._origins
        foreign = origin not in own if origin or not api else False
        if method in ("GET", "HEAD"):
            if (site in ("cross-site", "same-site") and mode != "navigate") or (api and foreign):
                return ApiError(403, "origin", "Other sites may not read this page.")
        elif foreign or site not in (None, "same-origin"):
            return ApiError(403, "origin", "This form can only be sent from its own page.")
        if self._token and not _has_token(headers.getlist("authorization"), self._token):
            wanted = {"www-authenticate": 'Bearer realm="factstream"' if api else 'Basic realm="factstream"'}
            return ApiError(401, "invalid_api_key", "The token is missing or wrong.", headers=wanted)
        return None


def _has_token(given: list[str], token: bytes) -> bool:
    """Whether the header Authorization has the token. It takes as long whatever is wrong."""
    scheme, _, value = (given[0] if len(given) == 1 else "").partition(" ")
    secret = value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            secret = base64.b64decode(secret, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            secret = b""
    elif scheme.lower() not in ("bearer", "token"):
        secret = b""
    return hmac.compare_digest(secret, token)


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
