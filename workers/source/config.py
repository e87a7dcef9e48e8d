"""sources.yaml: which topics are read, and which statements a row of each makes.

Every mistake in it is reported with its line and path, before anything runs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from workers.source.templates import Condition, Template

MAX_CONFIG_BYTES = 1024 * 1024
MAX_VALUES = 100_000
"""Values of a file, those that its aliases repeat counted each time."""

Format = Literal["rows", "debezium", "cloudevents"]


class ConfigError(ValueError):
    """A configuration that cannot be used. The text says where and why."""


def _compiled(kind: type[Template] | type[Condition]) -> BeforeValidator:
    def compile_text(value: Any) -> Any:
        if isinstance(value, bool | int | float):
            value = str(value)  # YAML reads `key: 7` and `when: true` as such
        if not isinstance(value, str) or not value.strip():
            raise ValueError("a text is expected that is not blank; put it into quotes")
        return kind(value)

    return BeforeValidator(compile_text)


Text = Annotated[Template, _compiled(Template)]
When = Annotated[Condition, _compiled(Condition)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Statement(_Part):
    """One thing that a row states: its text, and the identity under which the next text replaces it."""

    text: Text
    key: Text | None = None
    """Template of the key; by default the topic, the record's key and the statement's name."""
    where: When | None = None
    """Condition of the records that are about it; others leave it as it is."""
    when: When | None = None
    """Whether the row states it; if not, it is forgotten."""
    namespace: Text | None = None
    category: Text | None = None
    metadata: dict[str, Text] = Field(default={}, max_length=64)
    valid_until: Text | None = None
    min_loss_delta: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class Source(_Part):
    """An upstream topic, how its changes are written, and what its rows state."""

    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    format: Format = "rows"
    compare_before: bool = True
    namespace: Text = Template("default")
    category: Text | None = None
    where: When | None = None
    when: When | None = None
    """Like the three above, the default of the statements that have none of their own."""
    statements: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")], Statement] = Field(
        min_length=1, max_length=100
    )

    @model_validator(mode="after")
    def _inherited(self) -> "Source":
        keys = [statement.key.text for statement in self.statements.values() if statement.key]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"two statements have the key {twice[0]!r}: each would replace the other's text")
        for name, statement in self.statements.items():
            inherited = {field: getattr(self, field) for field in ("namespace", "category", "where", "when")}
            own = {field: getattr(statement, field) or given for field, given in inherited.items()}
            self.statements[name] = statement.model_copy(update=own)
        return self


class Registry(_Part):
    """A schema registry. The login comes from the environment and never from a file."""

    url: str = Field(pattern=r"^https?://[^\s@]+$")
    timeout_s: float = Field(default=5.0, gt=0, le=60)


class Config(_Part):
    registry: Registry | None = None
    sources: list[Source] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_source_a_topic(self) -> "Config":
        topics = [source.topic for source in self.sources]
        if twice := sorted({topic for topic in topics if topics.count(topic) > 1}):
            raise ValueError(f"the topic {twice[0]} has two sources; one source may have many statements")
        return self


def load(path: Path) -> Config:
    """The configuration in a file. Raises ConfigError, and OSError if it cannot be read."""
    text = path.read_bytes()
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} has {len(text)} bytes; at most {MAX_CONFIG_BYTES} are read")
    return parse(text, str(path))


def parse(text: str | bytes, name: str = "sources.yaml") -> Config:
    """The configuration in a text; `name` is its name in errors. Raises ConfigError."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        lines: dict[Path_, int] = {}
        if root is not None:
            _find_lines(root, (), lines)
        body = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ConfigError(f"{name}:{error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply, or an alias inside of its own anchor") from None
    if not isinstance(body, dict):
        raise ConfigError(f"{name}: a mapping with the key `sources` is expected")
    try:
        return Config.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise ConfigError("\n".join(_sentence(name, one, lines) for one in found[:10])) from None


Path_ = tuple[str | int, ...]


def _find_lines(node: yaml.Node, path: Path_, lines: dict[Path_, int]) -> None:
    """Put the line of each value into `lines`, by its path. Raises ValueError where a mapping has a key twice: YAML keeps the last one."""
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MAX_VALUES:
        raise ValueError(f"{node.start_mark.line + 1}: more than {MAX_VALUES} values, with those of aliases")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner in lines:
                raise ValueError(f"{key.start_mark.line + 1}: {_dotted(inner)}: this key is there twice")
            lines[inner] = key.start_mark.line + 1
            _find_lines(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _find_lines(item, (*path, number), lines)


def _sentence(name: str, error: Any, lines: dict[Path_, int]) -> str:
    path: Path_ = tuple(part for part in error["loc"] if part != "[key]")
    line = next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 1)
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        text = "unknown key"
    elif error["type"] == "missing":
        text = "this key is missing"
    return f"{name}:{line}: {_dotted(path) + ': ' if path else ''}{text}"


def _dotted(path: Path_) -> str:
    return ".".join(map(str, path))
