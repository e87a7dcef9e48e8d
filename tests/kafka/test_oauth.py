"""Token endpoints that misbehave: the secret goes to none but the configured one."""

import socket
import threading
from collections.abc import Callable

import pytest
from kafka.errors import SaslAuthenticationFailedError

from workers.kafka.config import KafkaSettings
from workers.kafka.oauth import TokenProvider

SECRET = "not-in-any-text"


def provider(url: str) -> TokenProvider:
    return TokenProvider(
        KafkaSettings(
            security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", username="u", password=SECRET,
            oauth_url=url,
        )
    )  # fmt: skip


@pytest.fixture
def endpoint() -> Callable[[bytes], tuple[str, list[bytes]]]:
    """Starts an endpoint on a free port that answers one request with these bytes, and keeps what it was asked."""

    def start(answer: bytes) -> tuple[str, list[bytes]]:
        server, asked = socket.create_server(("127.0.0.1", 0)), list[bytes]()

        def serve() -> None:
            with server, server.accept()[0] as client:
                asked.append(client.recv(65536))
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/token", asked

    return start


def body(json: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(json), json)


def test_the_secret_does_not_follow_a_redirect(endpoint: Callable[[bytes], tuple[str, list[bytes]]]) -> None:
    other, asked = endpoint(body(b'{"access_token": "t"}'))
    elsewhere = other.replace("127.0.0.1", "localhost").encode()
    url, _ = endpoint(b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % elsewhere)
    with pytest.raises(SaslAuthenticationFailedError, match="302"):
        provider(url).token()
    assert not asked


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        body(b'{"access_token": "t", "expires_in": NaN}'),
        body(b"[" * 60_000),
    ],
    ids=range(4),
)
def test_an_answer_that_is_no_token_is_a_refused_login(
    endpoint: Callable[[bytes], tuple[str, list[bytes]]], answer: bytes
) -> None:
    with pytest.raises(SaslAuthenticationFailedError) as refused:
        provider(endpoint(answer)[0]).token()
    assert SECRET not in str(refused.value)


def test_a_url_that_is_none_is_a_refused_login() -> None:
    with pytest.raises(SaslAuthenticationFailedError, match="nonnumeric port"):
        provider("http://login:port/token").token()
