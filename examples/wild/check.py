"""Checker of the scenarios in this folder: prints what is wrong with them, then counts what there is.

Run it from the repository's root, on this folder or another: python -m examples.wild.check [FOLDER].
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]  # an object of the JSON
Fields = dict[str, type]
Counts = Counter[tuple[str, str]]  # by (group, name)

FORMS = ("continuation", "question", "other words", "reverse", "chat")
KINDS = (
    "name", "lower case", "number", "date or time", "code", "short", "clause", "first person", "list", "role",
    "two hop", "negation", "update", "beside", "other language",
)  # fmt: skip
WHYS = ("unknown attribute", "near name", "unknown subject", "unrelated")
LINKS = ("replaces", "beside", "same_as")
IN_OTHER_WORDS = ("negation", "role", "other language")
"""Kinds whose answer need not stand in a fact: it may be "no"."""

DOMAIN: Fields = {"domain": str, "facts": list, "asks": list, "silent": list}
FIELDS: dict[str, Fields] = {
    "facts": {"id": str, "day": int, "category": str, "text": str},
    "asks": {"text": str, "form": str, "kind": str, "facts": list, "answers": list},
    "silent": {"text": str, "why": str},
}
MIN_FACTS = 30  # a domain
MIN_DOMAINS, MIN_PROMPTS = 40, 5000  # in all, without those that are kept to measure with
KEPT = "dev.jsonl"
HOST = re.compile(r"(?:\w@|https?://)([\w-]+\.[\w.-]*\w)|\b(?:[\w-]+\.)+(?:com|org|net)\b", re.I)
"""The host of an e-mail address or a link, or what looks like one."""


def plain(text: str) -> str:
    """A prompt without case and punctuation: two that are equal so are one prompt."""
    return " ".join(re.findall(r"\w+", text.lower()))


def wrong_fields(entry: object, fields: Fields, optional: tuple[str, ...] = ()) -> Iterator[str]:
    """What an object lacks, has of another type or empty, or has too much."""
    if not isinstance(entry, dict):
        yield f"not an object: {entry!r}"
        return
    for name, kind in fields.items():
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or value in ("", []):
            yield f"{name} is not a {kind.__name__}, or empty"
        elif (
            isinstance(value, list)
            and fields is not DOMAIN
            and not all(isinstance(item, str) for item in value)
        ):
            yield f"{name} holds something else than texts"
    yield from (f"{name} is not a str" for name in optional if not isinstance(entry.get(name, ""), str))
    if unknown := sorted(set(entry) - set(fields) - set(optional)):
        yield f"unknown fields {', '.join(unknown)}"


def wrong_shape(domain: object) -> Iterator[str]:
    """Whatever keeps the other checks from reading a domain."""
    yield from wrong_fields(domain, DOMAIN)
    if isinstance(domain, dict):
        for part, fields in FIELDS.items():
            entries = domain.get(part)
            for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
                for wrong in wrong_fields(entry, fields, LINKS if part == "facts" else ()):
                    yield f"{part} {number}: {wrong}"


def ended(facts: list[Entry]) -> set[str]:
    """The ids of facts that a later one replaces, and of what said the same before it."""
    first: dict[str, str] = {}  # by id, the fact that said it first
    ends = set[str]()
    for fact in facts:
        id: str = fact["id"]
        same, old = fact.get("same_as", ""), fact.get("replaces", "")
        if old in first:
            ends.update(said for said, root in first.items() if root == first[old])
        first[id] = first.get(same, id)
    return ends


def wrong_facts(facts: list[Entry]) -> Iterator[str]:
    if len(facts) < MIN_FACTS:
        yield f"{len(facts)} facts, fewer than {MIN_FACTS}"
    earlier: dict[str, int] = {}
    day = -1
    for fact in facts:
        if fact["id"] in earlier:
            yield f"{fact['id']}: an id twice"
        if fact["day"] < day:
            yield f"{fact['id']}: day is before that of the fact above it"
        for link in LINKS:
            if link in fact and fact[link] not in earlier:
                yield f"{fact['id']}: {link} names no earlier fact"
            elif link == "replaces" and link in fact and earlier[fact[link]] >= fact["day"]:
                yield f"{fact['id']}: replaces a fact of the same day"
        day = fact["day"]
        earlier.setdefault(fact["id"], day)


def wrong_ask(ask: Entry, texts: dict[str, str], over: set[str]) -> Iterator[str]:
    text, answers = ask["text"], [answer.lower() for answer in ask["answers"]]
    if ask["kind"] not in KINDS or ask["form"] not in FORMS:
        yield "kind or form unknown"
    if not all(id in texts for id in ask["facts"]):
        yield "names facts that are not there"
    elif any(id in over for id in ask["facts"]):
        yield "asks for a fact that a later one replaces"
    elif ask["kind"] not in IN_OTHER_WORDS:
        said = " ".join(texts[id] for id in ask["facts"]).lower()
        if not any(answer in said for answer in answers):
            yield "no answer stands in its facts"
    if any(answer in text.lower() for answer in answers if len(answer) > 2):
        yield "an answer stands in what is asked"
    if ask["form"] == "question" and not text.endswith(("?", "？")):
        yield "a question without a question mark"
    if ask["form"] in ("continuation", "reverse") and text.endswith((".", "?", "!", " ")):
        yield "a continuation that ends like a sentence, or in a space"


def wrong_prompts(domain: Entry) -> Iterator[str]:
    texts = {fact["id"]: fact["text"] for fact in domain["facts"]}
    over = ended(domain["facts"])
    asked, untouched = set[str](), set[str]()
    for ask in domain["asks"]:
        if plain(ask["text"]) in asked:
            yield f"{ask['text']!r}: asked twice"
        asked.add(plain(ask["text"]))
        yield from (f"{ask['text']!r}: {wrong}" for wrong in wrong_ask(ask, texts, over))
    for silent in domain["silent"]:
        if silent["why"] not in WHYS:
            yield f"{silent['text']!r}: why unknown"
        if plain(silent["text"]) in asked:
            yield f"{silent['text']!r}: silent, and an ask"
        if plain(silent["text"]) in untouched:
            yield f"{silent['text']!r}: silent twice"
        untouched.add(plain(silent["text"]))


def wrong_addresses(domain: Entry) -> Iterator[str]:
    """Hosts of e-mail addresses and links that somebody may own."""
    for part in FIELDS:
        for entry in domain[part]:
            for found in HOST.finditer(entry["text"]):
                host = found[1] or found[0]
                if not host.endswith(".example"):
                    yield f"{host}: an address outside .example"


def wrong_domain(domain: Entry) -> Iterator[str]:
    yield from wrong_facts(domain["facts"])
    yield from wrong_prompts(domain)
    yield from wrong_addresses(domain)


def count(domain: Entry) -> Counts:
    counts = Counts()
    counts["all", "domains"] = 1
    for part in FIELDS:
        counts["all", part] = len(domain[part])
    counts.update(("links", link) for fact in domain["facts"] for link in LINKS if link in fact)
    counts.update((group, ask[group]) for ask in domain["asks"] for group in ("form", "kind"))
    counts.update(("why", silent["why"]) for silent in domain["silent"])
    return counts


def check(folder: Path) -> tuple[list[str], Counts]:
    """What is wrong with a folder's scenarios, and the counts of all but those kept to measure with."""
    wrong: list[str] = []
    counts = Counts()
    names = set[str]()
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path.name}:{number}"
            try:
                domain = json.loads(line)
            except ValueError as error:
                wrong.append(f"{where}: no JSON: {error}")
                continue
            if shape := list(wrong_shape(domain)):
                wrong += [f"{where}: {fault}" for fault in shape]
                continue
            where = f"{where} ({domain['domain']})"
            if domain["domain"] in names:
                wrong.append(f"{where}: a domain's name twice")
            names.add(domain["domain"])
            wrong += [f"{where} {fault}" for fault in wrong_domain(domain)]
            if path.name != KEPT:
                counts += count(domain)
    prompts = counts["all", "asks"] + counts["all", "silent"]
    if counts["all", "domains"] < MIN_DOMAINS:
        wrong.append(f"{counts['all', 'domains']} domains besides {KEPT}, fewer than {MIN_DOMAINS}")
    if prompts < MIN_PROMPTS:
        wrong.append(f"{prompts} prompts besides {KEPT}, fewer than {MIN_PROMPTS}")
    return wrong, counts


def main() -> int:
    parser = argparse.ArgumentParser(description="Check scenarios: one domain a line, in a folder's *.jsonl.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    wrong, counts = check(parser.parse_args().folder)
    for fault in wrong:
        print("WRONG", fault)
    for group in ("all", "links", "form", "kind", "why"):
        found = {name: n for (of, name), n in counts.most_common() if of == group}
        print(f"{group}: {', '.join(f'{name} {n:,}' for name, n in found.items())}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
