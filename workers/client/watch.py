"""`factstream watch`: lag, facts a second, decisions and answers as they come, in a terminal or as JSON lines.

It reads the topics from their ends on and asks how far the workers' groups are; it joins no group, writes nothing, and
needs no data folder, so it may look at a cluster from anywhere. What it keeps is bounded. What stands on a topic may be
anything: it is decoded as the workers do it, and shown without control characters.
"""

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from kafka.errors import KafkaError
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from schemas import topics
from schemas.changelog import Decided, MemoryRecord, PositionRecord, decode_changelog
from schemas.common import BadMessage, parse_json, validate
from schemas.fact import Fact, decode_fact
from schemas.request import decode_request
from schemas.response import GenerationResponse
from workers.client.publishing import Tail
from workers.kafka.admin import TopicsMissing, reached, topic_ids
from workers.kafka.clients import KafkaSettings, KafkaUnavailable
from workers.runtime.supervisor import DRAINED, signals

FOLLOWED = (
    topics.FACTS, topics.GENERATION_REQUESTS, topics.MEMORY_CHANGELOG, topics.DEAD_LETTERS, topics.GENERATION_RESPONSES
)  # fmt: skip
KEPT = 5000  # texts and prompts that wait for their decision or their answer
TOLD = 1000  # decisions and answers of a tick
KEPT_CHARS = 400  # of each
SHOWN = 8  # decisions, and half as many answers
RATE_S = 10.0
RECONNECT_S = 1.0

LOSSES = (KafkaError, KafkaUnavailable, TopicsMissing)


@dataclass
class Seen:
    """What went by since the last tick, and what it takes to tell of it."""

    outcomes: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    decisions: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=TOLD))
    answers: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=TOLD))
    texts: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)

    def take(self, topic: str, record: Any) -> None:
        """A record of one of the topics followed, by its short name; what cannot be read is not of the workers."""
        try:
            if topic == topics.DEAD_LETTERS:
                reason = dict(record.headers).get("reason") or b"unknown"
                self.dead_letters[plain(reason[:64].decode("utf-8", "replace"))] += 1
            elif topic == topics.FACTS:
                _, fact = decode_fact(record.key, record.value)
                if isinstance(fact, Fact):
                    _keep(self.texts, f"{record.partition}/{record.offset}", fact.text)
            elif topic == topics.GENERATION_REQUESTS:
                request_id, request = decode_request(record.key, record.value)
                asked = request.prompt if request.messages is None else request.messages[-1].content
                _keep(self.prompts, request_id, (asked or "")[-KEPT_CHARS:])
            elif topic == topics.GENERATION_RESPONSES:
                body = parse_json(record.value)
                if "delta" not in body:
                    self._answered(validate(GenerationResponse, body))
            else:
                self._told(decode_changelog(record.key, record.value))
        except BadMessage:
            return

    def _told(self, told: MemoryRecord | PositionRecord | None) -> None:
        if isinstance(told, MemoryRecord):
            _keep(self.texts, told.memory_id, told.text)
        elif told is not None:
            for one in told.decided:
                self.outcomes[one.outcome] += 1
                self.decisions.append({
                    "outcome": one.outcome, "namespace": told.namespace, "loss_delta": one.loss_delta,
                    "memory_id": one.memory_id, "text": self._text(one),
                })  # fmt: skip

    def _text(self, one: Decided) -> str | None:
        """The fact's own where it went by; else that of its memory."""
        of_memory = self.texts.get(one.memory_id or "")
        return self.texts.pop(f"{one.partition}/{one.offset}", of_memory)

    def _answered(self, answer: GenerationResponse) -> None:
        spoke = [memory for memory in answer.memories if memory.gate > 0]
        self.answers.append({
            "request_id": answer.request_id, "prompt": self.prompts.pop(answer.request_id, None), "text": answer.text,
            "memories": [{"text": m.text, "gate": round(m.gate, 3)} for m in spoke],
            "generate_ms": round(answer.timings.generate_ms) if answer.timings else None,
            "error": answer.error.reason if answer.error else None,
        })  # fmt: skip


def _keep(kept: dict[str, str], key: str, value: str) -> None:
    kept.pop(key, None)
    kept[key] = value[:KEPT_CHARS]
    if len(kept) > KEPT:
        del kept[next(iter(kept))]


class Watch:
    """The connections, and the numbers of the last tick."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = settings.admin()
        topic_ids(self._admin, settings)  # raises TopicsMissing
        self._consumer = settings.consumer()
        self._tail = Tail(settings, FOLLOWED)
        self._history: deque[tuple[float, int, int]] = deque()
        self._decided = 0
        self._seen = Seen()

    def tick(self, interval_s: float, stop: threading.Event) -> dict[str, Any]:
        """What has gone by in so many seconds, and how things stand then."""
        end, seen = time.monotonic() + interval_s, self._seen
        while time.monotonic() < end and not stop.is_set():
            for record in self._tail.poll():
                seen.take(self._settings.short(record.topic), record)
        lag: dict[str, dict[str, int]] = {}
        published = 0
        for worker, names in DRAINED.items():
            for tp, (done, last) in reached(
                self._admin, self._consumer, self._settings, worker, names
            ).items():
                short = self._settings.short(tp.topic)
                lag.setdefault(short, {})[str(tp.partition)] = last - done
                published += last if short == topics.FACTS else 0
        self._decided += seen.outcomes.total()
        rates = self._rates(time.monotonic(), published)
        told = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "lag": lag, **rates,
            "outcomes": dict(seen.outcomes), "dead_letters": dict(seen.dead_letters),
            "decisions": list(seen.decisions), "answers": list(seen.answers),
        }  # fmt: skip
        for counted in (seen.outcomes, seen.dead_letters, seen.decisions, seen.answers):
            counted.clear()
        return told

    def _rates(self, now: float, published: int) -> dict[str, float]:
        """Over the last `RATE_S` seconds."""
        self._history.append((now, published, self._decided))
        while len(self._history) > 2 and self._history[1][0] < now - RATE_S:
            self._history.popleft()
        then, before, decided = self._history[0]
        took = max(now - then, 1e-9)
        if len(self._history) == 1:
            return {"published_per_s": 0.0, "decided_per_s": 0.0}
        return {
            "published_per_s": round(max(0, published - before) / took, 2),
            "decided_per_s": round((self._decided - decided) / took, 2),
        }

    def close(self) -> None:
        for client in (self._tail, self._consumer, self._admin):
            client.close()


def ticks(settings: KafkaSettings, interval_s: float, stop: threading.Event) -> Iterator[dict[str, Any]]:
    """A tick every so many seconds until `stop`. A broker that goes away is waited for; one that is not there at the
    beginning raises KafkaUnavailable, and one without factstream's topics TopicsMissing."""
    watch: Watch | None = Watch(settings)
    try:
        while not stop.is_set():
            try:
                watch = watch or Watch(settings)
                yield watch.tick(interval_s, stop)
            except LOSSES as error:
                if watch:
                    _quietly(watch.close)
                    watch = None
                yield {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "error": str(error)}
                stop.wait(RECONNECT_S)
    finally:
        if watch:
            _quietly(watch.close)


def _quietly(close: Callable[[], object]) -> None:
    try:
        close()
    except (KafkaError, OSError):
        return


def run(settings: KafkaSettings, interval_s: float, as_json: bool) -> None:
    """Until Ctrl-C or SIGTERM. Raises KafkaUnavailable, TopicsMissing, ValueError."""
    console = Console()
    if not as_json and not console.is_terminal:
        raise ValueError("standard output is no terminal: `factstream watch --json` prints a line a tick")
    stop = threading.Event()
    with signals(stop, hurry=stop):
        if as_json:
            for tick in ticks(settings, interval_s, stop):
                sys.stdout.buffer.write(orjson.dumps(tick) + b"\n")
                sys.stdout.buffer.flush()
            return
        screen = Screen(settings)
        with Live(screen.render(console.height), console=console, screen=True, auto_refresh=False) as live:
            for tick in ticks(settings, interval_s, stop):
                screen.take(tick)
                live.update(screen.render(console.height), refresh=True)


# --- the terminal ---


def plain(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


_LOOK: dict[str, Any] = {
    "title_justify": "left",
    "title_style": "bold",
    "box": box.SIMPLE_HEAD,
    "padding": (0, 1),
    "show_edge": False,
}
_COLOURS = {"learned": "green", "superseded": "green", "reinforced": "cyan", "evicted": "red"}


class Screen:
    """What the terminal shows: the last tick, and what has gone by since the start."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._where, self._tick = settings.bootstrap, dict[str, Any]()
        self._outcomes, self._letters = Counter[str](), Counter[str]()
        self._decisions = deque[dict[str, Any]](maxlen=SHOWN)
        self._answers = deque[dict[str, Any]](maxlen=SHOWN // 2)
        self._error: str | None = None

    def take(self, tick: dict[str, Any]) -> None:
        self._error = tick.get("error")
        if self._error is None:
            self._tick = tick
            self._outcomes.update(tick["outcomes"])
            self._letters.update(tick["dead_letters"])
            self._decisions.extend(tick["decisions"])
            self._answers.extend(tick["answers"])

    def render(self, height: int = 50) -> Group:
        """As many decisions and answers as fit on so many lines, one of each at least."""
        room = height - 20
        answers = max(1, min(SHOWN // 2, room // 3))
        decisions = max(1, min(SHOWN, room - answers))
        head = Text.assemble(
            ("factstream", "bold"), f"  {self._where}  ", (plain(self._tick.get("time", "")), "dim")
        )
        if self._error is not None:
            head.append(f"\n{plain(self._error)[:300]}; trying again", "red")
        elif not self._tick:
            head.append("\nconnecting …", "dim")
        rates = Text.assemble(
            (f"{self._tick.get('published_per_s', 0):.1f}", "bold"), " facts/s published   ",
            (f"{self._tick.get('decided_per_s', 0):.1f}", "bold"), " facts/s decided   since the start: ",
            _counted(self._outcomes) or "nothing decided",
        )  # fmt: skip
        if self._letters:
            rates.append(f"\ndead letters: {_counted(self._letters)}", "red")
        return Group(
            head,
            rates,
            self._lag(),
            self._recent(decisions),
            self._said(answers),
            Text("Ctrl-C ends this", "dim"),
        )

    def _lag(self) -> Table:
        lag: dict[str, dict[str, int]] = self._tick.get("lag", {})
        numbers = sorted({number for of in lag.values() for number in of}, key=int)[:16]
        table = Table("lag", "all", *numbers, title="records that wait, by partition", **_LOOK)
        for topic, of in lag.items():
            row = [_number(sum(of.values())), *(_number(of.get(number, 0)) for number in numbers)]
            table.add_row(topic, *row)
        return table

    def _recent(self, count: int) -> Table:
        table = Table("outcome", "loss delta", "fact", expand=True, title="decisions", **_LOOK)
        for one in list(reversed(self._decisions))[:count]:
            delta = "" if one["loss_delta"] is None else f"{one['loss_delta']:.2f}"
            text = plain(one["text"] or one["memory_id"] or "")
            table.add_row(
                Text(one["outcome"], _COLOURS.get(one["outcome"], "dim")),
                delta,
                Text(text, no_wrap=True, overflow="ellipsis"),
            )
        return table

    def _said(self, count: int) -> Table:
        table = Table("prompt", "answer", "memories that spoke", expand=True, title="answers", **_LOOK)
        for one in list(reversed(self._answers))[:count]:
            memories = "; ".join(f"{m['gate']:.2f} {plain(m['text'])}" for m in one["memories"])
            cells = [plain(one["prompt"] or ""), plain(one["error"] or one["text"]), memories]
            table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
        return table


def _number(count: int) -> Text:
    return Text(f"{count:,}", "yellow" if count else "dim", justify="right")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(8))
