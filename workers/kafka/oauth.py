"""Tokens for OAUTHBEARER, by the client credentials grant: an id and a secret buy one (RFC 6749, 4.4).

A token is used again until a fifth of its life is left. Where the tokens come from is the setting FACTSTREAM_OAUTH_URL.
"""

import http.client
import json
import math
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from functools import lru_cache

from kafka.errors import SaslAuthenticationFailedError
from kafka.net.sasl.oauth import AbstractTokenProvider

from workers.kafka.config import KafkaSettings

TIMEOUT_S = 2.5
"""The client waits for a token on the thread that sends its heartbeats: a session ends after 6 s without one."""
MAX_BYTES = 64 * 1024
DEFAULT_LIFE_S = 60.0
"""Life of a token whose answer does not say it."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would show the secret to whatever host it names."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@lru_cache(maxsize=8)
def token_provider(settings: KafkaSettings) -> "TokenProvider":
    """The provider that all clients with these settings share."""
    return TokenProvider(settings)


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Gives the client library a token that is valid for a while. Safe for several threads."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0

    def token(self) -> str:
        """A valid token. Raises SaslAuthenticationFailedError, whose text says what the endpoint answered."""
        with self._lock:
            if not self._token or time.monotonic() >= self._renew_at:
                self._token, life_s = _fetch(self._settings)
                self._renew_at = time.monotonic() + 0.8 * life_s
            return self._token


def _fetch(settings: KafkaSettings) -> tuple[str, float]:
    """A new token, and the seconds that it lives."""
    form = {"grant_type": "client_credentials"} | (
        {"scope": settings.oauth_scope} if settings.oauth_scope else {}
    )
    quoted = (urllib.parse.quote(text or "", safe="") for text in (settings.username, settings.password))
    request = urllib.request.Request(
        settings.oauth_url or "",
        urllib.parse.urlencode(form).encode(),
        {
            "Authorization": f"Basic {b64encode(':'.join(quoted).encode()).decode()}",
            "Accept": "application/json",
        },
    )
    try:
        with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
            body = json.loads(answer.read(MAX_BYTES))
        token, life_s = body["access_token"], float(body.get("expires_in", DEFAULT_LIFE_S))
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ValueError("the token is not printable text")
        if not math.isfinite(life_s):
            raise ValueError(f"expires_in is {life_s}")
        return token, life_s
    except urllib.error.HTTPError as error:
        answer = error.read(300).decode("utf-8", "replace")
        raise SaslAuthenticationFailedError(f"it answers {error.code} {error.reason}: {answer}") from None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SaslAuthenticationFailedError(f"{type(error).__name__}: {error}"[:300]) from None
