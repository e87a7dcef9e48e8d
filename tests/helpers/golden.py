"""Golden figures of the memory, which a change of the code's shape leaves byte-equal.

    python -m tests.helpers.golden write FOLDER --facts FILE      # before the change
    python -m tests.helpers.golden compare FOLDER --facts FILE    # after it, on the same machine

`stream.json` holds the digest and the outcomes of a crash-harness stream under a small random model, `answers.json` the
answers, scores and gates of 200 prompts under the default model, `recall.json` the figures of `bench recall --limit 100`.
Floating-point sums differ between processors, so a golden folder belongs to one machine and is not kept in the repository.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import MemoryLM
from pipeline.decide.decide import decide_fact
from pipeline.decide.requests import decide_forget
from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.memory.events import ForgetRequest, NewFact, SourceOffset, labels_of
from schemas.fact import Fact, Forget, ForgetKey
from tests.faults.facts import make_facts
from tests.helpers.models import make_gpt2

SEED, STREAM, LEARNED, ASKED = 20261129, 2000, 400, 200
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def stream() -> Any:
    """The digest after a crash-harness stream that nobody disturbs, and how often each outcome was decided."""
    pairs = make_facts(SEED, STREAM, BEGIN - timedelta(hours=1))
    with tempfile.TemporaryDirectory() as folder:
        encoder = Encoder.load(str(make_gpt2(Path(folder))))
    texts = [fact.text for _, fact in pairs if isinstance(fact, Fact)]
    encodings = iter(encoder.encode(texts))
    bank, outcomes = Bank(), Counter[str]()
    for offset, (namespace, fact) in enumerate(pairs):
        cause, now = SourceOffset("facts", "golden", 0, offset), BEGIN + timedelta(seconds=offset)
        if isinstance(fact, Forget):
            decisions = decide_forget(bank, ForgetRequest(namespace, fact.forget, False, now, cause), now)
        elif isinstance(fact, ForgetKey):
            request = ForgetRequest(namespace, None, False, now, cause, fact.forget_key, fact.observed_at)
            decisions = decide_forget(bank, request, now)
        elif isinstance(fact, Fact):
            new = NewFact(
                namespace, next(encodings), fact.observed_at or now, now, cause, fact.min_loss_delta,
                **labels_of(fact),
            )  # fmt: skip
            decisions = decide_fact(bank, new, now)
        for decision in decisions:
            bank.apply(decision)
            outcomes[decision.outcome] += 1
    return {"digest": bank.digest(), "outcomes": dict(sorted(outcomes.items()))}


def answers(facts: Path) -> Any:
    """Answers with their memories' scores and gates: cloze prompts, paraphrases, questions, and neighbours' prompts."""
    rows = [json.loads(line) for line in facts.read_text().splitlines()[:LEARNED]]
    lm = MemoryLM.load(clock=lambda: BEGIN)
    learned = lm.learn([row["text"] for row in rows], min_loss_delta=0.0)
    prompts = []
    for row in rows[: ASKED // 4]:
        neighbour = (row["neighbours"] or [row["paraphrases"][-1]])[0]
        prompts += [row["prompt"], row["paraphrases"][0], f"Question: {row['question']}\nAnswer:", neighbour]
    answered = lm.generate(prompts, max_new_tokens=16)
    return {
        "learned": [[d.outcome, d.memory_id, d.nearest, repr(d.loss_delta)] for d in learned],
        "answers": [
            {
                "prompt": prompt,
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "memories": [
                    [m.memory_id, repr(float(m.score)), repr(float(m.gate))] for m in answer.memories
                ],
            }
            for prompt, answer in zip(prompts, answered, strict=True)
        ],
    }


def recall(facts: Path) -> Any:
    """`bench recall --limit 100 --json`, less what is timed."""
    command = [sys.executable, "-m", "workers.cli", "bench", "recall", "--facts", str(facts)]
    printed = subprocess.run(
        [*command, "--limit", "100", "--json"], check=True, stdout=subprocess.PIPE
    ).stdout
    figures = json.loads(printed)
    for timed in ("cost", "seconds"):
        figures.pop(timed, None)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--facts", type=Path, required=True, help="facts with ways to ask for them, JSON Lines"
    )
    parser.add_argument("--only", nargs="*", default=["stream", "answers", "recall"])
    arguments = parser.parse_args()
    figures: dict[str, Callable[[], Any]] = {
        "stream": stream,
        "answers": partial(answers, arguments.facts),
        "recall": partial(recall, arguments.facts),
    }
    arguments.folder.mkdir(parents=True, exist_ok=True)
    differ = 0
    for name in arguments.only:
        path = arguments.folder / f"{name}.json"
        text = json.dumps(figures[name](), indent=1, ensure_ascii=False)
        if arguments.action == "write":
            path.write_text(text)
            print(f"{name}: written", flush=True)
        elif path.read_text() == text:
            print(f"{name}: equal", flush=True)
        else:
            path.with_suffix(".now.json").write_text(text)
            print(f"{name}: DIFFERS, see {path.with_suffix('.now.json')}", flush=True)
            differ += 1
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
