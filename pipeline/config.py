"""Every tuned number of the mechanism, with its unit and where its value comes from.

A bank or a MemoryLM takes Settings. TEXT, CALIBRATION and DECISIONS are fixed, because the stored encodings and decisions
depend on them: every process must use the same. Numbers that only trade speed for memory are beside their code.

Where a value comes from:
  facts          measured on 6,628 counterfactual facts with a model of 135M parameters (docs/memory.md)
  hand-written   chosen on 24 to 48 hand-written facts, or on 100 questions about conversations (docs/memory.md)
  set            set once by reasoning, never compared with other values
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextConfig:
    """How words are compared, and which words count as names, dates and clauses."""

    stem: int = 4
    """Characters: the shortest beginning that two forms of one word share. Set."""
    stem_share: float = 0.6
    """Share of the longer word that this beginning has at least. Set."""
    longest_inflected: int = 24
    """Characters: a longer word has no forms. Set."""
    same_word: float = 0.5
    """Term similarity above which two words count as one. Set."""
    context_words: int = 8
    """Trailing words of a text that are compared with the words before a place in a fact. Hand-written."""
    sentence_start_score: float = 0.5
    """Name score of a capital that may only begin a sentence. Set."""
    rare_from: float = 0.7
    """Share of the largest unigram_nll from which a word may be a name, in a text without capitals. Set."""
    rare_range: float = 0.25
    """The range of that share over which the name score rises to 1. Set."""
    date_before: int = 2
    """Most words of a date before its year ("21 May 2023"). Hand-written."""
    date_after: int = 2
    """Most numbers of a date after its year ("2023-05-21"). Hand-written."""
    date_digits: int = 2
    """Most digits of such a number. Hand-written."""
    clause_words: int = 3
    """Fewest words of a clause: a comma after fewer does not end one. Hand-written."""
    symbol_frequency: float = 1e-3
    """Probability of a single letter or digit, whose rank in the vocabulary tells nothing. Set."""


@dataclass(frozen=True)
class CalibrationConfig:
    """How the basis in which states are compared is computed. Its bytes are part of the encoder id."""

    texts: int = 288
    """Texts that the model writes: half of them begin with nothing, half with a line break. Facts."""
    tokens: int = 32
    """Tokens of each. Facts."""
    texts_together: int = 72
    """Texts written in one batch; the sampled tokens depend on it. Set."""
    least_tokens: int = 4
    """Tokens: a shorter text is left out. Set."""
    shrink: float = 0.1
    """Share of the mean variance that is added to every direction's, so that whitening amplifies no noise. Facts."""
    depth: float = 0.27
    """Share of the layers after which states are read: there a state has context, but still tells its word. Facts."""
    seed: int = 0
    """Seed of the random generator."""


@dataclass(frozen=True)
class DecisionConfig:
    """When two facts are about the same subject and relation, and how much a decision adds to an importance."""

    wording_below: float = 0.6
    """Share of the largest unigram_nll in either fact: a word with less is wording. Facts."""
    outweighs: float = 1.5
    """The shared words weigh at least so many times as much as the answers that differ. Facts."""
    recalled: float = 0.9
    """Probability of an answer's token that its own memory gives, in the recall loss. Facts."""
    learned_weight: float = 1.0
    """Importance of a learned memory with a loss delta of 0. Set."""
    most_loss_delta: float = 8.0
    """Nats per token: upper bound of the loss delta, which is added to it. Set."""
    reinforced_weight: float = 1.0
    """Importance that is added when the same text comes again. Set."""


@dataclass(frozen=True)
class ConversationConfig:
    """The choice of the statements of a conversation that are learned."""

    min_worth: float = 3.9
    """Nats by which the rare words of a sentence exceed common ones, together. Fitted on examples/conversations.jsonl."""


TEXT = TextConfig()
CALIBRATION = CalibrationConfig()
DECISIONS = DecisionConfig()
CONVERSATIONS = ConversationConfig()


@dataclass(frozen=True)
class IdfConfig:
    """How informative a word is."""

    pseudo_facts: float = 1000.0
    """Facts: weight of the tokenizer's word frequencies, as pseudo-counts beside the bank's counts. Facts."""
    informative: float = 0.6
    """Share of the largest weight of a word. A word below it is a small word, which is never an answer. Set."""


@dataclass(frozen=True)
class RetrievalConfig:
    """How the memories that a prompt concerns are found and ranked."""

    candidates: int = 128
    """Memories found by their pooled states, to be scored exactly. Facts: recall@3 among 100,000."""
    word_candidates: int = 2
    """Memories found by their words, as a multiple of `candidates`. Facts: recall@3 among 100,000 .984 with 1, .993 with 2."""
    compared_ties: int = 16_384
    """Most memories, equal by the prompt's words, whose pooled states are compared. Set."""
    postings: int = 5_000
    """Most memories with one word that are examined, the newest first. Set."""
    prompt_words: int = 64
    """Last words of a prompt that are used. Set."""
    prompt_tokens: int = 256
    """Last tokens of a prompt that the encoder reads. Set."""
    alike_from: float = 0.2
    """Cosine of two words' states from which they count as similar. Facts."""
    rarity_weight: float = 6.0
    """Weight of the matched words' rarity, relative to the late interaction. Facts."""
    trial_weight: float = 0.5
    """Weight of the score itself, relative to the score times the matching share. Facts."""
    aligned: int = 16
    """Memories, the best by score, that are aligned with the prompt. Facts."""
    importance_weight: float = 0.01
    """Share of the score that a doubling of the importance adds. Set."""
    importance_doublings: float = 10.0
    """Most doublings of the importance that count. Set."""
    category_bonus: float = 0.02
    """Share of the score that is added if the prompt names the memory's category. Set."""
    memories: int = 3
    """Memories that may take part in an answer. Facts."""
    read_candidates: int = 6
    """Memories, the best by score, that the model reads to rank them: the right one is among them for .96 of wild.dev. Facts."""


@dataclass(frozen=True)
class AlignmentConfig:
    """The match between the words of a prompt and of a fact, and the weight of a missing word."""

    rest_weight: float = 1.0
    """Weight of an unmatched prompt word, relative to a matched one. Facts."""
    wording_weight: float = 0.15
    """Weight of an unmatched word that is not a name, relative to a name. Facts."""
    named_share: float = 0.5
    """Names' share of the matched weight from which `wording_weight` applies in full. Facts."""
    torn_weight: float = 1.0
    """Extra weight of an unmatched name next to a matched one (a partial name match). Facts."""
    evidence_prior: float = 20.0
    """Nats squared, less than one word has: added to each word's evidence, so that weak evidence tells little. Hand-written."""
    name_evidence: float = 0.3
    """Evidence weight of a matching word inside a name. Hand-written."""
    other_clause_evidence: float = 0.5
    """Evidence weight of a matching word in another clause of the same sentence. Hand-written."""
    evidence_reach: float = 4.0
    """Words over which a matching word's evidence falls by e. Hand-written."""
    whole_names: float = 0.99
    """Matching share of the prompt's names from which the fact counts as having all of them. Set."""
    detail_weight: float = 0.5
    """Weight of a further name in such a fact, relative to the name of another subject. Hand-written."""


@dataclass(frozen=True)
class BankConfig:
    """The choice of the facts that are learned and the memories that are kept."""

    min_loss_delta: float = 0.7
    """Nats per token of the answer: loss delta from which a fact is learned. 0.7 is a probability of one half. Facts."""
    capacity: int = 100_000
    """Most memories of a namespace. Set."""
    half_life_days: float = 30.0
    """Days after which an importance has halved. Set."""
    remembered_ids: int = 100_000
    """Most fact_ids, request_ids, and keys without a memory, that a namespace remembers, to decide each once. Set."""
    remembered_superseded: int = 10_000
    """Most superseded memories of a namespace that can be restored. Set."""
    max_future_days: float = 1.0
    """Days: a fact that is dated later than so long after its Kafka timestamp is taken as of that timestamp. Set."""


@dataclass(frozen=True)
class Settings(BankConfig, AlignmentConfig, RetrievalConfig, IdfConfig):
    """All settings of a bank or a MemoryLM, by keyword: Settings(capacity=1_000). All processes must use the same."""
