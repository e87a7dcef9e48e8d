"""A chat with one user: what was learned and answered so far, and what the commands do with it."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

from pipeline.files import atomic_file
from pipeline.history.errors import HistoryError
from pipeline.query.export import export
from pipeline.query.filter import Filter
from pipeline.query.run import QueryError
from schemas.common import BadMessage
from schemas.response import GenerationResponse
from workers import client
from workers.assistant import answering, learning, remembered
from workers.assistant.learning import Learned
from workers.client import positions
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch

ERRORS = (
    client.ClientError, KafkaError, KafkaUnavailable, TopicsMismatch, BadMessage, QueryError, HistoryError, OSError
)  # fmt: skip
"""What a message or a command may end with; the chat goes on."""
KEPT_UNDO = 100
"""Most messages that can be taken back, one after the other."""
HELP = {
    "/why": "the memories that spoke in the last answer, and who said them when",
    "/memories [WORDS]": "what is remembered, the newest first, or what has these words",
    "/forget NUMBER": "forget a memory of the last list; /forget WORDS, if only one has them",
    "/undo": "take back what the last message taught; again for the one before",
    "/export FILE": "write the memories to a file, for `factstream memories import`",
    "/help": "this list",
    "/quit": "end the chat, as Ctrl-D does",
}


class Screen(Protocol):
    """Where a chat is shown."""

    def learned(self, learned: list[Learned]) -> None: ...
    def piece(self, text: str) -> None: ...
    def answered(self, answer: GenerationResponse) -> None: ...
    def listed(self, title: str, memories: list[dict[str, Any]]) -> None: ...
    def note(self, text: str) -> None: ...
    def failed(self, message: str) -> None: ...


class Session:
    """Close it, or use it as a context manager. Raises KafkaError, KafkaUnavailable."""

    def __init__(
        self,
        settings: KafkaSettings,
        data: Path,
        namespace: str,
        speaker: str | None,
        learns: bool,
        clock: Callable[[], datetime],
    ) -> None:
        """clock: the time, in the user's UTC offset."""
        self.over = False
        self._settings, self._data, self._namespace, self._speaker = settings, data, namespace, speaker
        self._learns, self._clock = learns, clock
        self._client = client.Client(settings)
        self._taught: list[list[Learned]] = []  # by message, the latest last
        self._answer: GenerationResponse | None = None
        self._list: list[dict[str, Any]] = []  # what /forget NUMBER is about
        self._commands: dict[str, Callable[[str, Screen], None]] = {
            "why": self._why, "memories": self._memories, "forget": self._forget, "undo": self._undo,
            "export": self._export, "help": self._help, "quit": self._quit,
        }  # fmt: skip

    def take(self, line: str, screen: Screen) -> bool:
        """Answers a message or carries out a command. Returns whether it went well."""
        try:
            if line.startswith("/"):
                name, _, rest = line[1:].partition(" ")
                if (command := self._commands.get(name)) is None:
                    screen.failed(f"there is no command /{name}; /help lists them")
                    return False
                command(rest.strip(), screen)
                return True
            return self._turn(line, screen)
        except ERRORS as error:
            screen.failed(str(error))
            return False

    def _turn(self, text: str, screen: Screen) -> bool:
        if self._learns:
            learned = learning.learn(
                self._settings, self._data, self._namespace, text, self._speaker, self._clock()
            )
            if learned:
                self._taught = [*self._taught, learned][-KEPT_UNDO:]
                screen.learned(learned)
        recent = positions.recall(self._data, [self._namespace])  # with what was just said
        asking = answering.request(text, self._namespace, self._speaker)
        for piece in answering.answer(self._client, asking, recent):
            if isinstance(piece, str):
                screen.piece(piece)
            elif piece.error:
                screen.failed(f"no answer: {piece.error.message} ({piece.error.reason})")
                return False
            else:
                self._answer = piece
                screen.answered(piece)
        return True

    # --- commands ---

    def _why(self, _: str, screen: Screen) -> None:
        if self._answer is None:
            screen.note("nothing was answered yet")
            return
        spoke = [memory for memory in self._answer.memories if memory.gate > 0 or memory.doubted_by]
        self._list = [
            {
                "memory_id": m.memory_id, "text": m.text, "gate": m.gate, "doubted_by": m.doubted_by,
                "speaker": (m.metadata or {}).get("speaker"), "said": (m.metadata or {}).get("said"),
            }
            for m in spoke
        ]  # fmt: skip
        if spoke:
            screen.listed("these memories spoke", self._list)
        else:
            screen.note("no memory spoke: the model answered by itself")

    def _memories(self, words: str, screen: Screen) -> None:
        self._list = remembered.find(self._data, self._namespace, words)
        if self._list:
            screen.listed(f"remembered in {self._namespace}", self._list)
        else:
            screen.note("nothing is remembered with these words" if words else "nothing is remembered yet")

    def _forget(self, what: str, screen: Screen) -> None:
        if not what:
            raise BadMessage("invalid-field", "which one? /forget NUMBER of the last list, or /forget WORDS")
        if what.isdecimal() and len(what) < 4:
            if not 0 < int(what) <= len(self._list):
                raise BadMessage("invalid-field", f"the last list has no number {what}; /memories shows one")
            found = [self._list[int(what) - 1]]
        else:
            found = self._list = remembered.find(self._data, self._namespace, what, all_words=True)
        if len(found) != 1:
            if found:
                screen.listed("which one? /forget NUMBER", found)
            else:
                screen.note("no memory has these words")
            return
        learning.forget(self._settings, self._data, self._namespace, [found[0]["memory_id"]])
        screen.note(f"forgotten: {found[0]['text']}")

    def _undo(self, _: str, screen: Screen) -> None:
        if not self._taught:
            screen.note("nothing to take back")
            return
        learning.undo(self._settings, self._data, self._namespace, self._taught[-1])
        for one in self._taught.pop():
            screen.note(f"{'still remembered' if one.outcome == 'reinforced' else 'taken back'}: {one.text}")

    def _export(self, file: str, screen: Screen) -> None:
        if not file:
            raise BadMessage("invalid-field", "to which file? /export FILE")
        path = Path(file).expanduser()
        try:
            with atomic_file(path, exclusive=True) as out:  # never over a file that is there
                counts = export(self._data, Filter(namespace=self._namespace), out, False, lambda _: None)
        except FileExistsError:
            raise BadMessage("invalid-field", f"{path} is there already: give another name") from None
        totals = ", ".join(f"{count} {state}" for state, count in counts.items())
        screen.note(f"memories written to {path}: {totals}")

    def _help(self, _: str, screen: Screen) -> None:
        screen.note("\n".join(f"{command:20} {text}" for command, text in HELP.items()))

    def _quit(self, _: str, screen: Screen) -> None:
        self.over = True

    def close(self) -> None:
        with suppress(KafkaError):
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
