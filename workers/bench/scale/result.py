"""The result of `bench scale`: the costs and prices, and what the model says of each scale."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table

from workers.bench.report import console
from workers.bench.scale import model
from workers.bench.scale.model import FULL, PARTITIONED, Costs, Load, Month, Prices


@dataclass(frozen=True)
class Replicas:
    """What binds first with one kind of generator, and how many of them it takes."""

    binds_first: str
    used: float  # of the most that there can be of it
    uses: dict[str, float]
    generators: int
    generators_gb: float


@dataclass(frozen=True)
class Scale:
    load: Load
    busiest_share: float
    encoders: int
    learning_days: float
    full: Replicas
    partitioned: Replicas
    month: Month
    month_puts: float
    month_dollars: float


@dataclass(frozen=True)
class Result:
    costs: Costs
    prices: Prices
    scales: list[Scale]


def simulate(costs: Costs, prices: Prices, loads: Sequence[Load]) -> Result:
    return Result(costs, prices, [_scale(load, costs, prices) for load in loads])


def _scale(load: Load, costs: Costs, prices: Prices) -> Scale:
    month = model.month(load, costs, prices)
    return Scale(
        load, model.busiest_share(load), model.encoders(load, costs), model.learning_days(load, costs),
        _replicas(load, costs, FULL), _replicas(load, costs, PARTITIONED), month, month.puts, month.dollars,
    )  # fmt: skip


def _replicas(load: Load, costs: Costs, replica: str) -> Replicas:
    first, used = model.binds(load, costs, replica)
    held = model.generators_bytes(load, costs, replica)
    return Replicas(
        first,
        used,
        model.uses(load, costs, replica),
        model.generators(load, costs, replica),
        held / 1e9,
    )


def read_costs(file: Path) -> Costs:
    """The costs that an earlier run has printed with --json. Raises ValueError."""
    try:
        given = orjson.loads(file.read_bytes())["costs"]
        numbers: dict[str, Any] = {f.name: given[f.name] for f in fields(Costs)}
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not the output of `factstream bench scale --json`: {error}") from None
    for name, value in numbers.items():
        if type(value) not in (int, float) or value < 0 or (value == 0 and name.endswith("_s")):
            raise ValueError(f"{file}: costs.{name} must be a number above 0, not {value!r}")
    return Costs(**numbers)


def show(result: Result) -> None:
    """Prints the costs and three tables of scales, each at most 100 columns wide."""
    for name, value in asdict(result.costs).items():
        console.print(f"{name:20} {value:,.4g}" if value < 100 else f"{name:20} {value:,.0f}", markup=False)
    _show_table(
        result, "What binds first: the share that is used of the most there can be, a process for each partition",
        ("busiest", "full replicas", "partitioned ones", "days"),
        lambda one: (
            f"{one.busiest_share:.1%}", f"{one.full.binds_first} {one.full.used:.2g}",
            f"{one.partitioned.binds_first} {one.partitioned.used:.2g}", f"{one.learning_days:,.1f}",
        ),
    )  # fmt: skip
    _show_table(
        result, "Processes, and the memory of all generators",
        ("encoders", "full generators", "GB", "partitioned ones", "GB"),
        lambda one: (
            f"{one.encoders:,}", f"{one.full.generators:,}", f"{one.full.generators_gb:,.0f}",
            f"{one.partitioned.generators:,}", f"{one.partitioned.generators_gb:,.0f}",
        ),
    )  # fmt: skip
    _show_table(
        result, "A month in an object store", ("objects", "PUTs", "dollars"),
        lambda one: (f"{one.month.objects:,.0f}", f"{one.month_puts:,.0f}", f"{one.month_dollars:,.2f}"),
    )  # fmt: skip
    p = result.prices
    console.print(
        "Above 1 it does not work. Busiest: the part of everything that the busiest partition has.\n"
        "Days: until all is learned from nothing.\n"
        f"Dollars: storage {p.gb_month:g} a GB and month; PUT and LIST {p.put_1000:g}, GET {p.get_1000:g} a thousand.\n"
        "Formulas and what they leave out: workers/bench/scale/model.py",
        markup=False,
    )


def _show_table(
    result: Result, title: str, columns: Sequence[str], cells: Callable[[Scale], Sequence[str]]
) -> None:
    """A table with a row for each scale."""
    table = Table("memories", "partitions", *columns, title=title, title_justify="left")
    for one in result.scales:
        table.add_row(f"{one.load.memories:,}", f"{one.load.partitions:,}", *cells(one))
    console.print(table)
