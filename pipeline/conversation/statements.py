"""Statements among the sentences of a conversation: no questions, requests, thanks and fillers."""

import re

_LEAD = re.compile(
    r"^(?:(?:hi|hey|hello|hiya|oh|ah|aw+|ooh|wow|yeah|yep|yes|yup|nope|no|well|so|ok|okay|haha+|hm+|um+|ugh|erm|oh my(?: god| gosh| goodness)?|lol|btw|by the way|fyi|anyway|"
    r"actually|also|and|but|plus|for your information|just so you know|good news|bad news|guess what|you know|i mean|"
    r"please remember|remember|please note|note|keep in mind|for the record|sure|right|honestly)\b"
    r"(?:[,:!.]|\s+that\b|\s*[-–—]+)?\s*)+",
    re.IGNORECASE,
)
_VOCATIVE = re.compile(r"^(?:[A-Z][\w'-]+|there|all|everyone|guys|man|dude)\s*[,!]\s+")
_CALLED = re.compile(r"^[A-Z][a-z]+, (?=(?:I|my|we|our)\b)", re.IGNORECASE)
_TAG = re.compile(
    r",\s*(?:did i (?:tell|mention)\b[^?]*|you know|right|remember|huh|isn't it|aren't they|(?:can|could|would) you believe (?:it|that))\?$",
    re.IGNORECASE,
)
_LED = re.compile(r"^(?:hi|hey|hello|hiya|oh|wow|yeah|yes|no|well|so|ok|okay|thanks)\b", re.IGNORECASE)
_QUESTION_WORD = r"(?:who|what|when|where|why|which|whose|how)(?: (?:about|come|many|much|long|far|old|often|else|kind of \w+))?"
_AUXILIARY = (
    r"(?:am|is|are|was|were|do|does|did|have|has|had|can|could|will|would|should|shall|may|might|isn't|aren't|wasn't|don't|"
    r"doesn't|didn't|haven't|hasn't|can't|couldn't|won't|wouldn't)"
)
_QUESTION = re.compile(
    rf"^(?:{_QUESTION_WORD}(?:'s|'re|'d)? {_AUXILIARY}\b|{_QUESTION_WORD}'s\b|(?:how|what) about\b|how come\b|"
    rf"{_AUXILIARY} (?:i|you|we|they|he|she|it|there|the|your|my|any|anyone|someone|somebody|this|that)\b|any (?:idea|tips|advice|plans|news)\b)",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"^(?:please |pls |kindly |just |now |then )*(?:tell|show|explain|give|write|make|create|generate|summari[sz]e|translate|list|describe|"
    r"help|find|search|look up|let|let's|lets|recommend|suggest|compare|calculate|convert|draft|rewrite|fix|check|remind|answer|"
    r"imagine|pretend|think of|consider|continue|stop|try|do|don't|wait|look|listen|say|send|keep|take care|have (?:a|fun)|enjoy|"
    r"be|go|come|call|text|ask|forget|ignore|delete|remember to|hope|wish|see|talk|speak|catch)\b",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"^(?:thanks|thank you|thx|ty|cheers|congrats|congratulations|welcome|sorry|good (?:morning|afternoon|evening|night|luck|idea|point|for you|to)|"
    r"great|nice|cool|awesome|amazing|fantastic|wonderful|perfect|sounds|agreed|exactly|absolutely|definitely|totally|true|indeed|"
    r"of course|no problem|no worries|my pleasure|same here|me too|me neither|bye|goodbye|take care|cya|ttyl|see you|miss you|love you|"
    r"i(?:'m| am) (?:so |really |very |super |truly )?(?:glad|happy|proud|sorry|sure|thrilled|impressed|here) (?:for|of you|to hear|that you|you|about that)|"
    r"i (?:hope (?:you|it|that|so|they|your)|wish you|appreciate|agree|bet|see|get it|understand|know (?:what|how|right)|guess so|think so|totally)|"
    r"way to go|keep up|keep it up|can't wait|glad|happy|proud|excited|so (?:glad|happy|proud|excited|cool|sorry)|what an?\b|how (?:nice|cool|lovely|"
    r"exciting|sweet|kind)|hi|hello|hey|gracias|merci|danke|hola|bonjour|hallo|ciao|obrigad[oa]|grazie|salut)\b",
    re.IGNORECASE,
)
_ADDRESSED = re.compile(r"^(?:you|your|you're|you've|you'll|you'd|yours|u)\b", re.IGNORECASE)
_ANAPHORIC = re.compile(
    r"^(?:it|it's|its|this|that|that's|these|those|they|they're|they've|their|he|he's|his|she|she's|her|there|there's|both|"
    r"such)\b",
    re.IGNORECASE,
)
_ENGLISH = re.compile(
    r"\b(?:the|is|are|were|has|have|of|and|with|for|from|by|to|at|that|this|it|my|i'm|i've|i'll|i'd|don't|after|our|been)\b|\bI\b",
    re.IGNORECASE,
)
_OTHER = re.compile(
    r"\b(?:que|con|mi|di|il|lo|el|los|las|de|du|des|les|le|la|et|est|und|ich|der|die|das|ist|een|het|ik|não|eu|em|è|je|een|och|jag|og|jeg)\b",
    re.IGNORECASE,
)
_MIN_WORDS = 3  # "I'm vegan" has as many, "I didn't" has not


def without_lead(sentence: str) -> str:
    """The sentence without the words that only lead to it ("Oh hey Mel, by the way …"), and without a question tag."""
    sentence = _TAG.sub(".", sentence)
    while not _FILLER.match(sentence):
        led = _LED.match(sentence)
        rest = _LEAD.sub("", sentence)
        rest = _VOCATIVE.sub("", rest) if led else _CALLED.sub("", rest)
        if rest == sentence or not rest:
            return sentence
        sentence = rest[:1].upper() + rest[1:]
    return sentence


def is_statement(sentence: str) -> bool:
    """Whether a sentence, without its lead, states something."""
    if len(re.findall(r"\w+(?:'t)?", sentence)) < _MIN_WORDS and not _is_unspaced(sentence):
        return False
    return not is_question(sentence) and not any(
        pattern.match(sentence) for pattern in (_REQUEST, _FILLER, _ADDRESSED)
    )


def is_question(sentence: str) -> bool:
    """Whether a sentence, without its lead, asks something."""
    marked = sentence.rstrip("\"')”’ !").endswith(("?", "？")) or sentence.startswith("¿")
    return marked or bool(_QUESTION.match(sentence))


def is_anaphoric(sentence: str) -> bool:
    """Whether the sentence begins with a word that stands for something said before ("He is called Miso")."""
    return bool(_ANAPHORIC.match(sentence))


def is_english(sentence: str) -> bool:
    """Whether the rules for English may be applied to the sentence: it has a small word of English, and more than of others."""
    return len(_ENGLISH.findall(sentence)) > len(_OTHER.findall(sentence))


def _is_unspaced(sentence: str) -> bool:
    return bool(re.search("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{4}", sentence))
