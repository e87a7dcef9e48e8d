"""Every tuned number of the mechanism, with its unit and where its value comes from.

Settings are what a bank or a MemoryLM can be given; TEXT, CALIBRATION and DECISIONS are fixed, because what is stored
depends on them: every process must have the same. Numbers that only trade speed for memory stand beside their code.

Where a value comes from:
  facts          measured on 6,628 counterfactual facts with a model of 135M parameters (docs/memory.md)
  hand-written   chosen on 24 to 48 hand-written facts, or on 100 questions about conversations (docs/memory.md)
  set            set once by reasoning, never compared with other values
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextConfig:
    """How a text is split, and what in it counts as a name."""

    stem: int = 4
    """Characters that two forms of one word share at least, from their beginning. Set."""
    stem_share: float = 0.6
    """Share of the longer word that they share at least. Set."""
    longest_inflected: int = 24
    """Characters: a longer word has no forms. Set."""
    same_word: float = 0.5
    """Term similarity above which two words count as one. Set."""
    context_words: int = 8
    """Trailing words of a text that are compared with the words before a place in a fact. Hand-written."""
    sentence_start_score: float = 0.5
    """Name score of a capital that may only begin a sentence. Set."""
    rare_from: float = 0.7
    """In a text without capitals: share of the most a word can say from which it may be a name. Set."""
    rare_range: float = 0.25
    """The range of that share over which the name score rises to 1. Set."""
    date_before: int = 2
    """Words of a date before its year at most ("21 May 2023"). Hand-written."""
    date_after: int = 2
    """Numbers of a date after its year at most ("2023-05-21"). Hand-written."""
    date_digits: int = 2
    """Digits of such a number at most. Hand-written."""
    clause_words: int = 3
    """Words of a clause at least: a comma after fewer does not end one. Hand-written."""
    symbol_frequency: float = 1e-3
    """Probability of a single letter or digit, whose rank in the vocabulary tells nothing. Set."""


@dataclass(frozen=True)
class CalibrationConfig:
    """How the basis is made in which states are compared. Its bytes are part of the encoder id."""

    texts: int = 288
    """Texts that the model writes, half of them from nothing, half from a line break. Facts."""
    tokens: int = 32
    """Tokens of each. Facts."""
    texts_together: int = 48
    """Texts written in one batch; the sampled tokens depend on it. Set."""
    least_tokens: int = 4
    """A text that ends sooner is left out. Set."""
    shrink: float = 0.1
    """Share of the mean variance that is added to each direction's, so that none is blown up. Facts."""
    depth: float = 0.27
    """Share of the layers after which states are read: a word knows its neighbours, and is still itself. Facts."""
    seed: int = 0
    """Of the random generator."""


@dataclass(frozen=True)
class DecisionConfig:
    """When two facts are about the same subject and relation, and what a decision adds to an importance."""

    wording_below: float = 0.6
    """Share of the most that a word of either fact says: a word that says less is wording. Facts."""
    outweighs: float = 1.5
    """The shared words' weight is at least so many times that of the answers in which they differ. Facts."""
    learned_weight: float = 1.0
    """Importance of a learned memory that buys nothing. Set."""
    most_loss_delta: float = 8.0
    """Nats per token: the most of a loss delta that is added to it. Set."""
    reinforced_weight: float = 1.0
    """What seeing the same text again adds to the importance. Set."""


TEXT = TextConfig()
CALIBRATION = CalibrationConfig()
DECISIONS = DecisionConfig()


@dataclass(frozen=True)
class IdfConfig:
    """How much a word says."""

    pseudo_facts: float = 1000.0
    """Facts: what the tokenizer's word frequencies weigh, against the bank's counts. Facts."""
    informative: float = 0.6
    """Share of the most that a word can say. A word that says less is never an answer, and breaks none. Set."""


@dataclass(frozen=True)
class RetrievalConfig:
    """Which memories a prompt concerns."""

    candidates: int = 128
    """Memories found by their pooled states, to be scored exactly. Facts: recall@3 among 100,000."""
    word_candidates: int = 2
    """Times as many are found by their words. Facts: with 1, recall@3 among 100,000 was .984, with 2 .993."""
    compared_ties: int = 16_384
    """Memories with the same words of a prompt, at most, whose pooled states are compared to find the nearest. Set."""
    postings: int = 5_000
    """Memories with one word that are looked at, the newest first. Set."""
    prompt_words: int = 64
    """Words of a prompt that are looked at, from its end. Set."""
    prompt_tokens: int = 256
    """Tokens of a prompt that the encoder reads, from its end. Set."""
    alike_from: float = 0.2
    """Cosine of two words' states from which they count as similar. Facts."""
    rarity_weight: float = 6.0
    """Weight of the rarity of what is matched, relative to the late interaction. Facts."""
    trial_weight: float = 0.5
    """Weight of the score as it stands, relative to the score times the share that matches. Facts."""
    aligned: int = 16
    """Best memories that are aligned with the prompt. Facts."""
    importance_weight: float = 0.01
    """Share of the score that a doubling of the importance adds. Set."""
    importance_doublings: float = 10.0
    """Doublings of the importance that count at most. Set."""
    category_bonus: float = 0.02
    """Share of the score that it adds if the prompt names the memory's category. Set."""
    memories: int = 3
    """Memories that may take part in an answer. Facts."""
    other_memories: int = 5
    """More memories: the model may choose one of them for the answer. Hand-written."""


@dataclass(frozen=True)
class AlignmentConfig:
    """Which words of a prompt and a fact match, and what a missing word weighs."""

    rest_weight: float = 1.0
    """Weight of an unmatched prompt word, relative to a matched one. Facts."""
    wording_weight: float = 0.15
    """Weight of an unmatched word that is no name, relative to a name. Facts."""
    named_share: float = 0.5
    """Share of the matched weight that names have, from which other wording is forgiven in full. Facts."""
    torn_weight: float = 1.0
    """Extra weight of an unmatched name next to a matched one (a partial name match). Facts."""
    evidence_prior: float = 20.0
    """Nats squared, less than one word has: weaker evidence of what is asked for is ignored. Hand-written."""
    name_evidence: float = 0.3
    """Evidence weight of a matching word inside a name. Hand-written."""
    other_clause_evidence: float = 0.5
    """Evidence weight of a matching word in another clause of the same sentence. Hand-written."""
    evidence_reach: float = 4.0
    """Words over which a matching word's evidence falls by e. Hand-written."""
    whole_names: float = 0.99
    """Share of the prompt's names from which the fact has all of them. Set."""
    detail_weight: float = 0.5
    """Weight of a name that such a fact has besides, relative to one of another subject. Hand-written."""


@dataclass(frozen=True)
class GateConfig:
    """Whether a memory belongs to a prompt."""

    gate_open: float = 0.62
    """Share of what is at stake that matches: below it the gate is closed. Facts."""
    gate_full: float = 0.80
    """From this share on the gate is 1; in between it rises linearly. Facts."""
    gate_least: float = 0.5
    """The gate at `gate_open`. Set."""
    same_share_digits: int = 1
    """Decimal digits in which two memories' shares agree if they match a prompt equally well. Set."""


@dataclass(frozen=True)
class SpanConfig:
    """Which words of a fact answer a prompt: pipeline/fusion/answer_span.py."""

    near_score: float = 0.5
    """Share of the best fact's score that another fact has at least, to be read for the answer. Hand-written."""
    question_weight: float = 0.2
    """Weight of the nats by which a fact makes the question likelier. Hand-written."""
    score_weight: float = 0.125
    """Weight of the score with which the fact was found. Hand-written."""
    inside_span: float = 1.5
    """Nats for a span within the words that alignment takes for the answer. Hand-written."""
    question_power: float = 0.5
    """The log-probability of an answer is divided by its tokens to this power. Hand-written."""
    continued_power: float = 0.25
    """The same where a sentence breaks off: a small model likes to go on with the fact's wording. Hand-written."""
    continued_score: float = 0.5
    """Weight of a fact's score where a sentence breaks off, relative to a question. Hand-written."""
    span_prompt_tokens: int = 256
    """Tokens of a prompt that are read, from its end. Set."""
    answer_words: int = 14
    """Words of an answer at most. Set."""
    answer_starts: int = 32
    """Words of a fact at which an answer may start, at most. Set."""


@dataclass(frozen=True)
class FusionConfig:
    """How a memory takes part in the prediction of the next token."""

    trust: float = 0.9
    """Weight of a memory whose gate is 1, against the model's own prediction. Facts."""
    attention_temperature: float = 0.1
    """Of the softmax over the memories' scores (as shares of the best); smaller is sharper. Set."""
    outside_span: float = 3.0
    """Nats: penalty for starting to copy outside of the answer span. Facts."""
    statement: float = 4.0
    """Nats: bonus for copying the fact's whole sentence, where a sentence may begin. Facts."""
    follows: float = 1.5
    """Nats: bonus for each word before the start that was just said. Facts."""
    most_followed: int = 3
    """Such words that count at most. Set."""
    any_word: float = -7.0
    """Nats: log-probability of one word, or number, where any may stand. Set."""
    beside_a_name: float = 2.0
    """Nats: penalty for starting to copy at a word of the answer that is no name, if it has one. Facts."""
    later: float = 1.0
    """Nats: penalty for each possible start in the answer before this one. Hand-written."""
    idf_power: float = 2.0
    """Exponent of a word's idf in the odds of starting to copy at it. Set."""
    least_nats: float = 0.1
    """Nats: lower bound of idf and surprisal there. Set."""
    own_power: float = 0.5
    """Exponent of the model's own probability there. Set."""
    least_weight: float = 1e-4
    """Probability below which a possible start is dropped. Set."""
    least_path: float = 1e-3
    """Probability below which a copy in progress is dropped, and no new one starts. Set."""
    said_from: float = 0.5
    """Probability of having been copied from which a memory has given its answer. Set."""
    context_characters: int = 200
    """Characters of prompt and answer that are compared with the words before a start. Set."""
    repeated_tokens: int = 5
    """Tokens: no run of so many is generated twice while a memory takes part (n-gram blocking). Set."""


@dataclass(frozen=True)
class BankConfig:
    """What is learned, and what is kept."""

    min_loss_delta: float = 0.7
    """Nats per token of the answer: what a fact must buy to be learned. 0.7 is a probability of one half. Facts."""
    capacity: int = 100_000
    """Memories a namespace. Set."""
    half_life_days: float = 30.0
    """Days after which an importance counts half. Set."""
    remembered_ids: int = 100_000
    """fact_ids that a namespace remembers, to decide each once. Set."""


@dataclass(frozen=True)
class Settings(BankConfig, FusionConfig, SpanConfig, GateConfig, AlignmentConfig, RetrievalConfig, IdfConfig):
    """All that a bank or a MemoryLM can be given, by keyword: Settings(capacity=1_000). All processes must agree."""
