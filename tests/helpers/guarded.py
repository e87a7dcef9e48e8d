"""An Apache Kafka with ACLs, and with listeners for passwords, certificates and OAuth tokens.

It runs the jars beside the script of `tests.helpers.apache`, which has no such listeners of its own.
"""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.apache import SCRIPT
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable
from workers.runtime.embedded_broker import free_port
from workers.runtime.processes import die_with_parent, stop_process

JARS = SCRIPT.parent / "libs"
USERS = ("encoder", "writer", "generator", "producer", "waiting", "application", "observer")
PASSWORD = "test-only"
PACKAGE = "org.apache.kafka.common.security"


@dataclass
class Guarded:
    """The addresses of the listeners: `plain` for an administrator, whom no ACL binds."""

    folder: Path
    plain: str
    passwords: str
    certificates: str
    tokens: str
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        stop_process(self.process, 30)


def start(folder: Path) -> Guarded:
    _certificates(folder)
    first = free_port(row=5)
    at = {
        name: f"127.0.0.1:{first + n}"
        for n, name in enumerate(("plain", "passwords", "certificates", "tokens"))
    }
    controller = f"127.0.0.1:{first + 4}"
    login = " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    lines = {
        "process.roles": "broker,controller", "node.id": 1, "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER", "inter.broker.listener.name": "PLAIN",
        "listeners": ",".join(f"{n.upper()}://{a}" for n, a in at.items()) + f",CONTROLLER://{controller}",
        "advertised.listeners": ",".join(f"{n.upper()}://{a}" for n, a in at.items()),
        "listener.security.protocol.map": "PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORDS:SASL_PLAINTEXT,"
        "CERTIFICATES:SSL,TOKENS:SASL_PLAINTEXT",
        "log.dirs": folder / "data", "offsets.topic.replication.factor": 1, "offsets.topic.num.partitions": 2,
        "group.initial.rebalance.delay.ms": 0, "group.min.session.timeout.ms": 1000,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:CN=factstream;User:factstream",
        "listener.name.passwords.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.tokens.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.passwords.plain.sasl.jaas.config": f"{PACKAGE}.plain.PlainLoginModule required {login};",
        "listener.name.tokens.oauthbearer.sasl.jaas.config":
            f'{PACKAGE}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="factstream";',
        "ssl.keystore.type": "PEM", "ssl.keystore.location": folder / "server.pem",
        "ssl.truststore.type": "PEM", "ssl.truststore.location": folder / "ca.pem",
        "listener.name.certificates.ssl.client.auth": "required",
    }  # fmt: skip
    properties = folder / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    java = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*"]
    subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "-t", "factstreamTestCluster1", "-c", properties],
        check=True, capture_output=True,
    )  # fmt: skip
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            [*java, "kafka.Kafka", properties], stdout=log, stderr=log, preexec_fn=die_with_parent()
        )
    deadline = time.monotonic() + 150
    while True:
        try:
            KafkaSettings(at["plain"], connect_timeout_s=5.0).admin().close()
            break
        except KafkaUnavailable:
            said = (folder / "broker.log").read_text()[-3000:]
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.3)
    return Guarded(folder, **at, process=process)


def _certificates(folder: Path) -> None:
    """An authority, and what it signed: a certificate of the server and one of the client CN=factstream."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl(
        "req", "-x509", *new, "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name, subject in (("server", "/CN=localhost"), ("client", "/CN=factstream")):
        openssl("req", *new, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "30", "-extfile", "names", "-out", f"{name}.crt")  # fmt: skip
    (folder / "server.pem").write_text(
        (folder / "server.key").read_text() + (folder / "server.crt").read_text()
    )
