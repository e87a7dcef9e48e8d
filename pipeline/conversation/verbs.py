"""English verbs: their third person, and the words beside them that tell where a verb stands."""

MODALS = frozenset(
    "will would can could should must may might shall 'd won't wouldn't can't cannot couldn't shouldn't".split()
)
IRREGULAR = {"am": "is", "have": "has", "do": "does", "don't": "doesn't", "haven't": "hasn't", "go": "goes"}
"""Present forms whose third person is not made by a rule."""
ADVERBS = frozenset(
    "just also never always still already finally often only even once now then rather almost soon sometimes "
    "ever both all mostly quite definitely probably maybe perhaps kinda sorta not thus hardly further".split()
)
"""Words that stand between a subject and its verb, besides those that end in -ly."""
PAST = frozenset(
    "was were wasn't weren't had hadn't did didn't became began bent bit bled blew bought bound bred broke brought built burnt came "
    "caught chose clung crept dealt drank dreamt drew drove dug ate fed fell felt fled flew forgave forgot fought found "
    "froze gave got ground grew heard held hid hung kept knew laid lay learnt leapt led left lent lit lost made meant met "
    "overcame overslept paid proved ran rang rebuilt rode rose said sang sank sat saw sent sewed shone shook shot showed "
    "shrank slept slid smelt sold sought spelt spent spilt spoilt spoke spun stood stole stuck stung struck strung swam swore swung "
    "taught thought threw told took tore understood undertook used went withdrew woke won wore wound wove wrote".split()
)
"""Past forms that a rule cannot tell."""
ALIKE = frozenset(
    "bet bid broadcast burst cast cost cut hit hurt let put quit read rid set shed shut split spread thrust upset wet".split()
)
"""Verbs whose past is their present form."""
NOT_PAST = frozenset("need feed speed succeed proceed exceed breed bleed seed weed heed embed wed".split())
"""Present forms that end in -ed."""
BASE = frozenset(
    "accept add admire adore answer arrive ask bake become begin believe bike bring build buy call care carry catch choose clean "
    "climb coach collect come commute cook cycle dance decide deliver design do draw dream drink drive earn eat enjoy feed feel "
    "find finish fish fix fly follow forget garden get give go grow handle hate have hear help hike hope keep knit know lead "
    "learn leave like listen live look love make manage meet mentor miss move need open own paint pay play plan practice prefer "
    "produce raise read rent repair ride run say see sell send sew share sing sit ski sleep speak spend start stay "
    "study support suffer surf swim take talk teach tell think train travel try turn use visit volunteer wait wake walk want watch "
    "wear wish work write".split()
)
"""Common verbs: after "and" such a word is another verb of the same subject."""
SUBJECTLESS = frozenset(
    "bought broke came did found got had heard left lost made met moved ran saw sold spent started took tried visited went won "
    "booked decided finished joined planned signed watched worked".split()
)
"""Past forms with which people begin a sentence and leave out "I"."""


def third_person(verb: str) -> str:
    """The third person of a verb's present form ("work" is "works")."""
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return f"{verb}es"
    if verb.endswith("y") and verb[-2:-1] not in ("a", "e", "i", "o", "u", ""):
        return f"{verb[:-1]}ies"
    return f"{verb}s"


def is_adverb(word: str) -> bool:
    """Whether a word between subject and verb is an adverb."""
    return word in ADVERBS or (
        word.endswith("ly")
        and word not in ("apply", "reply", "supply", "rely", "comply", "fly", "multiply", "imply")
    )


def is_past(verb: str) -> bool:
    """Whether the form, which does not change with its subject, is a past one."""
    return (
        verb in PAST
        or (verb[:2] in ("re", "un") and verb[2:] in PAST)
        or (verb.endswith("ed") and verb not in NOT_PAST)
    )
