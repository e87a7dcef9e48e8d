"""Every threshold of retrieval, reading and the bank, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults were measured on invented facts about real subjects with a model of 135M parameters."""

    # --- words: how much one says ---
    pseudo_facts: float = 1000.0
    """How many facts the tokenizer's own word frequencies weigh, against the bank's counts."""
    informative: float = 0.6
    """Share of the most that a word can say. One that says less is never an answer, and breaks no answer."""

    # --- retrieval: which memory, and does it belong to this prompt ---
    candidates: int = 128
    """How many memories are found by words, and how many by states, to be scored exactly."""
    postings: int = 5_000
    """How many memories that have one word are looked at, the newest first."""
    prompt_words: int = 64
    """How many words of a prompt are looked at, from its end."""
    alike_from: float = 0.2
    """The cosine of two words' states from which they count as alike."""
    rarity_weight: float = 6.0
    """Of the rarity of what is matched, to the likeness of states."""
    trial_weight: float = 0.5
    """Of the score as it stands, beside the score by the share that matches."""
    aligned: int = 16
    """How many of the best are aligned with the prompt."""
    rest_weight: float = 1.0
    """What a word of the prompt that the fact lacks counts against the memory, to one that the fact has."""
    wording_weight: float = 0.15
    """What a missing word that is no name counts, to one that is."""
    torn_weight: float = 1.0
    """What a missing name beside a name that is there counts more than its mass."""
    gate_open: float = 0.62
    """Below this share of what is at stake a memory does not speak at all."""
    gate_full: float = 0.80
    """From this share on it speaks with all its weight; in between its weight rises linearly."""
    importance_weight: float = 0.01
    """What a doubling of the importance adds to the score, as a share of it."""
    category_bonus: float = 0.02
    """What it adds to the score, as a share of it, that the prompt names the memory's category."""
    attention_temperature: float = 0.1
    """Of the softmax over the retrieved memories' scores (as shares of the best); smaller is sharper."""

    # --- reading: how a memory speaks ---
    trust: float = 0.9
    """The weight of a memory whose gate is wide open, against the model's own prediction."""
    outside_span: float = 3.0
    """Nats by which a word outside of the answer span is less likely to be entered at."""
    statement: float = 4.0
    """Nats by which the fact's whole sentence is likelier than a part of it, where a sentence may begin."""
    follows: float = 1.5
    """Nats by which an entry is likelier for each of the (up to three) words before it that were just said."""

    # --- answers to questions: which words of a fact, see pipeline/fusion/answer_span.py ---
    near_score: float = 0.5
    """Share of the best fact's score that another one has at least, to be read for the answer."""
    question_weight: float = 0.2
    """Of the nats by which a fact makes the question likelier, to those of the answer."""
    score_weight: float = 0.125
    """Of the score by which the fact was found, to them."""
    inside_span: float = 1.5
    """Nats for a run within the words that alignment takes for the answer."""

    # --- the bank: what is kept ---
    min_loss_delta: float = 0.7
    """Nats per token of the answer: what a fact must buy to be learned. 0.7 is a probability of one half."""
    capacity: int = 100_000
    """Memories a namespace."""
    half_life_days: float = 30.0
    """After this time an importance counts half."""
    remembered_ids: int = 100_000
    """How many fact_ids a namespace remembers, to decide each once."""
