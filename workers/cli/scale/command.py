"""`factstream bench scale`: its options, and where its costs come from."""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from workers.bench import report
from workers.cli.bench.measuring import measuring
from workers.cli.options import Device, Json, Model


def bench_scale(
    costs: Annotated[
        Path | None, typer.Option(help="Costs that an earlier run printed with --json, not measured again.")
    ] = None,
    memories: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10**10, help="May be repeated.", show_default="1000000, 10000000, 100000000"),
    ] = None,
    partitions: Annotated[
        list[int] | None,
        typer.Option(min=1, max=100_000, help="May be repeated.", show_default="10, 100, 1000"),
    ] = None,
    namespace_memories: Annotated[
        int, typer.Option(min=1, max=100_000, help="Memories of a namespace.")
    ] = 10_000,
    facts: Annotated[
        float, typer.Option(min=0, max=10_000, help="Facts a month for each memory: 1 renews all of them.")
    ] = 1.0,
    answers: Annotated[float, typer.Option(min=0, max=10_000, help="Answers a month for each memory.")] = 1.0,
    moves: Annotated[
        float,
        typer.Option(min=0, max=10**6, help="How often in a month a partition is read whole by a machine."),
    ] = 30.0,
    machine_gb: Annotated[float, typer.Option(min=0.1, help="Memory of a machine.")] = 64.0,
    start_minutes: Annotated[float, typer.Option(min=0.1, help="The longest that a start may take.")] = 10.0,
    storage_price: Annotated[
        float, typer.Option(min=0, help="Dollars a GB and month: S3 Standard, us-east-1, list of 2025.")
    ] = 0.023,
    put_price: Annotated[float, typer.Option(min=0, help="Dollars per 1,000 PUT or LIST, likewise.")] = 0.005,
    get_price: Annotated[float, typer.Option(min=0, help="Dollars per 1,000 GET, likewise.")] = 0.0004,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compute what binds first at 10 to 1,000 partitions and up to 100 million memories, and what a month costs.

    What one thing costs (to encode, decide, append, take over, hold and answer) is measured on this machine first, in a
    minute or two, or read from --costs. The rest is a model: docs/scaling.md.

    Example: factstream bench scale --json > scale.json; factstream bench scale --costs scale.json --partitions 200
    """
    with measuring() as (progress, folder):
        from workers.bench.scale import result
        from workers.bench.scale.model import Load, Prices

        known = result.read_costs(costs) if costs else None
        if known is None:
            from workers.bench.scale import probe

            known = probe.measure(folder, model, device, progress)
        loads = [
            Load(
                m, p, m * facts, m * answers, namespace_memories, reads_month=moves, machine_bytes=machine_gb * 1e9,
                start_s=start_minutes * 60,
            )
            for m, p in product(memories or (10**6, 10**7, 10**8), partitions or (10, 100, 1000))
        ]  # fmt: skip
        found = result.simulate(known, Prices(storage_price, put_price, get_price), loads)
    report.show(found, as_json, result.show)
