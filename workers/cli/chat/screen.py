"""The two screens of `factstream chat`: a terminal, and a line of JSON for each event."""

from typing import Any

import orjson
from rich.console import Console

from schemas.response import GenerationResponse
from workers.assistant.learning import Learned
from workers.client.events import plain

console = Console(highlight=False)


class Terminal:
    """The answer as it comes, and what was learned and which memories spoke in a quiet colour."""

    def ready(self, bootstrap: str, namespace: str) -> None:
        if console.is_terminal:
            self._quiet(
                f"{namespace} at {bootstrap}. What you state is learned; /help lists the commands, Ctrl-D ends."
            )

    def learned(self, learned: list[Learned]) -> None:
        for one in learned:
            self._quiet(f"  {'known' if one.outcome == 'reinforced' else 'learned'}: {one.text}")

    def piece(self, text: str) -> None:
        print("".join(char for char in text if char.isprintable() or char == "\n"), end="", flush=True)

    def answered(self, answer: GenerationResponse) -> None:
        cut = answer.finish_reason == "length" and not answer.text.endswith((".", "!", "?"))
        print(" …" if cut else "")
        for memory in answer.memories:
            if memory.gate > 0:
                self._quiet(f"  memory, gate {memory.gate:.2f}: {memory.text}")

    def listed(self, title: str, memories: list[dict[str, Any]]) -> None:
        console.print(title, style="bold", markup=False)
        for number, memory in enumerate(memories, 1):
            console.print(f"{number:3}  {plain(memory['text'])}", markup=False)
            if details := ", ".join(_details(memory)):
                self._quiet(f"     {details}")

    def note(self, text: str) -> None:
        console.print(text, markup=False)

    def failed(self, message: str) -> None:
        console.print(f"error: {plain(message)}", style="red", markup=False)

    def stopped(self) -> None:
        print(" …")

    def _quiet(self, text: str) -> None:
        console.print(
            plain(text) if not text.startswith(" ") else f"  {plain(text)}", style="dim", markup=False
        )


def _details(memory: dict[str, Any]) -> list[str]:
    found = []
    if memory.get("gate"):
        found.append(f"gate {memory['gate']:.2f}")
    if memory.get("doubted_by"):
        found.append(f"doubted by {memory['doubted_by']}")
    if memory.get("said"):
        found.append(f"{memory.get('speaker') or 'the user'} said: {plain(str(memory['said']))}")
    if memory.get("observed_at"):
        found.append(f"{memory['observed_at']:%Y-%m-%d %H:%M} UTC")
    if memory.get("uses"):
        found.append("used once" if memory["uses"] == 1 else f"used {memory['uses']} times")
    return found


class Json:
    """A line for each event: {"event": …} and what belongs to it."""

    def ready(self, bootstrap: str, namespace: str) -> None:
        self._line("ready", bootstrap=bootstrap, namespace=namespace)

    def learned(self, learned: list[Learned]) -> None:
        for one in learned:
            self._line("learned", memory_id=one.memory_id, text=one.text, outcome=one.outcome)

    def piece(self, text: str) -> None:
        self._line("delta", delta=text)

    def answered(self, answer: GenerationResponse) -> None:
        memories = [memory.model_dump(mode="json", exclude_none=True) for memory in answer.memories]
        self._line("answer", text=answer.text, finish_reason=answer.finish_reason, memories=memories)

    def listed(self, title: str, memories: list[dict[str, Any]]) -> None:
        self._line("list", title=title, memories=memories)

    def note(self, text: str) -> None:
        self._line("note", text=text)

    def failed(self, message: str) -> None:
        self._line("error", message=message)

    def stopped(self) -> None:
        self._line("stopped")

    def _line(self, event: str, **fields: object) -> None:
        print(orjson.dumps({"event": event} | fields, option=orjson.OPT_UTC_Z).decode(), flush=True)
