"""The network side of every Kafka client: it never makes a topic, and it keeps why it could not connect.

It changes what the client library does there (kafka-python 3.0.12), and knows none of our settings.
"""

from collections.abc import Callable
from typing import Any

from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

_NO_LOGIN = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError)


def net_client(heard: list[BaseException], **config: Any) -> KafkaNetClient:
    """For the client's `kafka_client`. `heard` gets why the last connection ended, until one holds.

    A metadata request for a missing topic makes the cluster create it with its defaults, and the client's own option
    against this has no effect.
    """
    net = NetworkSelector(**config)
    client = KafkaNetClient(net, _Manager(net, heard, **config), **config)
    client.cluster.config["allow_auto_create_topics"] = False
    return client


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Keeps why connections end until one holds, which the client only logs; and a login that was refused is not
    tried again for ten seconds, which may lock the user out."""

    def __init__(self, net: Any, heard: list[BaseException], **config: Any) -> None:
        self.heard = heard
        super().__init__(net, **config)

    def get_connection(self, node_id: Any, **options: Any) -> Any:
        if not self.bootstrapped and self.heard and isinstance(self.heard[0], _NO_LOGIN):
            raise self.heard[0]
        known = self._conns.get(node_id)
        conn = super().get_connection(node_id, **options)
        if not self.bootstrapped and conn is not known:
            conn.close_future.add_errback(self._hear)
            conn._sasl_authenticate = self._login(conn._sasl_authenticate)
        return conn

    def _login(self, login: Callable[..., Any]) -> Callable[..., Any]:
        """The connection's login, heard here too. A broker that refuses one hangs up at once, and the client drops an
        answer that it reads together with that."""

        async def heard(*args: Any) -> Any:
            try:
                return await login(*args)
            except KafkaError as error:
                lost = isinstance(error, KafkaConnectionError)
                self._hear(SaslAuthenticationFailedError(str(error)) if lost else error)
                raise

        return heard

    def _hear(self, error: BaseException) -> None:
        if self.heard and isinstance(self.heard[0], _NO_LOGIN):
            return  # nothing says more
        if not (self.heard and isinstance(error, RequestTimedOutError)):  # our own patience says least
            self.heard[:] = [error]
