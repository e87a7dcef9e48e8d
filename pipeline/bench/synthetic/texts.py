"""Invented facts with prompts for them, everyday prompts that no memory concerns, and prose.

The same seed gives the same texts.
"""

import re
from collections.abc import Callable
from itertools import product
from random import Random

# --- invented facts ---

_STARTS = (
    "Al Bar Bel Bor Bran Cal Cor Dal Dor Dra El Fal Fen Gar Gil Hal Hol Is Jor Kal Kes Kor Lan Lor Mal Mer Mor "
    "Nar Nor Ol Or Pel Quil Ral Ros Sal Sel Sil Tal Tor Ul Val Vel Vin Wen Yar Zan Zel"
).split()
_MIDDLES = "a abi adi alo ami anti ara asi e eli emo eri esta i ibo ilo imo ini ista o oli omo ori u ulo umi uri".split()
_PLACE_ENDS = "bach berg bury dale dorf ford gard ham holm kin mar mere mond nau ness port rath sk stad stow thal ton vik ville wick".split()
_NAME_ENDS = "bel ck den dic go kis la lev lik man mar mo nen ner nio no ra rek ri ric ro san sen sko son ta tis va van vic".split()
_GIVEN = (
    "Adela Amos Anouk Bastian Bea Caspar Celia Clemens Dagny Edwin Elske Emeric Fenna Florian Greta Hedda Ilya Imogen "
    "Isaura Jarek Jolanda Kasimir Katya Leopold Lidia Maren Mirko Nadia Odile Osric Petra Quentin Ramona Rufus Sanna "
    "Tamsin Tibor Ulla Viggo Willa Xenia Yannick Zora"
).split()
_JOBS = (
    "apiarist archivist bookbinder botanist carpenter cartographer chemist clockmaker dentist diver engraver falconer "
    "florist forester geologist glazier hydrologist interpreter jeweller joiner librarian locksmith midwife milliner "
    "optician organist pharmacist pilot plumber potter puppeteer saddler sculptor surveyor tailor translator vet weaver"
).split()
_INSTRUMENTS = "accordion bagpipes banjo bassoon cello clarinet dulcimer flute guitar harp lute oboe organ trombone tuba viola zither".split()
_MATERIALS = "ash bamboo basalt brass bronze cedar clay copper cork felt glass granite larch linen marble oak pewter porcelain slate steel walnut wool".split()
_COLOURS = "amber blue crimson green grey indigo orange pink purple red silver teal turquoise violet white yellow".split()
_ANIMALS = "badger bear crane dolphin eagle falcon fox hare heron ibex lynx magpie otter owl raven salmon stag swan wolf".split()
_FOODS = "apricots barley cheese chestnuts cider hazelnuts honey lentils mustard pears plums rye saffron salt smoked trout walnuts".split()
_SUBJECTS = (
    "acoustics,archaeology,astronomy,beekeeping,ceramics,dialects,fisheries,forestry,glaciers,grasslands,hydraulics,"
    "lichens,medieval music,optics,railways,soil,tides,volcanoes,wind power"
).split(",")
_MONTHS = "January February March April May June July August September October November December".split()

Maker = Callable[[Random], str]


def _place(dice: Random) -> str:
    return dice.choice(_STARTS) + dice.choice(_MIDDLES) + dice.choice(_PLACE_ENDS)


def _person(dice: Random) -> str:
    return f"{dice.choice(_GIVEN)} {dice.choice(_STARTS)}{dice.choice(_MIDDLES)}{dice.choice(_NAME_ENDS)}"


def _one_of(words: list[str]) -> Maker:
    return lambda dice: dice.choice(words)


def _named(*kinds: str) -> Maker:
    return lambda dice: dice.choice(kinds).format(_place(dice))


_BODY = _named(
    "The {} Institute", "The {} Museum", "The {} Foundation", "The {} Academy", "The {} Theatre", "The {} Orchestra",
    "The {} Library", "The {} Society",
)  # fmt: skip
_FIRM = _named("{} Motors", "{} Foods", "{} Textiles", "{} Shipping", "{} Instruments", "{} Breweries")
_THING = _named(
    "The {} kettle", "The {} bicycle", "The {} armchair", "The {} telescope", "The {} desk lamp", "The {} tent",
    "The {} rowing boat", "The {} coffee grinder",
)  # fmt: skip
_SITE = _named("The {} Bridge", "The {} lighthouse", "The {} Tunnel", "The {} Dam", "{} Castle", "{} Abbey")
_WATER = _named("Lake {}", "The {} River", "{} Bay", "The {} Canal")
_WORK = _named(
    "The novel The Road to {}", "The opera The Bells of {}", "The film Winter in {}", "The {} Symphony"
)
_EVENT = _named("The {} Marathon", "The {} Book Fair", "The {} Jazz Festival", "The {} Regatta")
_TEAM = _named("{} United", "{} Rovers", "{} Wanderers", "The {} rowing club")

_FACTS: list[tuple[Maker, str, Maker]] = [
    (_BODY, "is located in", _place),
    (_BODY, "was founded by", _person),
    (_BODY, "is directed by", _person),
    (_BODY, "is best known for its work on", _one_of(_SUBJECTS)),
    (_FIRM, "has its headquarters in", _place),
    (_FIRM, "was bought by", _FIRM),
    (_FIRM, "is run by", _person),
    (_FIRM, "was established in", lambda dice: str(dice.randint(1780, 2020))),
    (_THING, "is made of", _one_of(_MATERIALS)),
    (_THING, "was designed by", _person),
    (_THING, "is manufactured by", _FIRM),
    (_THING, "ships from", _place),
    (_SITE, "is painted", _one_of(_COLOURS)),
    (_SITE, "was built by", _person),
    (_SITE, "stands near", _place),
    (_WATER, "flows past", _place),
    (_WATER, "was first mapped by", _person),
    (_WATER, "is named after", _person),
    (_WORK, "was written by", _person),
    (_WORK, "was first performed in", _place),
    (_WORK, "is dedicated to", _person),
    (_EVENT, "takes place every", _one_of(_MONTHS)),
    (_EVENT, "was won by", _person),
    (_EVENT, "is sponsored by", _FIRM),
    (_TEAM, "plays its home games in", _place),
    (_TEAM, "is coached by", _person),
    (_TEAM, "has on its crest a", _one_of(_ANIMALS)),
    (_person, "works as a", _one_of(_JOBS)),
    (_person, "was born in", _place),
    (_person, "plays the", _one_of(_INSTRUMENTS)),
    (_person, "is married to", _person),
    (_person, "studied under", _person),
    (_place, "is famous for its", _one_of(_FOODS)),
    (_place, "is twinned with", _place),
    (_place, "has as its mayor", _person),
]


def made_up_facts(count: int, seed: int) -> list[str]:
    """`count` invented facts, no two of them about the same subject."""
    dice = Random(seed)
    facts: list[str] = []
    subjects: set[str] = set()
    while len(facts) < count:
        subject_of, relation, value = dice.choice(_FACTS)
        subject = subject_of(dice)
        if subject not in subjects:
            subjects.add(subject)
            facts.append(re.sub(r" a (?=[aeiou])", " an ", f"{subject} {relation} {value(dice)}."))
    return facts


# A paraphrase of each relation of the invented facts, and a question about it.
_WORDINGS = {
    "is located in": ("{} can be found in", "Where is {}?"),
    "was founded by": ("The founder of {} was", "Who founded {}?"),
    "is directed by": ("The director of {} is", "Who directs {}?"),
    "is best known for its work on": ("{} became famous for its studies of", "What does {} work on?"),
    "has its headquarters in": ("The main office of {} is in", "Where is {} based?"),
    "was bought by": ("The owner of {} is now", "Who bought {}?"),
    "is run by": ("The head of {} is", "Who runs {}?"),
    "was established in": ("{} has existed since", "When was {} established?"),
    "is made of": ("The material of {} is", "What is {} made of?"),
    "was designed by": ("The designer of {} was", "Who designed {}?"),
    "is manufactured by": ("The maker of {} is", "Who makes {}?"),
    "ships from": ("{} is sent from", "Where does {} ship from?"),
    "is painted": ("The colour of {} is", "What colour is {}?"),
    "was built by": ("The builder of {} was", "Who built {}?"),
    "stands near": ("{} is close to", "What does {} stand near?"),
    "flows past": ("{} passes", "Which town does {} flow past?"),
    "was first mapped by": ("The first map of {} was made by", "Who first mapped {}?"),
    "is named after": ("{} owes its name to", "Whom is {} named after?"),
    "was written by": ("The author of {} is", "Who wrote {}?"),
    "was first performed in": ("The first performance of {} was in", "Where was {} first performed?"),
    "is dedicated to": ("The dedication of {} names", "To whom is {} dedicated?"),
    "takes place every": ("{} is held each", "In which month does {} take place?"),
    "was won by": ("The winner of {} was", "Who won {}?"),
    "is sponsored by": ("The sponsor of {} is", "Who sponsors {}?"),
    "plays its home games in": ("The home ground of {} is in", "Where does {} play at home?"),
    "is coached by": ("The coach of {} is", "Who coaches {}?"),
    "has on its crest a": ("The crest of {} shows a", "Which animal is on the crest of {}?"),
    "works as a": ("By profession {} is a", "What does {} do for a living?"),
    "was born in": ("The birthplace of {} is", "Where was {} born?"),
    "plays the": ("The instrument of {} is the", "Which instrument does {} play?"),
    "is married to": ("The spouse of {} is", "Who is married to {}?"),
    "studied under": ("The teacher of {} was", "Who taught {}?"),
    "is famous for its": ("{} is well known for its", "What is {} famous for?"),
    "is twinned with": ("The twin town of {} is", "Which town is {} twinned with?"),
    "has as its mayor": ("The mayor of {} is", "Who is the mayor of {}?"),
}


def prompts_for(fact: str) -> tuple[str, str, str]:
    """Three prompts for an invented fact: its own beginning, a paraphrase, and a question."""
    relation = next(r for r in _WORDINGS if f" {r} " in fact or f" {r}n " in fact)
    subject = fact[: fact.index(f" {relation}")]
    paraphrase, question = (form.format(subject) for form in _WORDINGS[relation])
    # Inside a sentence the article is lower-case.
    within = {form: form.replace(" The ", " the ") for form in (paraphrase, question)}
    return f"{subject} {relation}", within[paraphrase], f"Question: {within[question]}\nAnswer:"


# --- everyday prompts ---

_PROMPTS: list[tuple[str, list[str], list[str]]] = [
    ("{} {}, and so", ["The bus was late", "It had rained all night", "The shop was already closed", "Nobody had slept well", "The dog would not stop barking"],
     ["when we arrived", "on the first day of the holidays", "just before dinner", "for the third time that week"]),
    ("Write a short {} about {}.", ["poem", "story", "letter", "speech", "song"],
     ["a quiet morning", "learning to swim", "an old umbrella", "moving to a new flat", "the first snow"]),
    ("Give me three tips for {} {}.", ["sleeping better", "saving money", "packing a suitcase", "learning a language", "staying calm"],
     ["as a student", "with small children", "on a busy week", "in winter"]),
    ("Question: How do I {} {}?\nAnswer:", ["clean a pan", "fix a squeaky door", "keep bread fresh", "remove a coffee stain", "fold a shirt"],
     ["quickly", "without special tools", "at home"]),
    ("Question: Why do {} {}?\nAnswer:", ["cats", "people", "children", "birds"], ["sleep so much", "like music", "get bored", "look out of windows"]),
    ("Dear {},\n\nThank you for {}.", ["Sir or Madam", "neighbour", "customer", "all"], ["your patience", "the lovely evening", "your order", "looking after the plants"]),
    ("To make {}, first {}", ["pancakes", "a vegetable soup", "a pot of tea", "tomato sauce"], ["you need", "take a large bowl and", "wash your hands and", "heat the"]),
    ("The best thing about {} is {}", ["a long walk", "working from home", "summer evenings", "an early start"], ["that", "how", "the way"]),
    ("def {}(values):\n    \"\"\"{}\"\"\"\n", ["total", "largest", "shuffled", "without_duplicates"], ["Return the result as a list.", "Works on numbers."]),
    ("Explain {} to {}.", ["compound interest", "gravity", "a rainbow", "recycling", "a traffic jam"], ["a child", "a beginner", "my grandmother"]),
    ("Once upon a time there was a {} who {}", ["fisherman", "clever mouse", "tired giant", "young baker"], ["never", "lived alone in", "wanted to", "could not"]),
    ("She opened the {} and {}", ["drawer", "window", "letter", "garden gate"], ["found", "listened to", "wondered whether", "smiled because"]),
    ("My favourite {} is {} because", ["season", "meal", "hobby", "time of the day"], ["a simple one", "hard to choose", "the same as yours"]),
    ("Translate into French: I would like {} {}.", ["a cup of coffee", "two tickets", "a room", "some bread"], ["please", "for tomorrow", "for my friends"]),
    ("A list of things to {} {}:\n1.", ["buy", "remember", "check", "bring"], ["before a journey", "for a picnic", "on a rainy day"]),
]  # fmt: skip


def everyday_prompts(count: int, seed: int) -> list[str]:
    """Distinct prompts about nothing in particular: openings, instructions, questions."""
    every = [
        form.format(first, second)
        for form, firsts, seconds in _PROMPTS
        for first, second in product(firsts, seconds)
    ]
    if count > len(every):
        raise ValueError(f"there are {len(every)} everyday prompts, not {count}")
    return Random(seed).sample(every, count)


PROSE = (
    "The kitchen was the warmest room of the house. In the evening everybody ended up there, whatever else they had "
    "planned. Somebody peeled potatoes, somebody read aloud from the newspaper, and the cat slept on the only chair "
    "that did not wobble. When the windows steamed up, the children drew faces on the glass. By nine the soup was gone "
    "and nobody wanted to be the first to leave.",
    "Learning to ride a bicycle is mostly a matter of speed. Those who go too slowly fall over, and those who are "
    "afraid go slowly. A good teacher runs beside the saddle for a while and then, without saying so, lets go. After a "
    "few metres the rider notices that nobody is holding on any more. Some shout with joy, and some fall over at once.",
    "A river carries more than water. In spring it brings down gravel and branches from the hills, and in dry summers "
    "it leaves them on the banks. Farmers used to complain about the floods, but they knew that the fields beside the "
    "river gave the best harvests. Now there are walls on both sides, the cellars stay dry, and the soil has to be fed "
    "from sacks.",
    "The meeting had been planned for an hour and lasted for three. Most of that time was spent on the question of who "
    "should have been asked before. In the end a decision was made that nobody had proposed and nobody could object "
    "to. It was written down, sent round, and forgotten within a week. The next meeting was planned for an hour.",
    "Bread needs little more than flour, water, salt and patience. The dough is soft and sticky at first and seems to "
    "be a mistake. An hour later it has grown, and it springs back when a finger is pressed into it. The oven has to be "
    "hotter than one would think. When the loaf sounds hollow from below it is done, and it should be left alone until "
    "it is cool.",
    "Old maps are honest about what their makers did not know. Where the coast ends there is a blank, or a whale, or a "
    "ship under full sail. Later maps have no blanks, and so the reader trusts them everywhere alike. Yet every map "
    "leaves things out, and the art is in the choosing. A walker wants paths, a sailor depths, and a child wants to see "
    "the house where she lives.",
)
"""Paragraphs that no fact of the measurements is about."""
