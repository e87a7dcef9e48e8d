"""Batched generation with memories: the model's loop over tokens, where each row may read its own memories.

Knows the backbone and readings; knows nothing of how memories were found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pipeline.backbone import Backbone
from pipeline.reading import Reading
from schemas.response import Token

REPEAT = 5  # tokens

OnToken = Callable[[int, str], bool]
"""(row, piece of text) -> go on?"""


@dataclass(slots=True)
class Row:
    """One answer in the making."""

    ids: list[int]
    reading: Reading
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[str] = ()
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    sent: int = 0
    finish_reason: str = ""
    # Where asked for: of each token how far the memories raised its probability, and where the text ends with it.
    moved: list[tuple[float, int]] | None = None


def generate(backbone: Backbone, rows: Sequence[Row], on_token: OnToken | None = None) -> None:
    """Fills in each row's tokens, text and finish_reason ("stop" or "length")."""
    if not rows:
        return
    dice = [torch.Generator().manual_seed(row.seed) for row in rows]
    ids, mask = backbone.pad([backbone.clip(row.ids, row.max_new_tokens) for row in rows], left=True)
    logits, decoding = backbone.prefill(ids, mask)
    active = list(range(len(rows)))
    while True:
        chosen = []
        for i, r in enumerate(active):
            row = rows[r]
            predicted = fused = logits[i]
            if not row.reading.silent:
                predicted = row.reading.predict(logits[i])
                fused = predicted.clone()
                fused[_said_before(row.tokens)] = -torch.inf
            token = _choose(fused, row, dice[r])
            chosen.append(token)
            _take(backbone, row, token, partial(on_token, r) if on_token else None)
            if row.moved is not None:
                raised = _probability(predicted, token) - _probability(logits[i], token)
                row.moved.append((raised, len(row.text)))
        going = [i for i, r in enumerate(active) if not rows[r].finish_reason]
        if not going:
            return
        if len(going) < len(active):
            backbone.select(decoding, going)
            active = [active[i] for i in going]
        logits = backbone.step(torch.tensor([chosen[i] for i in going], device=backbone.device), decoding)


def _said_before(tokens: Sequence[int]) -> list[int]:
    """The tokens that would say a run of REPEAT tokens again (n-gram blocking: Paulus et al. 2017). A small model that was
    led off its own way repeats itself; where no memory speaks nothing is blocked."""
    last = tokens[len(tokens) - REPEAT + 1 :] if len(tokens) >= REPEAT else None
    return [tokens[end] for end in range(REPEAT - 1, len(tokens)) if tokens[end - REPEAT + 1 : end] == last]


def _choose(logits: Tensor, row: Row, dice: torch.Generator) -> int:
    if row.temperature <= 0:
        return int(logits.argmax())
    p = torch.softmax(logits.float().cpu() / row.temperature, -1)
    if row.top_p < 1:
        ordered, order = p.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= row.top_p] = 0
        p = torch.zeros_like(p).scatter_(0, order, ordered)
    return int(torch.multinomial(p, 1, generator=dice))


def pieces(row: Row) -> list[Token] | None:
    """The text token by token, each with how far the memories raised it; None where nobody asked for that.

    A character of several tokens is in the first one's piece; what a stop string cut off is in none.
    """
    if row.moved is None:
        return None
    found, begin, count = [], 0, len(row.tokens)
    for n, (moved, end) in enumerate(row.moved[:count], 1):
        end = len(row.text) if n == count else max(begin, min(end, len(row.text)))
        found.append(Token(text=row.text[begin:end], moved=moved))
        begin = end
    return found


def _probability(logits: Tensor, token: int) -> float:
    return float(torch.softmax(logits.float(), -1)[token])


def _take(backbone: Backbone, row: Row, token: int, send: Callable[[str], bool] | None) -> None:
    if token in backbone.eos_ids:
        row.finish_reason = "stop"
    else:
        row.tokens.append(token)
        row.text = backbone.decode(row.tokens)
        if not row.reading.silent:
            row.reading.advance(token, row.text)
        cut = min((at for s in row.stop if (at := row.text.find(s)) >= 0), default=-1)
        if row.reading.over is not None:
            cut = row.reading.over if cut < 0 else min(cut, row.reading.over)
        if cut >= 0:
            row.text, row.finish_reason = row.text[:cut], "stop"
        elif len(row.tokens) >= row.max_new_tokens:
            row.finish_reason = "length"
    # A character of several tokens, and what may be the beginning of a stop string, is held back until it is whole.
    held = 0 if row.finish_reason else max((len(s) for s in row.stop), default=1) - 1
    upto = max(row.sent, len(row.text) - held)
    piece = row.text[row.sent : upto]
    if send and piece and (row.finish_reason or not piece.endswith("\ufffd")):
        row.sent = upto
        if not send(piece) and not row.finish_reason:
            row.finish_reason = "stop"
