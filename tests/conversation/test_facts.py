"""Statements of a conversation: which sentences become facts, about whom, and of which day."""

import re
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conversation.facts import MAX_FACTS, facts_of, statements
from pipeline.conversation.sentences import MAX_CHARS, sentences
from schemas.common import BadMessage
from schemas.fact import Conversation, Turn

AT = datetime(2023, 5, 8, 22, 30, tzinfo=UTC)  # a Monday
FILE = Path(__file__).parent.parent.parent / "examples" / "conversations.jsonl"


def stated(content: str, name: str | None = "Ana", role: str = "user") -> list[str]:
    said = Turn.model_validate({"role": role, "content": content, "name": name})
    return [statement.text for statement in statements(said, AT)]


@pytest.mark.parametrize(
    "said, text",
    [
        ("I moved to Porto.", "Ana moved to Porto."),
        ("I live in Porto and work at a bank", "Ana lives in Porto and works at a bank."),
        ("I like swimming and work.", "Ana likes swimming and work."),
        ("I want to learn Finnish and work in Oslo.", "Ana wants to learn Finnish and work in Oslo."),
        ("i've got two kids :)", "Ana has got two kids."),
        ("I'm allergic to penicillin 🤧", "Ana is allergic to penicillin."),
        ("I don't eat meat.", "Ana doesn't eat meat."),
        ("I'm vegan.", "Ana is vegan."),
        ("I really study law.", "Ana really studies law."),
        ("I'd been to Rome, and I'd like to go again.", "Ana had been to Rome, and Ana would like to go again."),
        ("My sister Junia lives with me.", "Ana's sister Junia lives with Ana."),
        ("I taught myself to knit.", "Ana taught themselves to knit."),
        ("I rewrote the importer.", "Ana rewrote the importer."),
        ("Just got back from Rome.", "Ana just got back from Rome."),
        ("I moved to Porto yesterday.", "Ana moved to Porto on 7 May 2023."),
        ("I read Dune last week.", "Ana read Dune in the week before 8 May 2023."),
        ("I read a lot.", "Ana said on 8 May 2023: I read a lot."),
        ("We went camping.", "Ana said on 8 May 2023: We went camping."),
        ('I said "I am late" to Ola.', 'Ana said on 8 May 2023: I said "I am late" to Ola.'),
        ("The kids love the beach.", "Ana said on 8 May 2023: The kids love the beach."),
        ("The Harlow desk lamp is made of walnut.", "The Harlow desk lamp is made of walnut."),
        ("Vivo en Oporto con mi hermana.", "Ana said on 8 May 2023: Vivo en Oporto con mi hermana."),
        ("我住在波尔图。", "Ana said on 8 May 2023: 我住在波尔图。"),
        ("Oh hey Mel, by the way, I moved to Porto!", "Ana moved to Porto!"),
        ("Remember that my cat is called Biscuit.", "Ana's cat is called Biscuit."),
        ("I quit smoking two weeks ago, did I tell you?", "Ana quit smoking 2 weeks before 8 May 2023."),
        ("I saw Dr. Venn at St. Mary's at 5 p.m. in Leeds.", "Ana saw Dr. Venn at St. Mary's at 5 p.m. in Leeds."),
    ],
)  # fmt: skip
def test_a_statement_is_a_fact_about_its_speaker(said: str, text: str) -> None:
    assert stated(said) == [text]


@pytest.mark.parametrize(
    "said",
    [
        "Hi!", "Hello Ana, how are you?", "Where does she live?", "what is the capital of france", "Can you help me.", "¿Dónde vives?",
        "Thanks a lot for your help!", "Wow, that's so great!", "Sounds like a plan.", "Good luck with the move!", "No problem at all.",
        "Write me a poem about the sea.", "Please tell me more.", "You should go there.", "I'm so proud of you!", "See you on Sunday, dear.",
        "Oh my!", "No, I didn't.", "Ok.", "", "...", "```\nI am code.\n```", "> I was quoted.", "🎉🎉🎉", "Gracias por todo, Ana.", "It was great.",
    ],
)  # fmt: skip
def test_questions_requests_greetings_and_fillers_are_not_facts(said: str) -> None:
    assert stated(said) == []


def test_what_stands_for_something_is_said_with_what_came_before() -> None:
    text = "I adopted a dog. He's called Miso. Isn't that nice?"
    assert stated(text) == ["Ana adopted a dog.", "Ana adopted a dog. He's called Miso."]


def test_a_speaker_without_a_name_is_the_user() -> None:
    assert stated("I moved to Porto with my cat. We love it.", None) == [
        "The user moved to Porto with the user's cat.",
        "The user said on 8 May 2023: We love it.",
    ]


@pytest.mark.parametrize("role", ["assistant", "system", "developer", "tool"])
def test_only_what_users_say_is_learned(role: str) -> None:
    assert stated("I moved to Porto.", role=role) == []


def test_the_facts_of_a_conversation_share_what_it_says_of_them() -> None:
    conversation = Conversation.model_validate(
        {
            "messages": [
                {"role": "user", "name": "Ana", "content": "I moved to Porto yesterday. I have two cats."},
                {"role": "user", "name": "Ben", "content": "I sold my van today.", "timestamp": "2023-05-08T22:30:00-07:00"},
            ],
            "timestamp": "2023-05-10T00:30:00+02:00", "fact_id": "chat-1", "metadata": {"channel": "a"}, "category": "c",
            "source": "s", "valid_until": "2030-01-01T00:00:00Z",
        }
    )  # fmt: skip
    facts = [stated.fact for stated in facts_of(conversation, AT)]
    assert [fact.text for fact in facts] == [
        "Ana moved to Porto on 9 May 2023.",  # it is the tenth where she is
        "Ana has two cats.",
        "Ben sold Ben's van on 8 May 2023.",  # and still the eighth where he is
    ]
    assert [fact.fact_id for fact in facts] == ["chat-1#0", "chat-1#1", "chat-1#2"]
    assert [fact.observed_at for fact in facts] == [
        datetime(2023, 5, 9, 22, 30, tzinfo=UTC), datetime(2023, 5, 9, 22, 30, tzinfo=UTC), datetime(2023, 5, 9, 5, 30, tzinfo=UTC),
    ]  # fmt: skip
    assert facts[0].metadata == {"channel": "a", "speaker": "Ana", "said": "I moved to Porto yesterday."}
    for fact in facts:
        assert (fact.category, fact.source, fact.min_loss_delta) == ("c", "s", None)
        assert fact.valid_until == datetime(2030, 1, 1, tzinfo=UTC)
    own = conversation.model_copy(update={"min_loss_delta": 0.0, "fact_id": None, "timestamp": None})
    assert [(s.fact.min_loss_delta, s.fact.fact_id, s.least) for s in facts_of(own, AT)] == [
        (0.0, None, 0.0)
    ] * 3
    assert facts_of(own, AT)[0].fact.observed_at == AT
    assert all(stated.least > 0 for stated in facts_of(conversation, AT))


def test_metadata_without_room_stays_as_it_is() -> None:
    full = {"a": "x" * 4080}
    conversation = Conversation(messages=[Turn(role="user", content="I moved to Porto.")], metadata=full)
    assert facts_of(conversation, AT)[0].fact.metadata == full


def test_too_many_statements_are_refused_with_what_to_do() -> None:
    few = Conversation(messages=[Turn(role="user", content="I like tea. " * MAX_FACTS)])
    assert len(facts_of(few, AT)) == MAX_FACTS
    many = Conversation(messages=[Turn(role="user", content="I like tea. " * (MAX_FACTS + 1))])
    with pytest.raises(BadMessage, match="send fewer messages a record"):
        facts_of(many, AT)


def test_a_text_without_sentences_is_cut_between_words() -> None:
    cut = sentences("word " * 1000)
    assert all(len(piece) <= MAX_CHARS for piece in cut) and " ".join(cut).split() == ["word"] * 1000
    assert max(map(len, sentences("x" * 5000))) == MAX_CHARS


@given(st.text(max_size=300), st.none() | st.from_regex(r"\A\w{1,20}\Z"))
def test_any_message_becomes_valid_facts_and_the_same_again(content: str, name: str | None) -> None:
    content = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "", content)
    conversation = Conversation(messages=[Turn(role="user", content=f"I know {content}", name=name)])
    facts = facts_of(conversation, AT)
    assert facts == facts_of(conversation, AT)
    assert all(stated.fact.text and stated.said for stated in facts)


def test_no_name_and_no_talk_makes_a_text_too_long() -> None:
    for content in (
        "my I'm my " * 2000,
        "I like tea " + ("𐀀" * 30 + " ") * 90,
        "I like tea. It is yesterday. " + "It was yesterday, yesterday " * 200,
    ):
        messages = [Turn(role="user", content=content[:8000], name="𐀀" * 64)] * 8
        assert facts_of(Conversation(messages=messages), AT)


def test_context_does_not_grow_from_message_to_message() -> None:
    said = [Turn(role="user", content=text) for text in ("I have a dog.", "He is old.", "He is called Rex.")]
    assert [stated.fact.text for stated in facts_of(Conversation(messages=said), AT)] == [
        "The user has a dog.", "The user has a dog. He is old.", "The user has a dog. He is called Rex.",
    ]  # fmt: skip


def test_nearly_all_that_is_worth_it_is_stated_in_the_examples() -> None:
    worth, kept, others = 0, 0, 0
    for line in FILE.read_bytes().splitlines():
        for turn in orjson.loads(line)["turns"]:
            said = Turn(role="user", content=turn["said"], name=turn["speaker"])
            found = [s.said for s in statements(said, datetime.fromisoformat(turn["at"]))]
            worth += len(turn["worth"])
            kept += sum(sentence in found for sentence in turn["worth"])
            others += sum(sentence not in turn["worth"] for sentence in found)
    assert kept >= 0.95 * worth and others <= 0.55 * worth
