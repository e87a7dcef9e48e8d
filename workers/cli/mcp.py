"""`factstream mcp`: the memory as tools of an assistant, which starts the command and talks to it."""

import signal
from importlib.util import find_spec
from typing import Annotated

import typer

from schemas.common import DEFAULT_NAMESPACE
from workers.cli.errors import report_errors
from workers.cli.options import Bootstrap, Data, LogFormat, Prefix


def mcp(
    data: Data,
    namespace: Annotated[
        str, typer.Option(help="Whose memories the assistant may use: these and no others.")
    ] = DEFAULT_NAMESPACE,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    log_format: LogFormat = LogFormat.text,
) -> None:
    """Serve the memory to an assistant over MCP, on standard input and output, until they are closed.

    The host of the assistant starts it, for example Claude Desktop: see docs/mcp.md. `factstream up` has to run. The extra `mcp` is
    needed: pip install 'factstream[mcp]'.

    Example: factstream mcp --namespace me
    """
    with report_errors():
        if find_spec("mcp") is None:
            raise ValueError("MCP needs the package mcp: pip install 'factstream[mcp]'")
        from schemas.common import validate
        from schemas.fact import ForgetAll
        from workers.kafka.config import KafkaSettings
        from workers.mcp.server import over_stdio
        from workers.observe import log

        log.setup("mcp", log_format.value)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the thread that reads standard input cannot be woken
        valid = (
            validate(ForgetAll, {"forget_all": True, "namespace": namespace}).namespace or DEFAULT_NAMESPACE
        )
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        over_stdio(settings, data, valid)
