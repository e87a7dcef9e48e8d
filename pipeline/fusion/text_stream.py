"""Incremental decoding: the text of a growing list of tokens, at the cost of its newest token."""

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TextStream:
    """tokenizers' DecodeStream holds incomplete characters back; here they are part of the text, as U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._text = ""
        self._pending: list[int] = []  # tokens that are not in `_text`

    def append(self, token: int) -> str:
        """Adds a token, and returns the text of all. It ends in U+FFFD while its last character is incomplete."""
        self._pending.append(token)
        try:
            new = self._stream.step(self._tokenizer, token)
        except Exception:  # byte tokens that are not UTF-8; the library raises no exception of its own
            self._stream = DecodeStream(skip_special_tokens=True)
            new = self._decode_pending()
        if new is None:  # an incomplete character, or markup
            return self._text + self._decode_pending()
        self._text += new
        self._pending.clear()
        return self._text

    def _decode_pending(self) -> str:
        return self._tokenizer.decode(self._pending, skip_special_tokens=True)
