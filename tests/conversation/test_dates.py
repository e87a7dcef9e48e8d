"""Relative times become dates, no more precise than they were said."""

from datetime import date

import pytest

from pipeline.conversation.dates import is_past, resolve

MONDAY = date(2023, 5, 8)


@pytest.mark.parametrize(
    "said, text",
    [
        ("yesterday", "on 7 May 2023"),
        ("Yesterday evening we ate", "On the evening of 7 May 2023 we ate"),
        ("the day before yesterday", "on 6 May 2023"),
        ("the day after tomorrow", "on 10 May 2023"),
        ("today", "on 8 May 2023"),
        ("tonight", "on the night of 8 May 2023"),
        ("last night", "on the night of 7 May 2023"),
        ("this morning", "on the morning of 8 May 2023"),
        ("last Monday", "on 1 May 2023"),
        ("last Tuesday", "on 2 May 2023"),
        ("this Monday", "on 8 May 2023"),
        ("next Monday", "on 15 May 2023"),
        ("next friday afternoon", "on the afternoon of 12 May 2023"),
        ("last week", "in the week before 8 May 2023"),
        ("next week", "in the week after 8 May 2023"),
        ("this weekend", "on the weekend of 8 May 2023"),
        ("last month", "in April 2023"),
        ("next year", "in 2024"),
        ("last summer", "in the summer before 8 May 2023"),
        ("last May", "in May 2022"),
        ("last April", "in April 2023"),
        ("next June", "in June 2023"),
        ("three days ago", "on 5 May 2023"),
        ("a couple of weeks ago", "2 weeks before 8 May 2023"),
        ("a few days ago", "a few days before 8 May 2023"),
        ("a year ago", "in 2022"),
        ("14 months ago", "in March 2022"),
        ("since last year", "since 2022"),
        ("until next Monday", "until 15 May 2023"),
        ("yesterday's game", "yesterday's (7 May 2023) game"),
        ("I'll go in two weeks", "I'll go 2 weeks after 8 May 2023"),
        ("I learned it in two years", "I learned it in two years"),
        ("the last week of June", "the last week of June"),
        ("It may last. Next, sit.", "It may last. Next, sit."),
        ("999 years ago", "in 1024"),
        ("I may go on Friday", "I may go on Friday"),
    ],
)
def test_a_relative_time_becomes_a_date(said: str, text: str) -> None:
    assert resolve(said, MONDAY) == text


def test_a_time_before_the_calendar_begins_stays() -> None:
    assert resolve("I lived 30 years ago.", date(20, 1, 1)) == "I lived 30 years ago."
    assert resolve("yesterday", date.min) == "yesterday" and resolve("tomorrow", date.max) == "tomorrow"


def test_past_times_are_told_from_others() -> None:
    assert all(map(is_past, ("yesterday", "last week", "two years ago", "a few days ago", "last night")))
    assert not any(map(is_past, ("tomorrow", "next week", "this morning", "today", "at last")))
