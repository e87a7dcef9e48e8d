"""Preparation of prompts with their memories: retrieval, the choice of an answer span, and fusion."""

from collections.abc import Sequence
from functools import cached_property

from pipeline.fusion.answer_span import choose_span
from pipeline.fusion.fusion import Fusion
from pipeline.fusion.row import Job, Prompt
from pipeline.fusion.sampling import NoRepeatedNgram
from pipeline.fusion.span import Span
from pipeline.fusion.span_scorer import SpanScorer
from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.retrieve.gate import only_chosen
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.retriever import retrieve_all


class Preparer:
    """Turns jobs into prompts for the engine. Jobs with the same text and namespaces share the work."""

    def __init__(self, encoder: Encoder, bank: Bank) -> None:
        self._encoder, self._bank = encoder, bank

    def prompts(self, jobs: Sequence[Job]) -> list[Prompt]:
        """The prompt of each job."""
        namespaces = [job.namespaces if job.use_memory else () for job in jobs]
        settings = self._bank.settings
        hits = self.retrieve(
            [job.query() for job in jobs], namespaces, settings.memories, settings.other_memories
        )
        spans: dict[tuple[str, ...], Span | None] = {}
        return [self._prompt(job, found, spans) for job, found in zip(jobs, hits, strict=True)]

    def retrieve(
        self, texts: Sequence[str], namespaces: Sequence[Sequence[str]], k: int, others: int = 0
    ) -> list[list[Hit]]:
        """The hits of each text, best first: see retriever.retrieve_all. Texts whose namespaces are empty are not encoded."""
        queries = [(text, *names) for text, names in zip(texts, namespaces, strict=True)]
        known = [query for query in dict.fromkeys(queries) if any(map(self._bank.size, query[1:]))]
        encoded = self._encoder.encode_prompts([text for text, *_ in known])
        found = retrieve_all(self._bank, [names for _, *names in known], encoded, k, others)
        hits = dict(zip(known, found, strict=True))
        return [hits.get(query, []) for query in queries]

    def _prompt(self, job: Job, hits: list[Hit], spans: dict[tuple[str, ...], Span | None]) -> Prompt:
        """spans: the spans chosen so far, by context and memory ids; gets this one."""
        backbone, settings = self._encoder.backbone, self._bank.settings
        informative = self._encoder.informative
        context, ids = self._context(job)
        room = min(job.max_new_tokens, max(1, backbone.max_positions // 2))
        key = (context, *(hit.memory.memory_id for hit in hits))
        if key not in spans:
            spans[key] = choose_span(self._span_scorer, hits, context, informative, settings)
        if span := spans[key]:
            hits = only_chosen(hits, span.hit)
        hits = [hit for n, hit in enumerate(hits) if n < settings.memories or (span and n == span.hit)]
        ids = backbone.clip(ids or backbone.lead, room)
        if not any(hit.gate > 0 for hit in hits):
            return Prompt(ids, room, hits, None)
        fusion = Fusion(hits, span, context, self._tokenize, informative, settings)
        return Prompt(ids, room, hits, fusion, [fusion, NoRepeatedNgram(settings.repeated_tokens)])

    def _context(self, job: Job) -> tuple[str, list[int]]:
        """The text that the answer continues, and its tokens."""
        backbone = self._encoder.backbone
        if job.messages is not None:
            chat = backbone.chat(job.messages)
            return chat, backbone.tokenize_prompt(chat)
        begin = backbone.lead if backbone.lead == [backbone.tokenizer.bos_token_id] else []
        return job.prompt or "", begin + self._tokenize(job.prompt or "")

    def _tokenize(self, text: str) -> list[int]:
        return self._encoder.backbone.tokenize([text])[0].ids

    @cached_property
    def _span_scorer(self) -> SpanScorer:
        """Kept as long as the model, whose keys and values it holds."""
        return SpanScorer(self._encoder.backbone)
