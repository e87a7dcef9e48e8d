"""The network layer of every Kafka client: it never creates a topic, and records why connections end.

It changes the client library's own layer (kafka-python 3.0.12), and closes connections where that reads them.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
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


def net_client(failures: list[BaseException], **config: Any) -> KafkaNetClient:
    """The value of a client's option `kafka_client`. `failures` holds the reason why the last connection ended, until a
    connection succeeds.

    Without `allow_auto_create_topics`, set below, a metadata request for a missing topic makes the cluster create it with
    default settings: the client's own option against this has no effect.
    """
    net = NetworkSelector(**config)
    client = _Client(net, _Manager(net, failures, **config), **config)
    client.cluster.config["allow_auto_create_topics"] = False
    return client


class _Client(KafkaNetClient):  # type: ignore[misc]
    """Closes the connections on the thread that reads them.

    The library closes them on the caller's thread: a socket that goes away while the other one reads it is logged as an
    error, with a traceback.
    """

    def close(self, node_id: Any = None) -> None:
        reader = self._net._io_thread
        if reader is not None and reader.is_alive() and reader is not threading.current_thread():
            with suppress(Exception):  # the thread has just ended: nothing reads them
                self._net.run(self._manager.close, node_id)
        super().close(node_id)


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Records why connections end until one succeeds, and does not repeat a refused login.

    The client only logs the reason, and repeats a refused login for ten seconds, which may lock the user out.
    """

    def __init__(self, net: Any, failures: list[BaseException], **config: Any) -> None:
        self.failures = failures
        super().__init__(net, **config)

    def get_connection(self, node_id: Any, **options: Any) -> Any:
        if not self.bootstrapped and self.failures and isinstance(self.failures[0], _NO_LOGIN):
            raise self.failures[0]
        known = self._conns.get(node_id)
        conn = super().get_connection(node_id, **options)
        if not self.bootstrapped and conn is not known:
            conn.close_future.add_errback(self._record)
            conn._sasl_authenticate = self._login(conn._sasl_authenticate)
        return conn

    def _login(self, login: Callable[..., Any]) -> Callable[..., Any]:
        """The connection's login with its failure recorded.

        A broker that refuses a login closes the connection at once, and the client may drop the broker's answer then.
        """

        async def recorded(*args: Any) -> Any:
            try:
                return await login(*args)
            except KafkaError as error:
                lost = isinstance(error, KafkaConnectionError)
                self._record(SaslAuthenticationFailedError(str(error)) if lost else error)
                raise

        return recorded

    def _record(self, error: BaseException) -> None:
        if self.failures and isinstance(self.failures[0], _NO_LOGIN):
            return  # no other failure says more
        if not (self.failures and isinstance(error, RequestTimedOutError)):  # our own timeout says least
            self.failures[:] = [error]
