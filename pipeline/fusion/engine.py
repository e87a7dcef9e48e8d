"""Engine for batched generation: jobs join a running batch at any step, and leave it when answered.

Continuous batching (iteration-level scheduling: Yu et al., Orca, OSDI 2022). `submit` takes jobs, and each
`step` generates one token of every running row. `prepare` turns jobs into prompts with their memories.

A row without an open gate is one stream of the model. A row with one is two, the bare prompt and the prompt after its facts,
which `Fusion` combines; both run in the same batch, where a second stream costs a small model almost nothing. Rows without an
open gate run in a batch of their own, so that their texts are rounded as if there was no memory.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.fusion.batch import Batch, Cache, Stream
from pipeline.fusion.row import Job, Prompt, Row
from pipeline.fusion.sampling import choose
from pipeline.model import contexts
from pipeline.model.backbone import Backbone
from pipeline.model.contexts import Contexts

Prepare = Callable[[Sequence[Job]], Sequence[Prompt]]


class Progress(NamedTuple):
    """The progress of one row in a step: text that may be shown now, and whether the row has finished."""

    row: Row
    text: str
    finished: bool


class Engine:
    """Rows that are generated together."""

    def __init__(self, backbone: Backbone, contexts: Contexts, prepare: Prepare) -> None:
        self._backbone, self._contexts, self._prepare = backbone, contexts, prepare
        self._submitted: list[Row] = []  # their prompts are read in the next step
        self._batches = (Batch(), Batch())  # of rows without an open gate, and of rows with one
        self._retried: list[Row] = []  # rows of a batch that failed, which run one after another

    @property
    def busy(self) -> bool:
        """Whether a row has not finished: `step` has work to do."""
        return bool(self._running or self._submitted or self._retried)

    @property
    def open(self) -> bool:
        """Whether submitted jobs join in the next step.

        They wait until the running rows have finished if the model's cache has more than keys and values, and while rows are
        retried.
        """
        return all(batch.joinable for batch in self._batches) and not self._retried

    def submit(self, jobs: Sequence[Job]) -> list[Row]:
        """Prepares the jobs' prompts together; their rows start in the next step.

        The row of a job whose prompt cannot be prepared has failed already.
        """
        rows = [Row(job) for job in jobs]
        try:
            self._start(rows)
        except Exception as error:  # a chat template may raise anything
            if len(rows) > 1:
                return [row for job in jobs for row in self.submit([job])]
            rows[0].fail(error)
        else:
            self._submitted += rows
        return rows

    def cancel(self, row: Row) -> None:
        """Finishes the row with the text that it has; no step reports it again."""
        row.finish_reason = row.finish_reason or "stop"
        self._drop_finished()

    def step(self) -> list[Progress]:
        """Generates a token of each running row, and the first one of each submitted row.

        One row must not fail the others: if the step fails, its rows are generated again, each in a batch of its own, and
        only the row that fails there gets the error. Text that was reported is not reported again.
        """
        rows = list(dict.fromkeys([*self._running, *self._submitted, *self._retried]))
        try:
            self._decode()
            self._drop_finished()
            self._join()
        except Exception as error:
            self._retry(rows, error)
        self._drop_finished()
        progress = [Progress(row, row.take_text(), bool(row.finish_reason)) for row in rows]
        return [one for one in progress if one.text or one.finished]

    @property
    def _running(self) -> list[Row]:
        return [row for batch in self._batches for row in batch.rows]

    def _start(self, rows: Sequence[Row]) -> None:
        prompts = self._prepare([row.job for row in rows])
        for row, prompt in zip(rows, prompts, strict=True):
            row.start(prompt, self._backbone)

    def _decode(self) -> None:
        for batch in self._batches:
            logits = batch.step(self._backbone)
            if logits is not None:
                self._append(batch.streams, logits)

    def _join(self) -> None:
        """Reads the prompts of the rows that may join now, and adds these rows to the batch."""
        if self._retried and not self._running:
            joining = self._retried[:1]
            self._start(joining)
        elif self.open:
            joining, self._submitted = self._submitted, []
        else:
            return
        for batch, fused in zip(self._batches, (False, True), strict=True):
            if rows := [row for row in joining if bool(row.prompt.reading) == fused]:
                streams, logits, cache = self._read(rows)
                self._append(streams, logits)
                batch.join(streams, cache)

    def _read(self, rows: Sequence[Row]) -> tuple[list[Stream], Tensor, Cache]:
        """The rows' streams, the next token's logits of each, and their cache.

        Streams of rows with an open gate go on from what the ranker has read. The others are read by themselves, so that their
        texts are rounded as if there was no memory.
        A model whose cache cannot be joined reads both streams in one batch, with their padding.
        """
        streams = [Stream(row, False) for row in rows]
        prompts = [contexts.Prompt((), row.prompt.ids) for row in rows]
        fused = [row for row in rows if row.prompt.reading]
        streams += [Stream(row, True) for row in fused]
        prompts += [row.prompt.reading for row in fused if row.prompt.reading]
        logits, cache = self._contexts.prefill(prompts, resume=bool(fused))
        return streams, logits, cache

    @torch.inference_mode()
    def _append(self, streams: Sequence[Stream], logits: Tensor) -> None:
        """Chooses the next token of each row that has not finished; logits: [streams, V]."""
        bare = {s.row: i for i, s in enumerate(streams) if not s.memory and not s.row.finish_reason}
        memory = {s.row: i for i, s in enumerate(streams) if s.memory}
        scores = logits if len(bare) == len(logits) else logits[list(bare.values())]
        for n, (row, i) in enumerate(bare.items()):
            if row in memory:
                scores[n] = row.fuse(logits[i], logits[memory[row]])
        chosen = choose(scores, [row.sampler for row in bare])
        for n, (row, token) in enumerate(zip(bare, chosen, strict=True)):
            if token in self._backbone.eos_ids:
                row.finish_reason = "stop"
            else:
                row.note(scores[n], token, self._backbone)
                row.append(token)

    def _drop_finished(self) -> None:
        self._submitted = [row for row in self._submitted if not row.finish_reason]
        self._retried = [row for row in self._retried if not row.finish_reason]
        for batch in self._batches:
            batch.drop_finished()

    def _retry(self, rows: Sequence[Row], error: Exception) -> None:
        """Several rows are generated again, each by itself; one that was alone fails with the error."""
        unfinished = self._retried[:1] or [row for row in rows if not row.finish_reason]
        self._batches = (Batch(), Batch())
        if len(unfinished) == 1:
            unfinished[0].fail(error)
        else:
            self._submitted, self._retried = [], unfinished
