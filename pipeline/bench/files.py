"""Input files of the measurements: facts with prompts for them, and conversations with questions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

Text = Annotated[str, Field(min_length=1)]


class BenchFileError(ValueError):
    """A file that cannot be used. The text names the file, the line and the error there."""


class Line(BaseModel):
    """A line of a file, as an object. Further fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=False)


class Update(Line):
    """A later fact on the same subject and relation."""

    text: Text
    target: Text


class FactRow(Line):
    """A false fact, which no frozen model can know: `text` ends in `target`, where the truth is `target_true`."""

    category: str | None = None
    text: Text
    target: Text
    target_true: Text
    prompt: Text
    paraphrases: Annotated[tuple[Text, ...], Field(min_length=1)]
    question: Text
    neighbours: tuple[Text, ...] = ()
    """Prompts about other subjects, whose answer is `target_true`, and must not be changed by the memory."""
    update: Update
    reversed_text: Text | None = None
    """The fact with its object first."""


class TalkFact(Line):
    """A fact that is stated in a conversation."""

    text: Text
    evidence: tuple[str, ...] = ()
    """The turns of the conversation that support it."""


class TalkQuestion(Line):
    """A question about a conversation, and its answer."""

    question: Text
    answer: str
    evidence: tuple[str, ...] = ()
    category: int
    """1: several facts, 2: time, 3: open, 4: one fact, 5: not answered in the conversation."""


class TalkTurn(Line):
    """What somebody said."""

    id: Text
    """Name of the turn in the evidence of facts and questions."""
    speaker: Text
    at: AwareDatetime
    said: str
    worth: tuple[str, ...] = ()
    """The sentences of it that are worth a memory."""


class Talk(Line):
    """A conversation, with its facts, or with its turns, and questions about it."""

    conversation: Text
    facts: tuple[TalkFact, ...] = ()
    turns: tuple[TalkTurn, ...] = ()
    questions: tuple[TalkQuestion, ...]

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.facts and not self.turns:
            raise ValueError("neither facts nor turns")
        return self


L = TypeVar("L", bound=Line)


def read_facts(file: Path) -> list[FactRow]:
    """The rows of a file of facts, JSON lines. Raises BenchFileError."""
    rows = read_lines(file, FactRow)
    seen: dict[str, int] = {}
    for number, row in rows:
        if row.text in seen:
            raise BenchFileError(f"{file}, line {number}: the same text as in line {seen[row.text]}")
        seen[row.text] = number
    return [row for _, row in rows]


def read_talks(file: Path) -> list[Talk]:
    """The conversations of a file, JSON lines. Raises BenchFileError."""
    return [talk for _, talk in read_lines(file, Talk)]


def read_lines(file: Path, kind: type[L]) -> Sequence[tuple[int, L]]:
    """The (line number, row) of every line that is not blank. Raises BenchFileError."""
    rows = []
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise BenchFileError(f"{file}: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append((number, kind.model_validate_json(line)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            what = f"{field}: {first['msg']}" if field else first["msg"]
            raise BenchFileError(f"{file}, line {number}: {what}") from None
    if not rows:
        raise BenchFileError(f"{file}: it has no lines")
    return rows
