"""The command line: every command mirrors one library call. Heavy imports wait until a command needs them."""

import os
import sys
import threading
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from schemas.common import DEFAULT_NAMESPACE, BadMessage, validate
from schemas.fact import Fact, Forget
from workers.cli.bench import app as bench_app
from workers.cli.errors import clear_errors as _clear_errors
from workers.cli.errors import errors
from workers.cli.memories import app as memories_app
from workers.cli.options import (
    DATA,
    Bootstrap,
    Data,
    Device,
    Json,
    LogFormat,
    MetricsPort,
    Model,
    Prefix,
    WorkerName,
)
from workers.cli.tables import Format, show_query

app = typer.Typer(help="Continual learning for frozen language models, as a stream.", no_args_is_help=True)
model_app = typer.Typer(help="The frozen model.", no_args_is_help=True)
schemas_app = typer.Typer(help="The messages' schemas.", no_args_is_help=True)
app.add_typer(memories_app, name="memories")
app.add_typer(model_app, name="model")
app.add_typer(schemas_app, name="schemas")
app.add_typer(bench_app, name="bench")
console = Console()

# Threads that spin while they wait for each other take the cores from the workers beside them: two encoders on two
# cores then do a third of what they do in turns. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@app.command()
def worker(
    name: WorkerName,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    data: Data = DATA,
    model: Model = "default",
    device: Device = "auto",
    log_format: LogFormat = LogFormat.text,
    metrics_port: MetricsPort = None,
) -> None:
    """Run one worker against a Kafka cluster until SIGTERM or Ctrl-C."""
    from workers.kafka.clients import KafkaSettings
    from workers.observe import log, metrics, tracing
    from workers.runtime.loop import Worker, run

    log.setup(name.value, log_format.value)
    with _clear_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        tracing.setup(name.value)
        if metrics_port:
            metrics.serve(metrics_port)
        made: Worker
        stop = threading.Event()
        if name is WorkerName.writer:
            from workers.write.worker import WriterWorker

            made = WriterWorker(settings, data)
        elif name is WorkerName.encoder:
            from workers.encode.worker import EncoderWorker

            made = EncoderWorker(settings, model, device, stop)
        else:
            from workers.generate.worker import BATCH, GeneratorWorker

            made = GeneratorWorker(settings, data, model, device, stop)
            raise typer.Exit(run(made, settings, data, stop, poll_ms=100, max_records=BATCH))
        raise typer.Exit(run(made, settings, data, stop))


@app.command()
def up(
    data: Data = DATA,
    bootstrap: Bootstrap = None,
    model: Model = "default",
    port: Annotated[int, typer.Option(help="Of the embedded broker.")] = 9092,
    topic_prefix: Prefix = None,
    metrics_port: MetricsPort = None,
    as_json: Json = False,
) -> None:
    """Run the whole stack: an embedded broker (unless --bootstrap is given) and one of each worker.

    With --metrics-port the encoder's metrics are on that port, the writer's on the next one, then the generator's.
    """
    from workers.kafka.clients import KafkaSettings
    from workers.observe import log
    from workers.runtime.supervisor import up as run_stack
    from workers.runtime.supervisor import worker_commands

    log.setup("up")
    with _clear_errors():
        embedded = not (bootstrap or os.environ.get("FACTSTREAM_BOOTSTRAP"))
        where = f"127.0.0.1:{port}" if embedded else bootstrap
        settings = KafkaSettings.from_env(bootstrap=where, topic_prefix=topic_prefix)
        from pipeline.model.hub import resolve

        resolve(model)
        commands = worker_commands(settings, data.absolute(), model, "text", metrics_port)
        run_stack(data, settings, commands, model, embedded, as_json=as_json)


@app.command()
def publish(
    file: Annotated[str, typer.Argument(help="JSON Lines or plain text lines; - is standard input.")],
    namespace: Annotated[str | None, typer.Option(help="For facts that name none.")] = None,
    category: str | None = None,
    source: str | None = None,
    min_loss_delta: Annotated[float | None, typer.Option(help="0 learns whatever is new.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Publish the first N only.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until every fact is durably decided.")] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Publish facts. Sends the fields that a fact has, and names those it left out.

    With --wait, what a broker did not confirm or has lost is sent again, and counts once; the position that was
    reached is printed, and `factstream ask` on this machine is answered from a memory that has it.
    """
    from workers.client import positions
    from workers.client import publishing as client
    from workers.kafka.clients import KafkaSettings
    from workers.observe import tracing

    given = {"namespace": namespace, "category": category, "source": source, "min_loss_delta": min_loss_delta}
    left_out: dict[str, None] = {}
    refused: list[str] = []

    def facts() -> Iterator[tuple[str, Fact | Forget]]:
        for number, line in enumerate(lines, 1):
            if limit is not None and number > limit:
                return
            if not line.strip():
                continue
            try:
                fact, more = _fact_of(line, {k: v for k, v in given.items() if v is not None})
            except BadMessage as error:
                refused.append(f"line {number}: {error}")
                continue
            left_out.update(dict.fromkeys(more))
            yield fact.namespace or DEFAULT_NAMESPACE, fact

    with (
        _clear_errors(),
        sys.stdin.buffer if file == "-" else Path(file).open("rb") as lines,
        Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar,
    ):
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        tracing.setup("client")
        task = bar.add_task("publishing", total=None)
        done = client.publish(
            settings, facts(), wait,
            lambda sent, decided: bar.update(task, total=sent, completed=decided if wait else sent),
        )  # fmt: skip
        if done.after and wait:
            positions.remember(DATA, done.after)
    result = {"sent": done.sent, "refused": refused, "left_out": list(left_out)}
    result |= {"outcomes": dict(done.outcomes), "after": done.after} if wait else {}
    if as_json:
        print(orjson.dumps(result).decode())
    else:
        console.print(f"{done.sent} published", highlight=False)
        if wait:
            told = ", ".join(f"{count} {outcome}" for outcome, count in done.outcomes.most_common())
            console.print(f"{sum(done.outcomes.values())} decided: {told}", highlight=False)
            for namespace, logs in list(done.after.items())[:20]:
                where = ", ".join(f"{log} {offset}" for log, offset in logs.items())
                console.print(f"position of {namespace}: {where}", highlight=False, markup=False)
        if left_out:
            console.print(f"fields left out: {', '.join(left_out)}", highlight=False, markup=False)
        for line in refused[:20]:
            errors.print(line, style="red", markup=False, highlight=False)
    if refused:
        errors.print(f"{len(refused)} lines are no facts and were not sent", style="red")
    if lost := done.outcomes["dead-lettered"]:
        errors.print(f"{lost} facts are in the dead letters: see their reasons there", style="red")
    if refused or lost:
        raise typer.Exit(1)


def _fact_of(line: bytes, given: dict[str, Any]) -> tuple[Fact, list[str]]:
    """The fact of a line of JSON or of plain text, and the names of the fields that a fact does not have."""
    try:
        body = orjson.loads(line) if line.lstrip().startswith(b"{") else {"text": line.decode().strip()}
    except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadMessage("invalid-json", f"neither JSON nor text: {error}") from None
    known = {name: value for name, value in body.items() if name in Fact.model_fields and value is not None}
    return validate(Fact, given | known), [name for name in body if name not in Fact.model_fields]


@app.command()
def ask(
    prompt: str,
    namespace: Annotated[list[str] | None, typer.Option(help="May be given more than once.")] = None,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="The bare model.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="With memory, then without.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=2048)] = 32,
    chat: Annotated[
        bool, typer.Option("--chat", help="As a user's turn in the model's chat template.")
    ] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Ask the running stack; the text appears as it is generated.

    After `publish --wait` on this machine, only a memory that has those facts answers.
    """
    from schemas.common import decode
    from schemas.request import GenerationRequest
    from schemas.response import ResponseDelta
    from workers.client import positions
    from workers.client import publishing as client
    from workers.kafka.clients import KafkaSettings
    from workers.observe import tracing

    with _clear_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        tracing.setup("client")
        for use_memory in (True, False) if compare else (not no_memory,):
            asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
            body = asked | {
                "namespace": namespace or DEFAULT_NAMESPACE, "max_new_tokens": max_new_tokens,
                "use_memory": use_memory, "stream": not as_json,
            }  # fmt: skip
            request = decode(GenerationRequest, orjson.dumps(body))
            if compare and not as_json:
                console.print("with memory" if use_memory else "without memory", style="bold")
            recent = positions.recall(DATA, request.namespaces) if use_memory else None
            for answer in client.ask(settings, request, recent):
                if isinstance(answer, ResponseDelta):
                    print(answer.delta, end="", flush=True)
                elif as_json:
                    print(answer.model_dump_json(exclude_none=True))
                    if answer.error:
                        raise typer.Exit(1)
                elif answer.error:
                    raise client.ClientError(f"{answer.error.reason}: {answer.error.message}")
                else:
                    print()
                    for m in (m for m in answer.memories if m.gate > 0):
                        console.print(
                            f"  memory {m.memory_id} gate {m.gate:.2f}: {m.text}", style="dim", markup=False
                        )


@app.command()
def watch(
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Lag, facts a second, decisions and answers as they come; with --json a line a look. Ctrl-C ends it."""
    from workers.client.watch import run
    from workers.kafka.clients import KafkaSettings

    with _clear_errors():
        run(KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix), interval, as_json)


@app.command()
def query(sql: str, format: Annotated[Format, typer.Option()] = Format.table, data: Data = DATA) -> None:
    """Ask SQL about what the memory learned: views history, memories, generations, dead_letters."""
    show_query(data, sql, format)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="An address of this machine; there is no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8642,
    data: Data = DATA, bootstrap: Bootstrap = None, topic_prefix: Prefix = None,
) -> None:  # fmt: skip
    """A web page until Ctrl-C: ask with and without memory, publish, see what was learned and why."""
    from workers.http.server import serve
    from workers.kafka.clients import KafkaSettings

    with _clear_errors():
        serve(KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix), data, host, port)


@app.command()
def digest(data: Data = DATA) -> None:
    """SHA-256 of the memory that the history leads to."""
    from pipeline.history import log as history
    from pipeline.memory import bank

    with _clear_errors():
        banks = [
            bank.fold(decision for _, rows in history.read(data, n) for decision in rows)
            for n in history.partitions(data)
        ]
        print(bank.digest(banks))


@model_app.command("pull")
def model_pull(model: Annotated[str, typer.Argument(envvar="FACTSTREAM_MODEL")] = "default") -> None:
    """Fetch and convert a model, and print its folder."""
    from pipeline.model.hub import resolve

    with _clear_errors():
        print(resolve(model))


@model_app.command("calibrate")
def model_calibrate(model: Annotated[str, typer.Argument(envvar="FACTSTREAM_MODEL")] = "default") -> None:
    """Make the model's calibration, which its word states are compared by, and print the file.

    Workers make it by themselves when it is missing; all of them must have the same file, so make it once and copy it.
    """
    from pipeline.model.backbone import Backbone
    from pipeline.model.calibration import calibrate, calibration_path, keep

    with _clear_errors():
        backbone = Backbone.load(model)
        errors.print(f"calibrating {model}: the model writes a few hundred short texts")
        print(keep(calibrate(backbone), calibration_path(backbone)))


@schemas_app.command("export")
def schemas_export(folder: Path) -> None:
    """Write the JSON Schemas and the AsyncAPI document into a folder."""
    from schemas.export import export

    with _clear_errors():
        folder.mkdir(parents=True, exist_ok=True)
        print(*export(folder), sep="\n")


@app.command()
def doctor(
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    data: Data = DATA,
    model: Model = "default",
    as_json: Json = False,
) -> None:
    """What is installed, which model, which broker; exit code 1 when something is wrong."""
    from workers.cli.doctor import examine
    from workers.kafka.clients import KafkaSettings

    with _clear_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        report = examine(settings, data, model)
    if as_json:
        print(orjson.dumps(report).decode())
    else:
        for name, value in report.items():
            if name != "wrong":
                console.print(f"{name:14} {value}", markup=False, highlight=False)
        for line in report["wrong"]:
            errors.print(f"wrong: {line}", style="red", markup=False, highlight=False)
    if report["wrong"]:
        raise typer.Exit(1)


@app.command()
def demo(facts: Annotated[Path | None, typer.Option(help="JSON Lines to stream at the end.")] = None) -> None:
    """The main job end to end, in a temporary folder on a free port."""
    from workers.cli.demo import run

    with _clear_errors():
        raise typer.Exit(run(facts))


def main() -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        # Who reads us through a pipe waits for lines, not for 8 KiB.
        sys.stdout.reconfigure(line_buffering=True)
    app()
