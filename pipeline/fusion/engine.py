"""Continuous batching: the model's loop over tokens, in which prompts join a running batch and leave it when answered.

Each row may read its own memories. Knows the backbone and readings; knows nothing of how memories were found.
(Iteration-level scheduling: Yu et al., Orca, OSDI 2022.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.fusion.fusion import Reading
from pipeline.model.backbone import Backbone
from pipeline.model.kv_cache import KVCache
from schemas.response import Token

REPEAT = 5  # tokens
DECODED = 16  # tokens: the text of what is further back is settled

OnToken = Callable[[int, str], bool]
"""(row, piece of text) -> go on?"""


@dataclass(slots=True, eq=False)
class Row:
    """One answer in the making."""

    ids: list[int]
    reading: Reading
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[str] = ()
    send: Callable[[str], bool] | None = None  # takes each piece of the text; False ends the answer
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    sent: int = 0
    finish_reason: str = ""  # "stop" or "length", once it has ended
    settled: tuple[int, str] = (0, "")  # so many tokens, and their text
    # Where asked for: of each token how far the memories raised its probability, and where the text ends with it.
    moved: list[tuple[float, int]] | None = None
    dice: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.dice = torch.Generator().manual_seed(self.seed)


class Batch:
    """Rows that are answered together. Between two calls each has a token that the model is to read next.

    A row that has ended keeps its slot, unheard, until half of the slots are such: multiplying 9 to 15 rows by the weights
    takes a CPU longer than 16, and to take a row out is to copy the whole cache.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._slots: list[Row] = []
        self._decoding: KVCache | None = None  # of the slots

    @property
    def rows(self) -> list[Row]:
        """Those that are being answered."""
        return [row for row in self._slots if not row.finish_reason]

    @property
    def open(self) -> bool:
        """Whether rows can join now. Of a model whose cache is more than keys and values none can, until all have left."""
        return self._decoding is None or self._decoding.joinable

    def join(self, rows: Sequence[Row]) -> list[Row]:
        """Reads the rows' prompts and says the first token of each. Returns those that ended with it."""
        if not rows:
            return []
        clipped = [self._backbone.clip(row.ids, row.max_new_tokens) for row in rows]
        logits, decoding = self._backbone.prefill(*self._backbone.pad(clipped, left=True))
        ended = _say(self._backbone, rows, logits)
        new = _without_ended(self._backbone, rows, decoding)
        if new and self._decoding is None:
            self._slots, self._decoding = new, decoding
        elif new and self._decoding is not None:
            self._slots = [*_without_ended(self._backbone, self._slots, self._decoding), *new]
            self._decoding.join(decoding)
        return ended

    def step(self) -> list[Row]:
        """Says one more token of each row. Returns the rows that ended with it: they have left."""
        if self._decoding is None:
            return []
        last = [row.tokens[-1] if row.tokens else 0 for row in self._slots]
        logits = self._backbone.step(torch.tensor(last, device=self._backbone.device), self._decoding)
        ended = _say(self._backbone, self._slots, logits)
        if 2 * len(self.rows) <= len(self._slots):
            self._slots = _without_ended(self._backbone, self._slots, self._decoding)
            self._decoding = self._decoding if self._slots else None
        return ended


@torch.inference_mode()
def _say(backbone: Backbone, slots: Sequence[Row], logits: Tensor) -> list[Row]:
    """Chooses a token for each row that has not ended. Returns those that ended with it."""
    for row, own in zip(slots, logits, strict=True):
        if not row.finish_reason and not row.reading.silent:
            row.reading.predict(own)
            if blocked := _said_before(row.tokens):
                own[blocked] = -torch.inf
    going = [i for i, row in enumerate(slots) if not row.finish_reason]
    rows = [slots[i] for i in going]
    chosen = _choose(logits if len(going) == len(slots) else logits[going], rows)
    for row, token in zip(rows, chosen, strict=True):
        raised = 0.0 if row.reading.silent or row.moved is None else row.reading.raised(token)
        _take(backbone, row, token)
        if row.moved is not None:
            row.moved.append((raised, len(row.text)))
    return [row for row in rows if row.finish_reason]


def _without_ended(backbone: Backbone, slots: Sequence[Row], decoding: KVCache) -> list[Row]:
    """The rows that have not ended, to which `decoding` is cut down if there are any."""
    going = [i for i, row in enumerate(slots) if not row.finish_reason]
    if 0 < len(going) < len(slots):
        decoding.select(going)
    return [slots[i] for i in going]


def generate(backbone: Backbone, rows: Sequence[Row]) -> None:
    """Fills in each row's tokens, text and finish_reason, all as one batch."""
    batch = Batch(backbone)
    batch.join(rows)
    while batch.rows:
        batch.step()


def _said_before(tokens: Sequence[int]) -> list[int]:
    """The tokens that would say a run of REPEAT tokens again (n-gram blocking: Paulus et al. 2017). A small model that was
    led off its own way repeats itself; where no memory speaks nothing is blocked."""
    last = tokens[len(tokens) - REPEAT + 1 :] if len(tokens) >= REPEAT else None
    return [tokens[end] for end in range(REPEAT - 1, len(tokens)) if tokens[end - REPEAT + 1 : end] == last]


def _choose(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """A token for each row, whose logits are [rows, V]."""
    chosen: list[int] = logits.argmax(-1).tolist()
    for i, row in enumerate(rows):
        if row.temperature > 0:
            chosen[i] = _drawn(logits[i], row)
    return chosen


def _drawn(logits: Tensor, row: Row) -> int:
    p = torch.softmax(logits.float().cpu() / row.temperature, -1)
    if row.top_p < 1:
        ordered, order = p.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= row.top_p] = 0
        p = torch.zeros_like(p).scatter_(0, order, ordered)
    return int(torch.multinomial(p, 1, generator=row.dice))


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


def _take(backbone: Backbone, row: Row, token: int) -> None:
    if token in backbone.eos_ids:
        row.finish_reason = "stop"
    else:
        row.tokens.append(token)
        row.text = _text(backbone, row)
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
    if row.send and piece and (row.finish_reason or not piece.endswith("\ufffd")):
        row.sent = upto
        if not row.send(piece) and not row.finish_reason:
            row.finish_reason = "stop"


def _text(backbone: Backbone, row: Row) -> str:
    """The text of the row's tokens. Only its end is decoded, behind a few tokens by which a tokenizer sees that it is no
    beginning: else an answer's cost would grow with its square."""
    count, text = row.settled
    before = row.tokens[max(0, count - DECODED) : count]
    known = len(backbone.decode(before)) if before else 0
    text += backbone.decode(before + row.tokens[count:])[known:]
    if len(row.tokens) - count >= DECODED and not text.endswith("\ufffd"):
        row.settled = len(row.tokens), text
    return text
