"""`factstream worker`, `up`, `serve`, `mcp`, `mirror`: the commands that run until stopped."""

import os
import re
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.config import Settings
from schemas.common import DEFAULT_NAMESPACE
from workers.cli.errors import report_errors
from workers.cli.options import (
    Bootstrap,
    Data,
    Device,
    Json,
    LogFormat,
    MetricsPort,
    Model,
    Prefix,
    Sources,
    WorkerName,
)

if TYPE_CHECKING:
    from workers.kafka.config import KafkaSettings


def worker(
    name: Annotated[WorkerName, typer.Argument(help="Which worker.")],
    data: Data,
    config: Sources = None,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    model: Model = "default",
    device: Device = "auto",
    log_format: LogFormat = LogFormat.text,
    metrics_port: MetricsPort = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Encoder: refuse records with unknown fields.", envvar="FACTSTREAM_STRICT"
        ),
    ] = False,
    max_future_days: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=36_500.0,
            help="Writer: a fact dated later than so long after its Kafka timestamp is taken as of that.",
            envvar="FACTSTREAM_MAX_FUTURE_DAYS",
        ),
    ] = 1.0,
) -> None:
    """Run one worker against a Kafka cluster until SIGTERM or Ctrl-C. Only the source worker has a --config.

    Example: factstream worker encoder --bootstrap kafka:9092

    Example: factstream worker source --config sources.yaml --bootstrap kafka:9092
    """
    from workers.kafka.config import KafkaSettings
    from workers.observe import log, tracing
    from workers.observe.health import Health, serve
    from workers.runtime.loop import run
    from workers.runtime.signals import Stop

    log.setup(name.value, log_format.value)
    with report_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        tracing.setup(name.value)
        health = Health()
        if metrics_port:
            serve(metrics_port, health)
        stop = Stop()
        if name is WorkerName.source:
            from workers.source.config import load
            from workers.source.worker import SourceWorker

            if config is None:
                raise ValueError("the source worker needs --config FILE")
            raise typer.Exit(run(SourceWorker(settings, load(config)), settings, data, stop, health))
        if name is WorkerName.writer:
            from workers.write.worker import WriterWorker

            limits = Settings(max_future_days=max_future_days)
            raise typer.Exit(run(WriterWorker(settings, data, limits), settings, data, stop, health))
        if name is WorkerName.encoder:
            from workers.encode.worker import EncoderWorker

            encoder = EncoderWorker(settings, model, device, stop, strict)
            raise typer.Exit(run(encoder, settings, data, stop, health))
        from workers.generate.worker import BATCH, GeneratorWorker

        generator = GeneratorWorker(settings, data, model, device, stop)
        raise typer.Exit(run(generator, settings, data, stop, health, poll_ms=100, max_records=BATCH))


def up(
    data: Data,
    bootstrap: Bootstrap = None,
    model: Model = "default",
    port: Annotated[int, typer.Option(help="The embedded broker's port.")] = 9092,
    topic_prefix: Prefix = None,
    metrics_port: MetricsPort = None,
    source_config: Sources = None,
    http: Annotated[
        str | None,
        typer.Option(help="Also run `factstream serve` on PORT of this machine, or on HOST:PORT."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole stack: an embedded broker (unless --bootstrap is given) and one worker of each kind.

    With --source-config, also a source worker that reads other systems' topics; with --http, also the web page and the HTTP
    APIs. With --metrics-port, the encoder's metrics are on that port, the writer's on the next one, then the generator's, the
    source worker's and the HTTP server's.
    """
    from pipeline.model.hub import resolve
    from workers.runtime.stack import forked

    with report_errors():
        resolve(model)
        if forked.available([sys.executable, "-m"]):
            forked.start_server(model=model)  # it imports and loads while this process imports what it needs
        from workers.kafka.config import KafkaSettings
        from workers.observe import log
        from workers.runtime.supervisor import up as run_stack
        from workers.runtime.supervisor import worker_commands

        log.setup("up")
        embedded = not (bootstrap or os.environ.get("FACTSTREAM_BOOTSTRAP"))
        where = f"127.0.0.1:{port}" if embedded else bootstrap
        settings = KafkaSettings.from_env(bootstrap=where, topic_prefix=topic_prefix)
        upstream = _upstream(settings, source_config)
        commands = worker_commands(
            settings,
            data.absolute(),
            model,
            "text",
            metrics_port,
            source_config and source_config.absolute(),
            http,
        )
        run_stack(data, settings, commands, model, embedded, as_json=as_json, upstream=upstream)


def _upstream(settings: "KafkaSettings", source_config: Path | None) -> list[str]:
    """The topics that a source worker will read; a mistake in its configuration is reported before anything starts."""
    if source_config is None:
        return []
    from workers.source.config import load
    from workers.source.worker import SourceWorker

    worker = SourceWorker(settings, load(source_config))
    worker.close()
    return list(worker.upstream)


def serve(
    data: Data,
    host: Annotated[
        str,
        typer.Option(
            help="The address to serve on. One that others can reach needs a token in FACTSTREAM_TOKEN."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to serve on; 0 takes a free one.")
    ] = 8642,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    log_format: LogFormat = LogFormat.text,
    metrics_port: MetricsPort = None,
) -> None:
    """Serve the web page and the HTTP APIs until Ctrl-C: OpenAI's at /v1, for any client of it.

    With FACTSTREAM_TOKEN set, every request needs it: as OpenAI's api_key, or as the password that the browser asks for.

    Example: OPENAI_BASE_URL=http://127.0.0.1:8642/v1 OPENAI_API_KEY=none python my_program.py
    """
    from workers.http import server
    from workers.kafka.config import KafkaSettings
    from workers.observe import health, log, tracing
    from workers.runtime import ready

    log.setup("http", log_format.value)
    with report_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        tracing.setup("http")
        state = health.Health()
        if metrics_port:
            health.serve(metrics_port, state)
        token = os.environ.get("FACTSTREAM_TOKEN") or None
        say = (lambda url: ready.tell_ready({"http": url})) if ready.READY_FD in os.environ else server.tell
        server.serve(settings, data, host, port, say=say, token=token, health=state)


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


def mirror(
    data: Data,
    to: Annotated[
        str,
        typer.Option(help="The table: delta:// and a path, or s3://BUCKET/PATH, likewise gs:// and az://."),
    ],
    once: Annotated[bool, typer.Option("--once", help="Bring the table up to the history, and end.")] = False,
    log_format: LogFormat = LogFormat.text,
) -> None:
    """Follow the history into a Delta table, for Spark, Trino, DuckDB and others, until SIGTERM or Ctrl-C.

    It reads the data folder only, and commits once a minute at most. Every decision is in the table once, whatever is killed when. What
    is erased from the history is erased from the table. One mirror a table. The extra `delta` is needed: pip install 'factstream[delta]'.

    Example: factstream mirror --to delta:///srv/tables/history
    """
    from workers.observe import log

    log.setup("mirror", log_format.value)
    with report_errors():
        if find_spec("deltalake") is None:
            raise ValueError("a Delta table needs the package deltalake: pip install 'factstream[delta]'")
        from deltalake.exceptions import DeltaError

        from workers.mirror import follow
        from workers.mirror.table import address
        from workers.runtime.signals import Stop, stopped_by_signals

        stop, uri = Stop(), address(to)
        try:
            with stopped_by_signals(stop):
                if once:
                    passed = follow.once(data, uri, stop.is_set)
                    log.line("mirrored", rows=passed.rows, commits=passed.commits, erased_in=passed.rewritten)
                else:
                    follow.follow(data, uri, stop)
        except (DeltaError, OSError) as error:  # delta-rs tells its causes on lines of their own, in colours
            reason = re.sub(r"(\x1b\[[0-9;]*m|[\s↳])+", " ", str(error))
            raise ValueError(f"{uri}: {reason[:500]}") from error
        log.line("stopped" if stop.is_set() else "done")
