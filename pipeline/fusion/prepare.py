"""Preparation of prompts: retrieval, ranking and gates, and the stream that reads the facts."""

from collections.abc import Sequence

from pipeline.fusion.fusion import Fusion
from pipeline.fusion.row import Job, Prompt
from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.model import contexts
from pipeline.model.backbone import Backbone
from pipeline.model.reading import context_of
from pipeline.model.weights import Numbers, none_token
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.passage import LONG
from pipeline.retrieve.ranker import Asked, Ranker
from pipeline.retrieve.retriever import retrieve_all
from pipeline.retrieve.second_look import Query, look_again
from pipeline.text.words import split, terms_of


class Preparer:
    """Turns jobs into prompts for the engine. Jobs with the same text and namespaces share the work."""

    def __init__(self, encoder: Encoder, bank: Bank) -> None:
        self._encoder, self._bank = encoder, bank
        self._ranker = Ranker(encoder.backbone, encoder.contexts, encoder.weights, bank.settings)

    def prompts(self, jobs: Sequence[Job]) -> list[Prompt]:
        """The prompt of each job."""
        namespaces = [job.namespaces if job.use_memory else () for job in jobs]
        hits = self.retrieve([job.query() for job in jobs], namespaces, self._bank.settings.memories)
        return [self._prompt(job, found) for job, found in zip(jobs, hits, strict=True)]

    def retrieve(self, texts: Sequence[str], namespaces: Sequence[Sequence[str]], k: int) -> list[list[Hit]]:
        """The k best hits of each text, likeliest first, with their gates. Texts whose namespaces are empty are not encoded."""
        queries = [(text, *names) for text, names in zip(texts, namespaces, strict=True)]
        known = [query for query in dict.fromkeys(queries) if any(map(self._bank.size, query[1:]))]
        encoded = self._encoder.encode_prompts([text for text, *_ in known])
        count = max(k, self._bank.settings.read_candidates)
        found = retrieve_all(self._bank, [names for _, *names in known], encoded, count)
        asked = [Asked(text, hits) for (text, *_), hits in zip(known, found, strict=True)]
        looks = [
            Query(text, names, own)
            for (text, *names), own in zip(known, self._ranker.rank(asked), strict=True)
        ]
        hits = dict(zip(known, look_again(self._encoder, self._bank, looks), strict=True))
        return [hits.get(query, [])[:k] for query in queries]

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Prepares beforehand what an answer from a memory with one of these texts waits for, unless it is a long one."""
        # What is read of a long one depends on the prompt.
        short = [text for text in texts if len(split(text)) <= LONG]
        self._ranker.read_ahead(short)
        self._encoder.encode_prompts(short)  # for a second look

    def _prompt(self, job: Job, hits: list[Hit]) -> Prompt:
        backbone = self._encoder.backbone
        context, ids = self._context(job)
        room = min(job.max_new_tokens, max(1, backbone.max_positions // 2))
        ids = ids or backbone.lead
        read = sorted((hit for hit in hits if hit.gate > 0), key=lambda hit: hit.memory.observed_at)
        if not read:
            return Prompt(backbone.clip(ids, room), room, hits, None, None)
        texts = [hit.passage for hit in read]
        facts = context_of(texts)
        if self._length(facts) + room + len(ids) > backbone.max_positions:
            # A model with a short context reads the facts without the examples, and leaves half of the room to the prompt.
            facts = context_of(self._cut(texts, (backbone.max_positions - room) // 2))[1:]
        ids = backbone.clip(ids, room + self._length(facts))
        weights = self._encoder.weights
        none = none_token(backbone, weights)
        fusion = fusion_of(backbone, context, texts, max(hit.gate for hit in read), weights.numbers, none)
        return Prompt(ids, room, hits, fusion, contexts.Prompt(facts, ids))

    def _length(self, context: contexts.Context) -> int:
        """Tokens, with the model's beginning."""
        return sum(len(tokens.ids) for tokens in self._encoder.backbone.tokenize(context)) + 1

    def _cut(self, facts: Sequence[str], most: int) -> list[str]:
        """The facts, each cut to its share of `most` tokens if they have more together."""
        tokens, share = self._encoder.backbone.tokenize(facts), max(1, most // len(facts))
        if sum(len(t.ids) for t in tokens) <= most:
            return list(facts)
        return [
            fact if len(t.ids) <= share else fact[: t.offsets[share - 1][1]]
            for fact, t in zip(facts, tokens, strict=True)
        ]

    def _context(self, job: Job) -> tuple[str, list[int]]:
        """The text that the answer continues, and its tokens."""
        backbone = self._encoder.backbone
        if job.messages is not None:
            chat = backbone.chat(job.messages)
            return chat, backbone.tokenize_prompt(chat)
        begin = backbone.lead if backbone.lead == [backbone.tokenizer.bos_token_id] else []
        return job.prompt or "", begin + backbone.tokenize([job.prompt or ""])[0].ids


def fusion_of(
    backbone: Backbone, prompt: str, facts: Sequence[str], gate: float, numbers: Numbers, none: int | None
) -> Fusion:
    """The fusion of an answer to the prompt that reads these facts. none: see Fusion."""
    known, lacking = set(terms_of(prompt)), list[str]()
    for fact in facts:
        for word in split(fact):
            if word.term not in known:
                text = fact[word.start : word.end]
                lacking += [text, f" {text}"]
    tokens = backbone.tokenize([f" {fact}" for fact in facts])
    copied = [i for t in backbone.tokenize(lacking) for i in t.ids] if lacking else []
    return Fusion(gate, [t.ids for t in tokens], copied, numbers, none)
