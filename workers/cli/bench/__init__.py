"""`factstream bench`: measurements of recall, of the cost and speed of each step, and of the stack."""

from pathlib import Path
from typing import Annotated

import typer

from workers.bench import report
from workers.cli.bench.measuring import measuring
from workers.cli.errors import report_errors
from workers.cli.options import Device, Json, Model, Peer

app = typer.Typer(help="Measure recall, and the speed of each step and of the stack.", no_args_is_help=True)


@app.command()
def recall(
    facts: Annotated[Path, typer.Option(help="A JSON Lines file of facts and prompts for them.")],
    limit: Annotated[int, typer.Option(min=1, help="How many facts to ask about.")] = 1000,
    said: Annotated[int, typer.Option(min=1, help="For how many of those facts to generate texts.")] = 200,
    prompted: Annotated[
        int, typer.Option(min=1, help="For how many of those facts to measure prompting.")
    ] = 200,
    extra: Annotated[int, typer.Option(min=0, help="How many invented facts to learn as well.")] = 0,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write a .png of the main measures by size of memory.")
    ] = None,
) -> None:
    """Learn facts that no model knows, ask about them, and measure side effects.

    Each line of the file has text, target, target_true, prompt, paraphrases, question and update {text,
    target}, and optionally category, neighbours and reversed_text. All measures are shares. The loss gate
    skips none of these facts; it is measured separately. Prompting puts the best retrieved fact before the
    prompt.

    Example: factstream bench recall --facts facts.jsonl --limit 100
    """
    with measuring() as (progress, folder):
        if plot:
            from workers.bench import plot as plots

            plots.require()
        from pipeline.bench.comparison import Comparison, Limits
        from pipeline.bench.files import read_facts
        from pipeline.bench.recall import measure

        rows = read_facts(facts)  # a bad file fails before torch is loaded
        from pipeline import MemoryLM

        lm = MemoryLM.load(model, device)
        run = Comparison(lm, Limits(limit, said, prompted), progress, progress.show)
        result = measure(run, rows, extra, folder, with_curve=plot is not None)
    report.show(result, as_json, report.show_recall)
    if plot:
        with report_errors():
            plots.draw(result.curve, plot)


@app.command()
def talk(
    talk: Annotated[Path, typer.Option(help="A JSON Lines file of conversations, facts and questions.")],
    turns: Annotated[Path | None, typer.Option(help="LoCoMo's own file: learn its turns instead.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per conversation.")] = None,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Learn the facts of conversations, each in a namespace of its own, and ask about them.

    Each line of the file has conversation, facts {text, evidence} and questions {question, answer, evidence,
    category}, or turns, which become facts as in the encoder (examples/conversations.jsonl). Categories: 1 to 4
    where evidence is searched, 1 and 4 where answers are compared.
    """
    with measuring() as (progress, _):
        from pipeline.bench.comparison import Comparison, Limits
        from pipeline.bench.files import read_talks
        from pipeline.bench.talk.measure import measure
        from pipeline.bench.talk.turns import with_turns

        talks = with_turns(read_talks(talk), turns)  # a bad file fails before torch is loaded
        from pipeline import MemoryLM

        result = measure(Comparison(MemoryLM.load(model, device), Limits(), progress), talks, limit)
    report.show(result, as_json, report.show_talk)


@app.command()
def wild(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="JSON Lines files, a domain a line.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Asks of a domain, and prompts that no fact answers.")
    ] = None,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Learn facts as people write them, each domain in a namespace of its own, and ask about them.

    Each line of a file has domain, facts {id, day, text}, some with the id of an earlier fact that they
    replace, seem to change or repeat (replaces, beside, same_as); asks {text, facts, form, kind, answers};
    and silent {text, why}, prompts that no fact answers. An answer is right if one of its answers stands in
    its first line. --json also lists every answer and decision.

    Example: factstream bench wild wild.jsonl --limit 10
    """
    from workers.bench.wild import show_wild

    with measuring() as (progress, _):
        from pipeline.bench.wild.scenario import read_scenarios

        scenarios = read_scenarios(files)  # a bad file fails before torch is loaded
        from pipeline.bench.wild.measure import measure
        from pipeline.ingest.encoder import Encoder

        result = measure(Encoder.load(model, device), scenarios, limit, progress)
    report.show(result, as_json, show_wild)


@app.command()
def decide(
    scenarios: Annotated[
        list[Path], typer.Option(help="A JSON Lines file, as for `bench wild`; repeatable.")
    ],
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Count what is decided about facts that replace, repeat or only resemble earlier ones.

    Each domain's facts are decided twice: as they are, and with keys, of which a fact shares that of the one
    that it replaces or repeats. Right is a fact that acts on that one's memory, and otherwise is learned. A
    wrong replacement takes a memory that still holds. The loss gate takes no part, so no model is run.

    Example: factstream bench decide --scenarios examples/wild/dev.jsonl
    """
    from workers.bench.wild import show_decisions

    with measuring() as (progress, _):
        from pipeline.bench.wild.scenario import read_scenarios

        read = read_scenarios(scenarios)  # a bad file fails before torch is loaded
        from pipeline.bench.wild.decisions import measure
        from pipeline.ingest.encoder import Encoder

        result = measure(Encoder.load(model, device), read, progress)
    report.show(result, as_json, show_decisions)


@app.command()
def write(
    memories: Annotated[
        int, typer.Option(min=1000, help="Size of the large namespace; it holds at most 100000.")
    ] = 100_000,
    store: Annotated[
        str | None,
        typer.Option(help="Also measure it on a store, s3://, gs:// or az://BUCKET/PREFIX, beside."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the facts per second that the writer decides, in a large namespace and in one of 1,000 memories.

    The writer checks and decides made-up encodings and appends the decisions to a history, without a model or
    a broker. With --store, it does so in a folder and in a new prefix of the store, whose objects are removed.
    """
    with measuring() as (progress, folder):
        from workers.bench.write import measure, measure_stores

        if store:
            report.show(measure_stores(folder, store, memories, 1, progress), as_json)
        else:
            report.show(measure(folder, memories, 1, progress), as_json)


@app.command()
def query(
    rows: Annotated[
        int, typer.Option(min=1000, help="Rows of the history; 10000000 take a quarter of an hour.")
    ] = 1_000_000,
    flush: Annotated[int, typer.Option(min=1, help="Rows per file as it is written.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Measure the README's analyses over a history that was written in small files and compacted.

    Their times are compared with DuckDB's on the same columns of one flat Parquet file.
    """
    with measuring() as (progress, folder):
        from pipeline.bench.query import measure

        result = measure(folder, rows, flush, 1, progress)
    report.show(result, as_json)


@app.command()
def replica(
    memories: Annotated[int, typer.Option(min=100, help="How many memories to load.")] = 100_000,
    as_json: Json = False,
) -> None:
    """Measure how fast a generator loads its memories, compared with only reading them from the broker."""
    with measuring() as (progress, folder):
        from workers.bench.replica import measure

        result = measure(folder, memories, 1, progress)
    report.show(result, as_json)


@app.command()
def retrieve(
    memories: Annotated[int, typer.Option(min=1000, help="How many memories to search.")] = 100_000,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write a .png of a prompt's cost by size of memory.")
    ] = None,
) -> None:
    """Measure speed, recall and size of retrieval, compared with scoring every memory.

    The bank holds some invented facts that the model encodes, and variants of them with other names, since
    encoding them all would take an hour. The prompts are beginnings of facts, paraphrases and questions;
    encoding them is not counted.
    """
    with measuring() as (progress, _):
        if plot:
            from workers.bench import plot as plots

            plots.require()
        from pipeline.bench.retrieve import measure
        from pipeline.ingest.encoder import Encoder

        result = measure(Encoder.load(model, device), memories, progress)
    report.show(result, as_json, report.show_retrieval)
    if plot:
        with report_errors():
            plots.draw_costs(result.curve, plot)


@app.command()
def encode(
    facts: Annotated[int, typer.Option(min=64, help="How many invented facts to encode.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the medians are shown.")] = 3,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure the facts per second that are encoded, compared with the bare model's forward pass."""
    with measuring() as (progress, _):
        from pipeline.bench.encode import measure
        from pipeline.ingest.encoder import Encoder

        result = measure(Encoder.load(model, device), facts, rounds, progress)
    report.show(result, as_json)


@app.command()
def generate(
    tokens: Annotated[int, typer.Option(min=2, help="Tokens per answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the medians are shown.")] = 5,
    peer: Peer = None,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure the tokens per second with a memory, compared with transformers' generate of the bare model.

    Requests of mixed lengths are measured too: all together, compared with one after another.
    """
    with measuring() as (progress, _):
        from pipeline.bench.generate import measure_model

        result = measure_model(model, device, tokens, rounds, progress, beside_peer=peer is not None)
    report.show(result, as_json)


@app.command()
def stream(
    facts: Annotated[int, typer.Option(min=16, help="Facts per round.")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the medians are shown.")] = 3,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure the facts per second that a whole stack decides, compared with the encoder, and its start-up.

    It starts a stack of its own, with an embedded broker on a free port, in a temporary folder.
    """
    with measuring() as (progress, folder):
        from workers.bench.stream import measure

        result = measure(folder, model, device, facts, rounds, progress)
    report.show(result, as_json)
