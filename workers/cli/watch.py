"""`factstream watch`: the observed cluster as a terminal screen or as JSON lines."""

import sys
from collections import Counter, deque
from typing import Any

import orjson
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from workers.client.events import plain
from workers.client.watch import ticks
from workers.kafka.config import KafkaSettings
from workers.runtime.signals import Stop, stopped_by_signals

MAX_DECISIONS = 8
MAX_ANSWERS = 4

TABLE_STYLE: dict[str, Any] = {
    "title_justify": "left",
    "title_style": "bold",
    "box": box.SIMPLE_HEAD,
    "padding": (0, 1),
    "show_edge": False,
}
COLOURS = {"learned": "green", "superseded": "green", "reinforced": "cyan", "evicted": "red"}


def run(settings: KafkaSettings, interval_s: float, as_json: bool) -> None:
    """Shows the cluster until SIGINT or SIGTERM. Raises KafkaUnavailable, TopicsMissing; ValueError without a terminal."""
    console = Console()
    if not as_json and not console.is_terminal:
        raise ValueError("standard output is not a terminal: use `factstream watch --json`")
    stop = Stop()
    with stopped_by_signals(stop):
        if as_json:
            for tick in ticks(settings, interval_s, stop):
                sys.stdout.buffer.write(orjson.dumps(tick) + b"\n")
                sys.stdout.buffer.flush()
            return
        screen = Screen(settings.bootstrap)
        with Live(screen.render(console.height), console=console, screen=True, auto_refresh=False) as live:
            for tick in ticks(settings, interval_s, stop):
                screen.take(tick)
                live.update(screen.render(console.height), refresh=True)


class Screen:
    """The contents of the terminal: the last tick, and totals since the start."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap, self._tick = bootstrap, dict[str, Any]()
        self._outcomes, self._dead_letters = Counter[str](), Counter[str]()
        self._decisions = deque[dict[str, Any]](maxlen=MAX_DECISIONS)
        self._answers = deque[dict[str, Any]](maxlen=MAX_ANSWERS)
        self._error: str | None = None

    def take(self, tick: dict[str, Any]) -> None:
        self._error = tick.get("error")
        if self._error is None:
            self._tick = tick
            self._outcomes.update(tick["outcomes"])
            self._dead_letters.update(tick["dead_letters"])
            self._decisions.extend(tick["decisions"])
            self._answers.extend(tick["answers"])

    def render(self, height: int = 50) -> Group:
        """The view, with as many decisions and answers as fit on `height` lines, at least one of each."""
        room = height - 20
        answers = max(1, min(MAX_ANSWERS, room // 3))
        decisions = max(1, min(MAX_DECISIONS, room - answers))
        return Group(
            self._header(),
            self._rates(),
            self._lag_table(),
            self._decisions_table(decisions),
            self._answers_table(answers),
            Text("Ctrl-C to quit", "dim"),
        )

    def _header(self) -> Text:
        time = plain(self._tick.get("time", ""))
        header = Text.assemble(("factstream", "bold"), f"  {self._bootstrap}  ", (time, "dim"))
        if self._error is not None:
            header.append(f"\n{plain(self._error)[:300]}; trying again", "red")
        elif not self._tick:
            header.append("\nconnecting …", "dim")
        return header

    def _rates(self) -> Text:
        rates = Text.assemble(
            (f"{self._tick.get('published_per_s', 0):.1f}", "bold"), " facts/s published   ",
            (f"{self._tick.get('decided_per_s', 0):.1f}", "bold"), " facts/s decided   since the start: ",
            _counts(self._outcomes) or "nothing decided",
        )  # fmt: skip
        if self._dead_letters:
            rates.append(f"\ndead letters: {_counts(self._dead_letters)}", "red")
        return rates

    def _lag_table(self) -> Table:
        lag: dict[str, dict[str, int]] = self._tick.get("lag", {})
        partitions = sorted({number for counts in lag.values() for number in counts}, key=int)[:16]
        table = Table(
            "lag", "all", *partitions, title="records not consumed yet, by partition", **TABLE_STYLE
        )
        for topic, counts in lag.items():
            row = [_number(sum(counts.values())), *(_number(counts.get(number, 0)) for number in partitions)]
            table.add_row(topic, *row)
        return table

    def _decisions_table(self, count: int) -> Table:
        table = Table("outcome", "loss delta", "fact", expand=True, title="decisions", **TABLE_STYLE)
        for decision in list(reversed(self._decisions))[:count]:
            outcome, delta = decision["outcome"], decision["loss_delta"]
            text = plain(decision["text"] or decision["memory_id"] or "")
            table.add_row(
                Text(outcome, COLOURS.get(outcome, "dim")),
                "" if delta is None else f"{delta:.2f}",
                _cell(text),
            )
        return table

    def _answers_table(self, count: int) -> Table:
        table = Table("prompt", "answer", "memories used", expand=True, title="answers", **TABLE_STYLE)
        for answer in list(reversed(self._answers))[:count]:
            memories = "; ".join(f"{m['gate']:.2f} {plain(m['text'])}" for m in answer["memories"])
            cells = [plain(answer["prompt"] or ""), plain(answer["error"] or answer["text"]), memories]
            table.add_row(*map(_cell, cells))
        return table


def _cell(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _number(count: int) -> Text:
    return Text(f"{count:,}", "yellow" if count else "dim", justify="right")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(8))
