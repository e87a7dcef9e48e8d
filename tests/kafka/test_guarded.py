"""Client certificates and OAuth tokens against Apache Kafka: every client connects, or says why not."""

import json
import threading
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from schemas import topics
from tests.helpers import guarded
from tests.helpers.apache import MISSING
from tests.helpers.guarded import Guarded
from workers.kafka import oauth
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable

pytestmark = pytest.mark.kafka

SECRET = "not-in-any-text"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if not guarded.JARS.is_dir():
        pytest.skip(MISSING)
    running = guarded.start(tmp_path_factory.mktemp("guarded"))
    yield running
    running.stop()


@pytest.fixture
def certified(cluster: Guarded) -> KafkaSettings:
    return KafkaSettings(
        cluster.certificates, "tls.", security_protocol="SSL", ca_file=str(cluster.folder / "ca.pem"),
        cert_file=str(cluster.folder / "client.crt"), key_file=str(cluster.folder / "client.key"),
        connect_timeout_s=4.0,
    )  # fmt: skip


class TokenEndpoint(BaseHTTPRequestHandler):
    """Gives unsigned tokens, which a broker without a key takes, to the client whose secret is SECRET."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        client, _, secret = b64decode(self.headers["Authorization"].split()[1]).decode().partition(":")
        self.asked.append(form)
        claims = {"sub": client, "iat": 1_700_000_000, "exp": 4_000_000_000}
        parts = (
            urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"alg": "none"}, claims)
        )
        token = {"access_token": ".".join(parts) + ".", "expires_in": 3600}
        body = json.dumps(token if secret == SECRET else {"error": "invalid_client"}).encode()
        self.send_response(200 if secret == SECRET else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[str]]]:
    """The URL of a token endpoint, and the forms that were posted to it."""
    TokenEndpoint.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), TokenEndpoint)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/token", TokenEndpoint.asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def tokened(cluster: Guarded, endpoint: tuple[str, list[str]]) -> KafkaSettings:
    return KafkaSettings(
        cluster.tokens, "oauth.", security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", username="factstream",
        password=SECRET, oauth_url=endpoint[0], oauth_scope="kafka", connect_timeout_s=4.0,
    )  # fmt: skip


def works(settings: KafkaSettings) -> None:
    """An admin client, a producer and a consumer do their work."""
    assert len(ensure_topics(settings)) == len(topics.TOPICS)
    producer, consumer = settings.producer(), settings.consumer()
    producer.send(topics.FACTS, b"{}", partition=0)
    assert len(producer.flush_or_raise()) == 1
    assert consumer.partitions_for_topic(settings.topic(topics.FACTS)) == {0, 1, 2, 3}
    producer.close()
    consumer.close()


def test_every_client_shows_its_certificate(certified: KafkaSettings, tmp_path: Path) -> None:
    works(certified)
    both = tmp_path / "both.pem"
    both.write_text(Path(certified.cert_file or "").read_text() + Path(certified.key_file or "").read_text())
    works(replace(certified, cert_file=str(both), key_file=None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"cert_file": None, "key_file": None},
            "refuses the connection.*wants a certificate of this client.*FACTSTREAM_CERT_FILE",
        ),
        (
            {"key_file": None},
            r"client\.crt is not a PEM file of a certificate with its key.*FACTSTREAM_KEY_FILE",
        ),
        ({"cert_file": "/no/such.pem"}, r"/no/such\.pem.*FACTSTREAM_CERT_FILE"),
        ({"cert_file": __file__}, "FACTSTREAM_CERT_FILE"),
    ],
)
def test_without_a_certificate_the_error_says_so(
    certified: KafkaSettings, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(KafkaUnavailable, match=said):
        replace(certified, **change).admin()


def test_every_client_shows_a_token_and_they_share_it(
    tokened: KafkaSettings, endpoint: tuple[str, list[str]]
) -> None:
    works(tokened)
    assert endpoint[1] == ["grant_type=client_credentials&scope=kafka"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "wrong-" + SECRET}, "it answers 401.*invalid_client.*FACTSTREAM_OAUTH_URL"),
        ({"oauth_url": "http://127.0.0.1:9/token"}, "Connection refused.*FACTSTREAM_OAUTH_URL"),
    ],
)
def test_without_a_token_the_error_says_so(tokened: KafkaSettings, change: dict[str, Any], said: str) -> None:
    with pytest.raises(KafkaUnavailable, match=said) as refused:
        replace(tokened, **change).admin()
    assert SECRET not in str(refused.value)


def test_a_token_is_renewed_before_it_expires(
    tokened: KafkaSettings, endpoint: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("workers.kafka.oauth.time.monotonic", lambda: now[0])
    provider = oauth.TokenProvider(tokened)
    for seconds in (0, 2879, 1, 2879, 1):
        now[0] += seconds
        assert provider.token().count(".") == 2
    assert len(endpoint[1]) == 3
