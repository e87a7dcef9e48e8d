"""Span of a fact that the model chose for the answer."""

from typing import NamedTuple


class Span(NamedTuple):
    hit: int  # index of the memory among the hits
    first: int  # index of its first word
    end: int  # index of the word after its last
    entry: int  # index of the first of the small words before it that may be copied with it
