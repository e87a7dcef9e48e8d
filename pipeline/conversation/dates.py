"""Relative times in English ("yesterday", "two years ago") become dates, given the day of saying.

A day becomes a day, a week stays a week ("in the week before 8 May 2023"): nothing is made more precise than it was said.
Libraries for dates give one point in time for any of these, and take "may" and "sat" for dates, too.
"""

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import NamedTuple

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SEASONS = ("spring", "summer", "autumn", "fall", "winter")
_COUNTS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "a couple of": 2, "a couple": 2,
}  # fmt: skip
_PART = r"(?: (?P<{}>morning|afternoon|evening|night))?"
_COUNT = rf"(?P<count>\d{{1,3}}|{'|'.join(sorted(_COUNTS, key=len, reverse=True))})"
_SOME = r"(?P<some>a few|several|some|many)"
_NAMES = rf"(?P<weekday>{'|'.join(_WEEKDAYS)})|(?P<month>{'|'.join(_MONTHS)})|(?P<unit>week|weekend|month|year|{'|'.join(_SEASONS)})"
_PATTERN = re.compile(
    r"(?<!\w)(?:(?P<preposition>since|until|till|from|by|for|before|after|of|on|in|at|during) )?(?:"
    rf"(?P<near>the day before yesterday|the day after tomorrow|yesterday|today|tomorrow){_PART.format('part')}|"
    r"(?P<tonight>tonight|last night|this morning|this afternoon|this evening)|"
    rf"(?<!the )(?P<which>this past|this coming|last|past|this|next) (?:{_NAMES}){_PART.format('piece')}|"
    rf"{_COUNT} (?P<units>day|week|month|year)s? (?:ago|back)|"
    rf"{_SOME} (?P<vague>day|week|month|year)s (?:ago|back)|"
    rf"(?P<ahead>in) {_COUNT.replace('count', 'coming')} (?P<those>day|week|month|year)s?"
    r")(?P<possessive>'s)?(?!\w|-)",
    re.IGNORECASE,
)
_FUTURE = re.compile(
    r"\b(?:will|'ll|going to|gonna|plans?|planning|start(?:s|ing)?|leav(?:es?|ing)|moving|coming|due|opens?)\b",
    re.IGNORECASE,
)


class _When(NamedTuple):
    """A time in words, and the preposition that it takes."""

    preposition: str
    words: str


def resolve(sentence: str, day: date) -> str:
    """The sentence with its relative times as dates. A time that is out of the calendar's range stays as it is."""
    if not _PATTERN.search(sentence):
        return sentence
    future = bool(_FUTURE.search(sentence))

    def replaced(found: re.Match[str]) -> str:
        if found["ahead"] and not future:  # "I learned it in two years" tells how long
            return found[0]
        try:
            when = _when(found, day)
        except (OverflowError, ValueError):
            return found[0]
        if found["possessive"]:
            return f"{found[0]} ({when.words})"
        own = f"{when.preposition} {when.words}".strip()
        return f"{found['preposition']} {when.words}" if found["preposition"] else own

    text = _PATTERN.sub(replaced, sentence)
    return text[:1].upper() + text[1:] if sentence[:1].isupper() else text


def is_past(sentence: str) -> bool:
    """Whether the sentence names a relative time before the one at which it is said."""
    return any(
        found["units"]
        or found["vague"]
        or (found["near"] or "").lower() in ("yesterday", "the day before yesterday")
        or (found["which"] or found["tonight"] or "").lower().startswith(("last", "past", "this past"))
        for found in _PATTERN.finditer(sentence)
    )


def written(day: date) -> str:
    """A day as "7 May 2023"."""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _when(found: re.Match[str], day: date) -> _When:
    of_day = found["part"] or found["piece"]
    part = f"the {of_day.lower()} of " if of_day else ""
    if near := (found["near"] or "").lower():
        days = {"the day before yesterday": -2, "yesterday": -1, "today": 0, "tomorrow": 1}.get(near, 2)
        return _When("on", part + written(day + timedelta(days)))
    if tonight := (found["tonight"] or "").lower():
        ago, name = (
            (1, "night") if tonight == "last night" else (0, tonight.removeprefix("this ").removeprefix("to"))
        )
        return _When("on", f"the {name} of {written(day - timedelta(ago))}")
    if found["which"]:
        return _named(found, day, part)
    if found["vague"]:
        return _When("", f"{found['some'].lower()} {found['vague'].lower()}s before {written(day)}")
    count = (found["count"] or found["coming"]).lower()
    number = int(count) if count.isdecimal() else _COUNTS[count]
    unit = (found["units"] or found["those"]).lower()
    return _counted(number if found["ahead"] else -number, unit, day)


def _counted(number: int, unit: str, day: date) -> _When:
    """The time `number` units after `day`."""
    if unit == "day":
        return _When("on", written(day + timedelta(number)))
    if unit == "week":
        weeks = f"{abs(number)} week{'s' if abs(number) > 1 else ''}"
        return _When("", f"{weeks} {'before' if number < 0 else 'after'} {written(day)}")
    return _When("in", _month(day, number) if unit == "month" else str(_in_range(day.year + number)))


def _named(found: re.Match[str], day: date, part: str) -> _When:
    """ "last Monday", "next May", "this weekend"."""
    which = found["which"].lower()
    past, coming = which in ("last", "past", "this past"), which in ("next", "this coming")
    if found["weekday"]:
        ahead = (_WEEKDAYS.index(found["weekday"].lower()) - day.weekday()) % 7
        days = (ahead or 7) - 7 * past if past or coming else ahead
        days = days if not past or days else -7
        return _When("on", part + written(day + timedelta(days)))
    if found["month"]:
        month = [name.lower() for name in _MONTHS].index(found["month"].lower()) + 1
        year = day.year - (past and month >= day.month) + (coming and month <= day.month)
        return _When("in", f"{_MONTHS[month - 1]} {_in_range(year)}")
    unit, step = found["unit"].lower(), coming - past
    own: dict[str, Callable[[], _When]] = {
        "year": lambda: _When("in", str(_in_range(day.year + step))),
        "month": lambda: _When("in", _month(day, step)),
    }
    if unit in own:
        return own[unit]()
    where = "before" if past else "after" if coming else "of"
    return _When("on" if unit == "weekend" else "in", f"the {unit} {where} {written(day)}")


def _month(day: date, months: int) -> str:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return f"{_MONTHS[month]} {_in_range(year)}"


def _in_range(year: int) -> int:
    if not date.min.year <= year <= date.max.year:
        raise OverflowError("out of the calendar's range")
    return year
