"""The first person of English sentences: "I moved to Porto", said by Ana, is "Ana moved to Porto".

Only where the grammar is safe. "We", "you", quotations and verbs whose tense cannot be told are not.
"""

import re

from pipeline.conversation import verbs

_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\s+|.", re.DOTALL)
_FIRST = frozenset("i i'm i've i'll i'd me my mine our ours myself am im ive".split())
_WE = frozenset("we we're we've we'll we'd us ourselves".split())
_UNSAFE = _WE | frozenset("you you're you've you'll you'd your yours yourself u ur".split())
_CONTRACTED = {"i'm": "is", "im": "is", "i've": "has", "ive": "has", "i'll": "will"}
_PARTICIPLES = frozenset("been had gone done seen never better taken made come become".split())
_AND = frozenset(("and", "but", "or", "then"))
_INFINITIVE = verbs.MODALS | {"to"}
"""Words after which a verb stays as it is, also one after "and"."""


def is_first_person(sentence: str) -> bool:
    """Whether the sentence speaks of its speaker."""
    return any(token.lower() in _FIRST | _UNSAFE for token in _TOKEN.findall(sentence))


def in_third_person(
    sentence: str, name: str, past: bool = False, unsafe: frozenset[str] = _UNSAFE
) -> str | None:
    """The sentence about its speaker by name; None where the grammar is not safe: with any of the `unsafe` words, among others.

    `past`: it tells of the past.
    """
    tokens = _TOKEN.findall(sentence)
    lowers = [token.lower() for token in tokens]
    if any(low in unsafe for low in lowers) or any(quote in sentence for quote in '"“”«»'):
        return None
    written, present, i = list[str](), False, 0
    while i < len(tokens):
        token, low = tokens[i], lowers[i]
        i += 1
        if low == "i" or low in ("i'd", *_CONTRACTED):
            written.append(name)
            verb, i, present = _verb(tokens, lowers, low, i, past)
            if verb is None:
                return None
            written.append(verb)
        elif low in ("my", "our") and not _next(lowers, i)[1]:  # "Oh my, …"
            return None
        elif low in ("my", "mine", "our", "ours"):
            written.append(f"{name}'s")
        elif low == "me":
            written.append(name)
        elif low == "myself":
            written.append("themselves")
        elif low == "am":
            return None
        elif present and low in _AND:
            end, after = _next(lowers, i)
            written.append(token)
            if after in verbs.BASE or after in verbs.IRREGULAR:
                ends = not _next(lowers, end)[1]  # "swimming and work."
                written += [*tokens[i : end - 1], tokens[end - 1] if ends else verbs.third_person(after)]
                i = end
        else:
            present = present and low not in _INFINITIVE
            written.append(token)
    text = "".join(written)
    return text[:1].upper() + text[1:]


def _verb(
    tokens: list[str], lowers: list[str], subject: str, i: int, past: bool
) -> tuple[str | None, int, bool]:
    """What follows the subject up to its verb, in the third person; the place after it; whether the verb is a present form."""
    if subject in _CONTRACTED:
        return f" {_CONTRACTED[subject]}", i, _CONTRACTED[subject] == "is"
    if subject == "i'd":
        following = _next(lowers, i)[1]
        return (" had" if following in _PARTICIPLES or following.endswith("ed") else " would"), i, False
    begin = i
    while True:
        end, word = _next(lowers, i)
        if not word:
            return None, i, False
        if not verbs.is_adverb(word):
            break
        i = end
    before = "".join(tokens[begin : end - 1])
    if word in verbs.MODALS or verbs.is_past(word):
        return before + tokens[end - 1], end, False
    if word in verbs.ALIKE and not past:
        return None, i, False
    if word in verbs.ALIKE:
        return before + tokens[end - 1], end, False
    if (
        word.endswith("ing")
        or not tokens[end - 1].islower()
        or not word.replace("'", "").isalpha()
        or not word.isascii()
    ):
        return None, i, False
    if "'" in word and word not in verbs.IRREGULAR:
        return None, i, False
    return before + verbs.third_person(word), end, True


def _next(lowers: list[str], i: int) -> tuple[int, str]:
    """The place after the next word, and that word; "" if something else than a blank comes before it."""
    while i < len(lowers) and lowers[i].isspace():
        i += 1
    if i < len(lowers) and lowers[i][0].isalpha():
        return i + 1, lowers[i]
    return i + 1, ""


_INVERTED = re.compile(
    r"\b(am|do|have|was|did|had|can|could|will|would|should|shall|may|might|must|don't|haven't|didn't|wasn't|can't|couldn't|"
    r"won't|wouldn't|shouldn't) i\b",
    re.IGNORECASE,
)


def asked_of(question: str, name: str) -> str:
    """A question of a speaker with their name ("Where do I live?" is "Where does Ana live?"), as their facts have it.

    As it is where the grammar is not safe.
    """

    def inverted(found: re.Match[str]) -> str:
        auxiliary = found[1].lower()
        form = verbs.third_person(auxiliary) if auxiliary in verbs.IRREGULAR else auxiliary
        return f"{form[:1].upper()}{form[1:]} {name}" if found[1][0].isupper() else f"{form} {name}"

    named = _INVERTED.sub(inverted, question)
    if named == question and not is_first_person(question):
        return question
    return in_third_person(named, name, unsafe=_WE) or question  # "you" is whom they ask
