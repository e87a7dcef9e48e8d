"""The settings of a cluster, and the errors of clients that cannot connect."""

import os
from typing import Any

import pytest

from schemas.topics import FACTS
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable
from workers.runtime import embedded_broker as broker


def test_error_without_a_broker_names_the_options() -> None:
    settings = KafkaSettings(f"127.0.0.1:{broker.free_port()}", connect_timeout_s=0.3)
    for make in (settings.admin, settings.consumer, settings.producer):
        with pytest.raises(KafkaUnavailable, match=r"no broker answers at 127.*`factstream up`.*--bootstrap"):
            make()


def test_error_of_a_refused_login_hides_the_password(embedded: broker.EmbeddedBroker) -> None:
    settings = KafkaSettings(
        embedded.bootstrap,
        connect_timeout_s=0.3,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        username="ada",
        password="hunter2",
    )
    with pytest.raises(KafkaUnavailable, match="refuses the connection") as refused:
        settings.admin()
    assert "hunter2" not in str(refused.value) + repr(settings)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FACTSTREAM_")]:
        monkeypatch.delenv(name)
    assert KafkaSettings.from_env() == KafkaSettings()
    monkeypatch.setenv("FACTSTREAM_BOOTSTRAP", "kafka:9092, [::1]:9093")
    monkeypatch.setenv("FACTSTREAM_PARTITIONS", "7")
    monkeypatch.setenv("FACTSTREAM_PASSWORD", "secret")
    made = KafkaSettings.from_env(topic_prefix="a.", bootstrap=None)
    assert made.hosts() == [("kafka", 9092), ("::1", 9093)] and made.partitions == 7
    assert made.topic(FACTS) == "a.facts" and made.short("a.facts") == FACTS
    for name, value in made.env().items():
        monkeypatch.setenv(name, value)
    assert KafkaSettings.from_env() == made
    monkeypatch.setenv("FACTSTREAM_PARTITIONS", "many")
    with pytest.raises(ValueError, match="FACTSTREAM_PARTITIONS"):
        KafkaSettings.from_env()


def test_a_static_member_has_longer_to_come_back() -> None:
    assert KafkaSettings().session_timeout_ms == 6000
    assert KafkaSettings(instance="writer-0").session_timeout_ms == 45_000
    assert KafkaSettings(instance="writer-0", session_timeout_ms=9000).session_timeout_ms == 9000


@pytest.mark.parametrize(
    "wrong",
    [
        {"bootstrap": "nonsense"},
        {"bootstrap": "host:99999"},
        {"bootstrap": ""},
        {"partitions": 0},
        {"topic_prefix": "a/b"},
        {"security_protocol": "TLS"},
        {"instance": "a/b"},
        {"max_record_bytes": 1024 * 1024},
        {"max_record_bytes": 32 * 1024 * 1024},
        {"security_protocol": "SSL", "key_file": "its.key"},
        {"cert_file": "its.crt"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "username": "u", "password": "p"},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        KafkaSettings(**wrong)
