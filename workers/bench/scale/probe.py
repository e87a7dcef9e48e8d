"""The probe of `bench scale`: what one thing costs on this machine, in a minute or two.

It takes the real encoder and the real writer, codec and compaction over invented facts. The figures of speed are of a
machine that does nothing else; where others work on it, give the figures of a quiet run by --costs.
"""

import gc
from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median

from pipeline.bench.harness import Progress, resident_bytes, timed
from pipeline.bench.synthetic.banks import variants
from pipeline.bench.synthetic.facts import BEGIN
from pipeline.bench.synthetic.texts import everyday_prompts, made_up_facts
from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.decide.requests import decide_use
from pipeline.fusion.row import Job
from pipeline.history import log as history
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.codec import memory_to_record
from pipeline.memory.events import Decision, NewFact, SourceOffset
from pipeline.memory_lm import MemoryLM
from schemas.changelog import changelog_key
from schemas.common import encode
from workers.bench import replica, write
from workers.bench.scale.model import Costs
from workers.runtime.loading import give_back
from workers.write.partition import load

FACTS = 128
"""Encoded by the model."""
MEMORIES = 20_000
"""Held, for the bytes that each takes."""
LOADED = 5_000
APPENDS = 9
PROMPTS, TOKENS = 16, 16
NAMESPACE = "probe"


def measure(folder: Path, model: str, device: str, progress: Progress) -> Costs:
    """Measures everything. `folder`: an empty one, on the disk of the histories."""
    lm = MemoryLM.load(model, device)
    gc.collect()
    model_bytes = resident_bytes()
    texts = made_up_facts(FACTS, 0)
    encodings = lm.encoder.encode(texts[:8])  # warms up
    encoding = timed(lambda: encodings.extend(lm.encoder.encode(texts[8:]))).wall
    progress("probe", 1, 5)
    memory_bytes, changelog_bytes = _held(encodings)
    progress("probe", 1, 5)
    answering = _answering(lm, texts)
    progress("probe", 1, 5)
    fact_bytes, use_bytes, file_bytes, put_s = _stored(folder / "files", encodings)
    written = folder / "written"
    written.mkdir()
    writing = write.measure(written, 2 * write.SMALL, 1, progress)
    folded: list[int] = []
    folding = timed(lambda: folded.append(len(load(written, 0, Settings()).bank))).wall
    progress("probe", 1, 5)
    loading = replica.measure(folder, LOADED, 1, progress)
    progress("probe", 1, 5)
    return Costs(
        encode_facts_s=(FACTS - 8) / encoding, write_facts_s=writing.small_facts_s, put_s=put_s,
        load_memories_s=loading.memories_s, fold_memories_s=folded[0] / folding, answers_s=PROMPTS / answering,
        model_bytes=model_bytes, memory_bytes=memory_bytes, changelog_bytes=changelog_bytes,
        fact_bytes=fact_bytes, use_bytes=use_bytes, file_bytes=file_bytes,
    )  # fmt: skip


def _held(encodings: Sequence[FactEncoding]) -> tuple[float, float]:
    """Bytes of a memory in a process, and in the changelog."""
    bank, changelog = Bank(Settings(capacity=MEMORIES)), 0
    gc.collect()
    give_back()  # else the memories go where something was before, and nothing grows
    before = resident_bytes()
    for memory in islice(variants(encodings, NAMESPACE, 1), MEMORIES):
        bank.put(memory)
    gc.collect()
    held = (resident_bytes() - before) / MEMORIES
    for memory in islice(bank.memories(NAMESPACE), 100):
        changelog += len(changelog_key(NAMESPACE, memory.memory_id)) + len(encode(memory_to_record(memory)))
    return held, changelog / 100


def _answering(lm: MemoryLM, facts: Sequence[str]) -> float:
    """Seconds of a full batch of answers, each from a memory."""
    lm.learn(facts[:PROMPTS], min_loss_delta=-99.0)
    jobs = [Job(prompt, max_new_tokens=TOKENS) for prompt in everyday_prompts(PROMPTS, 1)]
    jobs[: PROMPTS // 2] = [
        Job(fact.rsplit(" ", 1)[0], max_new_tokens=TOKENS) for fact in facts[: PROMPTS // 2]
    ]
    lm.answer(jobs)  # warms up
    return timed(lambda: lm.answer(jobs)).wall


def _stored(data: Path, encodings: Sequence[FactEncoding]) -> tuple[float, float, float, float]:
    """Bytes of a fact's row, of a use's row and of a file in the history, and the seconds of a small append."""
    facts, used = decisions(encodings)
    fact_bytes, file_bytes = _row_and_file(data / "facts", facts)
    use_bytes, _ = _row_and_file(data / "uses", used)
    times = [timed(lambda n=n: history.append(data, 0, n, facts[:8])).wall for n in range(APPENDS)]  # type: ignore[misc]
    return fact_bytes, use_bytes, file_bytes, median(times)


def _row_and_file(data: Path, rows: Sequence[Decision]) -> tuple[float, float]:
    """Bytes of a row, and of a file without rows: the line through a small file and a larger one."""
    few = len(rows) // 4
    small, large = (history.append(data, n, 0, rows[:n]).stat().st_size for n in (few, len(rows)))
    row = (large - small) / (len(rows) - few)
    return row, max(0.0, small - few * row)


def decisions(encodings: Sequence[FactEncoding]) -> tuple[list[Decision], list[Decision]]:
    """The decisions to learn these facts, and of a use of each."""
    bank, learned, used = Bank(), list[Decision](), list[Decision]()
    for n, encoding in enumerate(encodings):
        at, cause = BEGIN + timedelta(seconds=n), SourceOffset("facts", "probe", 0, n)
        fact = NewFact(NAMESPACE, encoding, at, at, cause, -99.0, source="probe", fact_id=f"probe-{n}")
        for decision in decide_fact(bank, fact, at):
            bank.apply(decision)
            learned.append(decision)
    for n, memory in enumerate(list(bank.memories(NAMESPACE))):
        cause = SourceOffset("memory-hits", "probe", 0, n)
        used += decide_use(
            bank, NAMESPACE, memory.memory_id, 0.9, f"{n:032x}", cause, BEGIN + timedelta(days=1)
        )
    return learned, used
