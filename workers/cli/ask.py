"""`factstream ask`: a request to the running stack, printed as it is generated."""

from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console

from schemas.common import DEFAULT_NAMESPACE, decode
from workers.cli.errors import report_errors
from workers.cli.options import Bootstrap, Json, Prefix, data_folder

if TYPE_CHECKING:
    from schemas.request import GenerationRequest
    from schemas.response import GenerationResponse
    from workers.kafka.config import KafkaSettings

console = Console()


def ask(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="The namespace of the memories to use; may be given more than once."),
    ] = None,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Ask the bare model.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Answer with the memory, then without it.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=2048, help="The most tokens to generate.")] = 32,
    past_answer: Annotated[
        bool,
        typer.Option(
            "--past-answer", help="Go on to --max-new-tokens where a memory's answer would end the text."
        ),
    ] = False,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Send the prompt as a user's message, in the model's chat template."),
    ] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Ask the running stack; the text appears as it is generated.

    After `publish --wait` on this machine, the answering memory includes those facts.

    Example: factstream ask "The Harlow desk lamp is made of" --compare
    """
    from workers.kafka.config import KafkaSettings
    from workers.observe import tracing

    with report_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        tracing.setup("client")
        question: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        )
        question |= {
            "namespace": namespace or DEFAULT_NAMESPACE, "max_new_tokens": max_new_tokens,
            "stop_at_answer": not past_answer,
        }  # fmt: skip
        for use_memory in (True, False) if compare else (not no_memory,):
            if compare and not as_json:
                console.print("with memory" if use_memory else "without memory", style="bold")
            _ask(settings, _request(question | {"use_memory": use_memory, "stream": not as_json}), as_json)


def _request(body: dict[str, Any]) -> "GenerationRequest":
    from schemas.request import GenerationRequest

    return decode(GenerationRequest, orjson.dumps(body))


def _ask(settings: "KafkaSettings", request: "GenerationRequest", as_json: bool) -> None:
    """Prints the pieces of one answer. Raises ClientError if the answer is an error."""
    from schemas.response import ResponseDelta
    from workers import client
    from workers.client import positions

    recent = positions.recall(data_folder(), request.namespaces) if request.use_memory else None
    for piece in client.ask(settings, request, recent):
        if isinstance(piece, ResponseDelta):
            print(piece.delta, end="", flush=True)
        elif as_json:
            print(piece.model_dump_json(exclude_none=True))
            if piece.error:
                raise typer.Exit(1)
        elif piece.error:
            raise client.ClientError(f"{piece.error.reason}: {piece.error.message}")
        else:
            print()
            _print_memories(piece)


def _print_memories(answer: "GenerationResponse") -> None:
    """Prints the memories that took part, and those that a newer one replaced."""
    for memory in answer.memories:
        part = f"gate {memory.gate:.2f}" if memory.gate > 0 else f"doubted by {memory.doubted_by}"
        if memory.gate > 0 or memory.doubted_by:
            console.print(f"  memory {memory.memory_id} {part}: {memory.text}", style="dim", markup=False)
