"""Generator of the example stream: facts.jsonl, and questions.jsonl about its facts.

The facts come from four invented upstream systems: a product catalogue, a staff directory, an incident log and a
travel desk. Like real systems they correct facts, send some twice, and sometimes deliver late. The same seed and
count always give the same bytes.
"""

import argparse
import json
import random
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

START = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
HOUR, DAY = 3600.0, 86400.0
UPDATES, DUPLICATES, LATE = 0.08, 0.03, 0.02  # shares of all rows

# Kind of subject: source, category, prefix of its fact ids, first record number, subjects in 1,000 facts.
SYSTEMS = {
    "product": ("product-catalogue", "products", "product", 1001, 40),
    "employee": ("staff-directory", "people", "staff", 2001, 40),
    "incident": ("incident-log", "incidents", "incident", 4407, 40),
    "traveller": ("travel-desk", "travel", "trip", 7003, 40),
    "flight": ("travel-desk", "travel", "flight", 8002, 30),
    "conference": ("travel-desk", "travel", "event", 9001, 36),
}

# A line: relation, then one of its wordings. {s} is the subject, {id} its record number, the rest a pool of answers.
WORDINGS = {
    "product": """
price: The {s} sells for {prices}, including sales tax.
price: Customers pay {prices} for the {s} in all our shops.
price: After the spring review of all prices, the {s} is offered at {prices}, and delivery within the country is free.
height: The {s} measures {centimetres} from top to bottom.
height: According to its data sheet, the {s} is {centimetres} high.
height: The {s} has a height of {centimetres} without its packaging.
weight: The {s} weighs {kilograms}, so a single courier can carry it.
weight: The shipping weight of the {s} is {kilograms}, box included.
weight: With its packaging, the {s} comes to {kilograms} on the scales.
material: The {s} is made of {materials}.
material: Every {s} is built from {materials} and finished by hand.
material: The body of the {s} is made from {materials}, while the screws and the feet come from another workshop.
colour: This season the {s} comes in {colours} only.
colour: The only colour left for the {s} is {colours}.
colour: The {s} is sold in {colours}, a colour picked for the autumn range.
warehouse: The {s} ships from the warehouse in {cities}.
warehouse: Orders for the {s} are packed in {cities} and leave within two working days.
warehouse: We keep the {s} in our {cities} warehouse, where the forwarder collects twice a week.
supplier: The {s} is supplied by {suppliers}.
supplier: {suppliers} supplies the {s} under a two-year contract.
supplier: We buy the {s} from {suppliers}, and a new order takes about three weeks.
designer: The {s} was designed by {guests}.
designer: The design of the {s} is credited to {guests} in the catalogue.
designer: {guests} drew the first sketches of the {s} and still approves every change to it.
guarantee: The {s} comes with a guarantee of {months}.
guarantee: Buyers of the {s} have {months} to report a defect.
guarantee: The guarantee on the {s} runs for {months} from the day of delivery.
bay: In the showroom, the {s} is on display in bay {bays}.
bay: You will find the {s} in bay {bays} of the showroom.
bay: Showroom staff keep the {s} in bay {bays}, where customers can try it before they order.
""",
    "employee": """
role: {s} works here as a {roles}.
role: The job title of {s} is {roles}.
role: {s} has taken over as {roles} after the spring reorganisation.
office: {s} works from the {cities} office.
office: {s} is based in {cities} and visits headquarters once a month.
office: The office of {s} is in {cities}, although the contract was signed at headquarters.
manager: {s} reports to {leads}.
manager: The line manager of {s} is {leads}.
manager: Holiday requests from {s} go to {leads} for approval.
extension: The phone extension of {s} is {extensions}.
extension: Calls for {s} should be put through to extension {extensions}.
extension: {s} can be called on extension {extensions}, except on Friday afternoons.
team: {s} belongs to the {birds} team.
team: {s} is now a full member of the {birds} team.
team: In the organisation chart, {s} is part of the {birds} team, which works on customer projects all year round.
mentor: The mentor of {s} is {colleagues}.
mentor: {s} is mentored by {colleagues} during the first six months.
mentor: {colleagues} has agreed to mentor {s} until the end of the year.
badge: The badge number of {s} is {badges}.
badge: {s} opens the main gate with badge {badges}.
badge: Security issued badge {badges} to {s} after the old one was lost.
parking: {s} parks in space {bays} behind the building.
parking: Parking space {bays} is reserved for {s}.
parking: The parking space of {s} is {bays}, and colleagues may use it on Fridays.
deputy: The deputy of {s} is {colleagues}.
deputy: {colleagues} stands in for {s} during holidays.
deputy: If {s} does not answer within a day, please write to {colleagues}, who can sign for the whole department.
room: The desk of {s} is in room {rooms}.
room: {s} has moved to room {rooms} with the rest of the team.
room: Visitors will find {s} in room {rooms} after signing in at reception.
""",
    "incident": """
cause: Incident {id} on the {s} was caused by {causes}.
cause: Root cause of incident {id} on the {s}: {causes}.
cause: The {s} failed because of {causes}, as the review of incident {id} found after reading three days of logs.
owner: Incident {id} on the {s} is owned by {staff}.
owner: The owner of incident {id} on the {s} is {staff}.
owner: {staff} owns incident {id} and posts an update on the {s} every hour.
duration: Incident {id} kept the {s} offline for {minutes}.
duration: The {s} was down for {minutes} during incident {id}.
duration: It took {minutes} to bring the {s} back after incident {id}.
fixer: Incident {id} on the {s} was fixed by {staff}.
fixer: {staff} fixed the {s} and closed incident {id}.
fixer: The fix for the {s} came from {staff}, who was on call that night and had seen the same symptoms before.
remedy: Incident {id} on the {s} was resolved by {remedies}.
remedy: The on-call engineer restored the {s} by {remedies}.
remedy: What finally helped the {s} in incident {id} was {remedies}.
reporter: The first ticket about the {s} came from {clients}.
reporter: Incident {id} on the {s} was first reported by {clients}.
reporter: {clients} was the first to notice that the {s} had failed, and wrote to support before our own alarms went off.
site: Incident {id} took down the {s} in the {cities} data centre.
site: The fault in the {s} was traced to a rack in {cities}.
site: Only the {cities} data centre was affected when the {s} failed.
customers: Incident {id} on the {s} affected {customers}.
customers: While the {s} was down, {customers} could not place orders.
customers: Support counted {customers} without service while the {s} was down.
release: The {s} was running release {releases} when incident {id} began.
release: Release {releases} was live on the {s} when it failed.
release: At the time of incident {id}, the {s} was on release {releases}.
chair: {leads} will chair the review of the {s} outage.
chair: The review meeting about the {s} will be led by {leads}.
chair: The review of incident {id} on the {s} is chaired by {leads}.
""",
    "traveller": """
flight: {s} is booked on flight {flights}.
flight: {s} flies out on flight {flights} and returns a week later.
flight: We have put {s} on flight {flights} at the request of the client.
hotel: {s} stays at {hotels} for the whole trip.
hotel: {hotels} has confirmed a quiet room for {s}.
hotel: We have booked {s} into {hotels}, which is a short walk from the station and serves breakfast from six.
visa: The visa contact for {s} is {colleagues}.
visa: {colleagues} looks after the visa for {s}.
visa: For anything about the visa of {s}, please call {colleagues}.
seat: {s} has seat {seats} on the outbound flight.
seat: The airline has given {s} seat {seats}.
seat: Seat {seats} is confirmed for {s} on the way out.
booking: The booking reference of {s} is {bookings}.
booking: {s} checks in online with booking reference {bookings}.
booking: The airline keeps the trip of {s} under reference {bookings}, which is also printed on the itinerary.
""",
    "flight": """
gate: Flight {s} boards at gate {bays}.
gate: Passengers on flight {s} should go to gate {bays}.
gate: The gate for flight {s} is {bays}, a long walk from security.
departure: Flight {s} departs at {times} local time.
departure: The departure of flight {s} is set for {times}.
departure: Flight {s} is due to take off at {times}, weather permitting.
""",
    "conference": """
city: {cities} hosts the {s} this year.
city: The {s} takes place in {cities} this year.
city: This year, the {s} will be held in {cities}, with two days of talks and a third for workshops.
venue: The venue of the {s} is {halls}.
venue: Sessions of the {s} are held in {halls}, ten minutes from the centre.
venue: The organisers of the {s} have rented {halls} for the opening day.
keynote: The keynote speaker of the {s} is {guests}.
keynote: {guests} gives the opening talk at the {s}.
keynote: The opening talk at the {s} will be given by {guests}.
""",
}

# Ten relations with a question. Without one, the prompt is the fact's text up to its answer.
QUESTIONS = {
    ("product", "supplier"): "",
    ("product", "designer"): "Who designed the {s}?",
    ("employee", "manager"): "Who is the line manager of {s}?",
    ("employee", "extension"): "",
    ("incident", "owner"): "",
    ("incident", "reporter"): "Who was the first to report the failure of the {s}?",
    ("traveller", "hotel"): "At which hotel does {s} stay?",
    ("traveller", "visa"): "",
    ("flight", "gate"): "",
    ("conference", "keynote"): "Who is the keynote speaker of the {s}?",
}

STEMS = """Ald, Bren, Cal, Dor, Esk, Fal, Gar, Hol, Ind, Jor, Kel, Lor, Mor, Nor, Ost, Pel, Quil, Ras, Sel, Tor,
    Ulm, Vel, Wes, Yar, Zan, Bras, Cor, Drey, Els, Fen, Grav, Hal, Isk, Jas, Korv, Lund, Marv, Nev, Orv, Prav,
    Rud, Stav, Talv, Urb, Vint, Wilm, Yor, Zel, Brin, Chel, Dov, Eld, Fior, Gild, Hest, Kast, Linv, Melv, Ren"""
ENDINGS = {  # of a made-up name: it shows what the name is of
    "surname": "ane, ick, eth, ova, una, elli, enko, iar, und, ema, isch, urst",
    "product": "ora, ix, este, ino, umi, elle, ava, ola",
    "service": "ion, eon, aro, yx, usk, idor",
    "company": "axon, ecto, ulin, ero, anto, ivia",
    "place": "ingham, owitz, erley, aminster, estrand, avik",
    "conference": "una, issa, onde, avell",
}
WORDS = {
    "first names": """Priya, Henrik, Nadia, Tomas, Ingrid, Malik, Yuki, Carmen, Oskar, Leila, Viktor, Amara, Jonas,
        Mei, Rafael, Astrid, Kofi, Elena, Matteo, Farah, Lukas, Noor, Diego, Hanna, Samir, Bianca, Emeka, Saskia,
        Andrei, Joana, Ravi, Freya, Bogdan, Zainab, Pierre, Linnea, Hassan, Marta, Kenji, Odile""",
    "items": """desk lamp, side table, wall shelf, coat rack, bar stool, bread bin, plant stand, wall clock,
        umbrella stand, laptop stand, step stool, picture frame, shoe rack, key cabinet, magazine rack""",
    "services": """gateway, billing service, search service, login service, message queue, mail relay,
        payment service, report server, image store, booking service, print service, address service""",
    "cities": """Rotterdam, Odense, Porto, Gdansk, Leeds, Turin, Bilbao, Ghent, Graz, Tampere, Lyon, Leipzig, Brno,
        Aarhus, Seville, Utrecht, Bergen, Basel, Riga, Trieste, Nantes, Dundee, Zaragoza, Bremen, Tartu""",
    "materials": """solid oak, walnut, birch plywood, brushed steel, recycled aluminium, bamboo, cherry wood, beech,
        cast iron, larch, blackened brass, ash wood""",
    "colours": """moss green, slate grey, saffron yellow, coral red, ink blue, ivory, charcoal, rust orange, plum,
        sage green, dusty pink, midnight blue""",
    "roles": """payroll analyst, contract lawyer, data steward, facilities planner, quality inspector, tax adviser,
        brand manager, logistics coordinator, sales trainer, safety officer, network engineer, campus recruiter""",
    "firms": "Works, Supply, Mills, Foods, Energy",
    "meetings": "Summit, Forum, Congress",
    "birds": "Kestrel, Heron, Wagtail, Osprey, Bittern, Curlew, Puffin, Goshawk, Lapwing, Siskin, Dipper, Merlin",
    "causes": """an expired certificate, a full disk, a stale cache, a memory leak, a faulty switch, a missing index,
        a retry storm, a failed migration, a loose cable, a broken fan, clock drift, a wrong firewall rule""",
    "remedies": """restarting the proxies, rolling back one release, adding two nodes, clearing the queue,
        draining one node, rotating the keys, blocking one client, freezing all writes, doubling the timeout""",
}


class Claim(NamedTuple):
    """One relation of one subject in its system's wording, without the answer."""

    kind: str
    record: int
    subject: str
    relation: str
    wording: str
    pool: str
    observed: float  # seconds after START


class Sent(NamedTuple):
    """One revision of a claim, and when it reaches the stream, in seconds after START."""

    arrival: float
    row: dict[str, str]
    answer: str


def listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]


def deck(rng: random.Random, cards: Iterable[str]) -> Iterator[str]:
    """Endless items in random order: none comes twice before all have come once."""
    cards = list(cards)
    while True:
        yield from rng.sample(cards, len(cards))


def names(rng: random.Random, what: str) -> Iterator[str]:
    """Made-up names, each used once, as different from each other as the stems allow."""
    stems, endings = deck(rng, listed(STEMS)), deck(rng, listed(ENDINGS[what]))
    given: set[str] = set()
    while True:
        name = next(stems) + next(endings)
        if name not in given:
            given.add(name)
            yield name


def make_pools(rng: random.Random, scale: float) -> tuple[dict[str, list[str]], dict[str, Iterator[str]]]:
    """The subjects by kind, `scale` times those of 1,000 facts; and the answers by pool."""
    words = {what: deck(rng, listed(text)) for what, text in WORDS.items()}
    people = (f"{next(words['first names'])} {name}" for name in names(rng, "surname"))
    firms = (f"{name} {next(words['firms'])}" for name in names(rng, "company"))
    places = names(rng, "place")
    named = {
        "product": (f"{name} {next(words['items'])}" for name in names(rng, "product")),
        "employee": people,
        "incident": (f"{name} {next(words['services'])}" for name in names(rng, "service")),
        "traveller": people,
        "flight": deck(rng, (f"{a}{b} {n}" for a in "QVXZ" for b in "DHKLMR" for n in range(211, 989, 7))),
        "conference": (f"{name} {next(words['meetings'])}" for name in names(rng, "conference")),
    }
    subjects = {kind: list(islice(named[kind], round(system[4] * scale))) for kind, system in SYSTEMS.items()}
    answers: dict[str, Iterable[str]] = {
        "prices": (f"{n}.90 euros" for n in range(18, 320)),
        "centimetres": (f"{n} centimetres" for n in range(19, 78)),
        "kilograms": (f"{n}.{tenth} kilograms" for n in range(1, 7) for tenth in range(1, 10)),
        "months": (f"{n} months" for n in range(26, 86)),
        "minutes": (f"{n} minutes" for n in range(17, 190)),
        "customers": (f"{n} customers" for n in range(212, 4800, 17)),
        "times": (f"{hour}:{minute}" for hour in range(10, 22) for minute in range(10, 60, 5)),
        "bays": (f"{letter}{n}" for letter in "ABCDEFGH" for n in range(11, 48)),
        "seats": (f"{row}{letter}" for row in range(4, 33) for letter in "ACDF"),
        "rooms": (f"{floor}.{n:02}" for floor in range(2, 8) for n in range(1, 32)),
        "extensions": (str(n) for n in range(3107, 9000, 11)),
        "badges": (str(n) for n in range(40213, 99000, 173)),
        "bookings": (f"{a}P{n}{b}" for a in "KRTX" for n in range(217, 989, 31) for b in "BLWZ"),
        "releases": (f"{a}.{b}.{c}" for a in range(2, 8) for b in range(3, 20) for c in range(1, 6)),
        "leads": islice(people, 14),
        "colleagues": islice(people, 30),
        "guests": islice(people, 30),
        "staff": subjects["employee"],
        "suppliers": islice(firms, 24),
        "clients": islice(firms, 24),
        "flights": subjects["flight"],
        "hotels": (f"Hotel {name}" for name in islice(places, 24)),
        "halls": (f"{name} Hall" for name in islice(places, 24)),
    }
    return subjects, words | {pool: deck(rng, entries) for pool, entries in answers.items()}


def make_claims(rng: random.Random, subjects: dict[str, list[str]], count: int) -> list[Claim]:
    """`count` claims about the subjects; the claims about one subject come within hours."""
    claims = []
    for kind, table in WORDINGS.items():
        relations: dict[str, list[str]] = {}
        for line in table.strip().splitlines():
            relation, wording = line.split(": ", 1)
            relations.setdefault(relation, []).append(wording)
        record = SYSTEMS[kind][3]
        starts = sorted(rng.uniform(3, 28) * DAY for _ in subjects[kind])
        for subject, start in zip(subjects[kind], starts, strict=True):
            for relation, wordings in relations.items():
                wording = rng.choice(wordings)
                pool = next(name for name in re.findall(r"{(\w+)}", wording) if name not in ("s", "id"))
                observed = start + rng.uniform(0, 6 * HOUR)
                claims.append(Claim(kind, record, subject, relation, wording, pool, observed))
            record += rng.randint(1, 6)
    return rng.sample(claims, count)


def send(rng: random.Random, claim: Claim, fate: str, pool: Iterator[str]) -> list[Sent]:
    """All facts about one claim, its newest revision last."""

    def sent(revision: int, answer: str, observed: float, delay: float) -> Sent:
        source, category, prefix, _, _ = SYSTEMS[claim.kind]
        row = {
            "text": claim.wording.format(**{"s": claim.subject, "id": claim.record, claim.pool: answer}),
            "category": category,
            "fact_id": f"{prefix}-{claim.record}-{claim.relation}-{revision}",
            "source": source,
            "observed_at": (START + timedelta(seconds=int(observed))).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return Sent(observed + delay, row, answer)

    old = next(pool)
    new = next(answer for answer in pool if answer != old)
    now, delay = claim.observed, rng.uniform(5, HOUR)
    later = now + rng.uniform(1, 9) * DAY
    if fate == "late":  # the first revision is delayed, and arrives after the second
        return [sent(1, old, now, later - now + 9 * HOUR), sent(2, new, later, delay)]
    first = sent(1, old, now, delay)
    again = {
        "updated": sent(2, new, later, delay),
        "delivered twice": first._replace(arrival=first.arrival + delay),
        "exported again": sent(2, old, later, delay),
    }
    return [first, again[fate]] if fate in again else [first]


def make_questions(stories: list[tuple[Claim, str, list[Sent]]]) -> list[dict[str, str]]:
    """One row per relation of QUESTIONS; two of them ask about facts that were updated."""
    chosen: dict[tuple[str, str], tuple[Claim, Sent]] = {}
    for wanted, enough in (("updated", 2), ("plain", len(QUESTIONS))):
        for claim, fate, sent in stories:
            key = (claim.kind, claim.relation)
            fits = fate == wanted and key in QUESTIONS and key not in chosen
            if fits and len(chosen) < enough and claim.wording.index("{s}") < claim.wording.index(claim.pool):
                chosen[key] = (claim, sent[-1])
    rows = []
    for key, question in QUESTIONS.items():
        claim, newest = chosen[key]
        cloze = newest.row["text"].split(newest.answer)[0].rstrip()
        prompt = f"Question: {question.format(s=claim.subject)}\nAnswer:" if question else cloze
        rows.append({"prompt": prompt, "answer": newest.answer, "fact_id": newest.row["fact_id"]})
    return rows


def make(seed: int, count: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The facts in the order of their arrival, and the questions."""
    rng = random.Random(seed)
    subjects, pools = make_pools(rng, count / 1000)
    updates, late, twice = (round(count * share) for share in (UPDATES, LATE, DUPLICATES / 2))
    claims = make_claims(rng, subjects, count - updates - late - 2 * twice)
    fates = ["updated"] * updates + ["late"] * late + ["delivered twice", "exported again"] * twice
    fates += ["plain"] * (len(claims) - len(fates))
    stories = [(c, fate, send(rng, c, fate, pools[c.pool])) for c, fate in zip(claims, fates, strict=True)]
    stream = sorted((one for _, _, sent in stories for one in sent), key=lambda one: one.arrival)
    return [one.row for one in stream], make_questions(stories)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write facts.jsonl and questions.jsonl.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000, help="facts to write, 1000 to 5000")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    options = parser.parse_args()
    if not 1000 <= options.count <= 5000:
        parser.error("--count must be from 1000 to 5000: the made-up names run out")
    made = make(options.seed, options.count)
    for name, rows in zip(("facts.jsonl", "questions.jsonl"), made, strict=True):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.out / name).write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
