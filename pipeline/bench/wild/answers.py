"""Answers to a scenario's asks, bare, by prompting and with memory, and silence on its other prompts."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipeline.bench.comparison import GENERATE_CHUNK
from pipeline.bench.prompting import after
from pipeline.bench.scores import says, share
from pipeline.bench.wild.scenario import Scenario, Silent, WildAsk, replaced, stating
from pipeline.fusion.row import Row
from pipeline.memory_lm import Job, MemoryLM
from pipeline.retrieve.hit import Hit

TOKENS = 20
"""Tokens of every answer."""
WAYS = ("bare", "prompted", "prompted_right", "memory")
"""The bare model, with the first fact found put before the prompt, with the right facts before it, and with memory."""
AMONG = 3
"""Facts found among which the right one is searched."""

Done = Callable[[int], object]
"""Called with the number of answers since the last call."""


@dataclass(frozen=True, slots=True)
class Found:
    """A fact that was found, and its gate."""

    text: str
    gate: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to one ask."""

    domain: str
    text: str
    form: str
    kind: str
    facts: tuple[str, ...]
    answers: tuple[str, ...]
    texts: dict[str, str]
    """Texts, by way."""
    said: dict[str, bool]
    """Whether an answer is in the first line, by way."""
    found: list[Found]
    """The first AMONG facts."""
    first: bool
    """Whether the right fact is found first; a wording of it counts, and so does one of several facts."""
    among: bool
    spoke: bool
    """Whether any gate is open."""
    spoke_right: bool
    """Whether the right fact's gate is open."""
    updated: bool
    """Whether one of its facts replaces another."""
    old_read: bool
    """Whether the gate of a replaced fact is open."""


@dataclass(frozen=True, slots=True)
class Silence:
    """One prompt that no fact answers."""

    domain: str
    text: str
    why: str
    bare: str
    memory: str
    same: bool
    """Whether both have the same tokens."""
    spoke: bool
    found: list[Found]


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of asks at each measure of Answered."""

    asked: int
    bare: float | None
    prompted: float | None
    prompted_right: float | None
    memory: float | None
    first: float | None
    among: float | None
    spoke: float | None
    spoke_right: float | None


def answer(
    lm: MemoryLM, scenario: Scenario, asks: Sequence[WildAsk], namespace: str, done: Done
) -> list[Answered]:
    """The asks' answers in each of WAYS."""
    prompts = [ask.prompt for ask in asks]
    memory = rows(lm, [_with_memory(prompt, namespace) for prompt in prompts], done)
    nothing: list[list[str]] = [[] for _ in prompts]
    firsts = [[row.prompt.hits[0].memory.text] if row.prompt.hits else [] for row in memory]
    rights = [[fact.text for fact in scenario.learned if fact.id in ask.facts] for ask in asks]
    bare, prompted, prompted_right = (
        rows(lm, [_bare(after(prompt, own)) for prompt, own in zip(prompts, facts, strict=True)], done)
        for facts in (nothing, firsts, rights)
    )
    answered = []
    for ask, *ways in zip(asks, bare, prompted, prompted_right, memory, strict=True):
        texts = {way: row.text for way, row in zip(WAYS, ways, strict=True)}
        answered.append(judged(scenario, ask, texts, ways[-1].prompt.hits))
    return answered


def judged(scenario: Scenario, ask: WildAsk, texts: dict[str, str], hits: Sequence[Hit]) -> Answered:
    """The ask's texts, by way, and the facts that were found for it, against what is right."""
    right = {fact.text for fact in stating(scenario, ask.facts)}
    old = {fact.text for fact in replaced(scenario, ask.facts)} - right
    spoke = [hit for hit in hits if hit.gate > 0]
    return Answered(
        scenario.domain, ask.text, ask.form, ask.kind, ask.facts, ask.answers, texts,
        {way: any(says(text, answer) for answer in ask.answers) for way, text in texts.items()},
        _found(hits), _any_of(hits[:1], right), _any_of(hits[:AMONG], right), bool(spoke), _any_of(spoke, right),
        bool(old), _any_of(spoke, old),
    )  # fmt: skip


def keep_silent(
    lm: MemoryLM, scenario: Scenario, prompts: Sequence[Silent], namespace: str, done: Done
) -> list[Silence]:
    """The prompts' answers with memory, compared with the bare model's."""
    with_memory = [_with_memory(silent.prompt, namespace) for silent in prompts]
    without = [_bare(silent.prompt) for silent in prompts]
    found = []
    for n, (silent, on, off) in enumerate(
        zip(prompts, rows(lm, with_memory, done), rows(lm, without, done), strict=True)
    ):
        if on.tokens != off.tokens:  # other rows of a batch may change the rounding: each answers alone
            [on], [off] = rows(lm, [with_memory[n]]), rows(lm, [without[n]])
        hits = on.prompt.hits
        found.append(
            Silence(
                scenario.domain, silent.text, silent.why, off.text, on.text, on.tokens == off.tokens,
                any(hit.gate > 0 for hit in hits), _found(hits),
            )
        )  # fmt: skip
    return found


def rows(lm: MemoryLM, jobs: Sequence[Job], done: Done = lambda count: None) -> list[Row]:
    """The finished rows of the jobs, a chunk at a time. Raises the error of the first one that failed."""
    finished: list[Row] = []
    for at in range(0, len(jobs), GENERATE_CHUNK):
        engine = lm.engine()
        chunk = engine.submit(jobs[at : at + GENERATE_CHUNK])
        while engine.busy:
            engine.step()
        for row in chunk:
            if row.error:
                raise row.error
        finished += chunk
        done(len(chunk))
    return finished


def shares(answered: Sequence[Answered]) -> Shares:
    ways = [share(one.said[way] for one in answered) for way in WAYS]
    flags = [(one.first, one.among, one.spoke, one.spoke_right) for one in answered]
    return Shares(len(answered), *ways, *(share(own[n] for own in flags) for n in range(4)))


def _with_memory(prompt: str, namespace: str) -> Job:
    return Job(prompt, namespaces=[namespace], max_new_tokens=TOKENS)


def _bare(prompt: str) -> Job:
    return Job(prompt, use_memory=False, max_new_tokens=TOKENS)


def _any_of(hits: Sequence[Hit], texts: Collection[str]) -> bool:
    return any(hit.memory.text in texts for hit in hits)


def _found(hits: Sequence[Hit]) -> list[Found]:
    return [Found(hit.memory.text, hit.gate) for hit in hits[:AMONG]]
