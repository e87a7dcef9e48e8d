"""The span of a fact that the model chose for the answer."""

from typing import NamedTuple


class Span(NamedTuple):
    hit: int  # index of the memory among the hits
    first: int  # its words from here
    end: int  # up to here, not including
    entry: int  # the first of the small words before it, with which it may be copied
