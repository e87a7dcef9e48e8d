"""Writes the example stream: facts.jsonl, and questions.jsonl to ask of it.

It knows four invented upstream systems (a product catalogue, a staff directory, an incident log, a travel desk)
and how such systems behave: they correct what they said, say it twice, and now and then deliver late.
It knows nothing of models or of Kafka. The same seed and count always give the same bytes.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

START = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WEEKS = 4  # over which the records appear; their updates follow within ten days
UPDATES, DUPLICATES, LATE = 0.08, 0.03, 0.02  # shares of all rows
SUBJECTS = {"product": 40, "employee": 40, "incident": 40, "traveller": 26, "flight": 20, "conference": 20}

# Kind of subject: source, category, prefix of its fact ids, first record number.
SYSTEMS = {
    "product": ("product-catalogue", "products", "product", 1001),
    "employee": ("staff-directory", "people", "staff", 2001),
    "incident": ("incident-log", "incidents", "incident", 4407),
    "traveller": ("travel-desk", "travel", "trip", 7003),
    "flight": ("travel-desk", "travel", "flight", 8002),
    "conference": ("travel-desk", "travel", "event", 9001),
}

# Unindented: relation = pool of its answers. Below it, its wordings: {s} subject, {a} answer, {id} record number.
WORDINGS = {
    "product": """
price = prices
    The {s} sells for {a}, including sales tax.
    The list price of the {s} is {a}.
    Customers pay {a} for the {s} in all our shops.
    After the spring review of all prices, the {s} is offered at {a}, and delivery within the country is free.
height = centimetres
    The {s} measures {a} from top to bottom.
    According to its data sheet, the {s} is {a} high.
    The {s} has a height of {a} without its packaging.
weight = kilograms
    The {s} weighs {a}, so a single courier can carry it.
    The shipping weight of the {s} is {a}, box included.
    With its packaging, the {s} comes to {a} on the scales.
material = materials
    The {s} is made of {a}.
    Every {s} is built from {a} and finished by hand.
    Our designers chose {a} for the {s} because it ages well.
    The body of the {s} is made from {a}, while the screws and the feet come from another workshop.
colour = colours
    This season the {s} comes in {a} only.
    The only colour left for the {s} is {a}.
    The {s} is sold in {a}, a colour picked for the autumn range.
warehouse = cities
    The {s} ships from the warehouse in {a}.
    Stock of the {s} is held at the {a} depot.
    Orders for the {s} are packed in {a} and leave within two working days.
    We keep the {s} in our {a} warehouse, where the forwarder collects twice a week.
supplier = suppliers
    The {s} is supplied by {a}.
    {a} supplies the {s} under a two-year contract.
    We buy the {s} from {a}, and a new order takes about three weeks.
    Our supplier for the {s} is {a}, which delivers every second Monday.
designer = guests
    The {s} was designed by {a}.
    The design of the {s} is credited to {a} in the catalogue.
    {a} drew the first sketches of the {s} and still approves every change to it.
guarantee = months
    The {s} comes with a guarantee of {a}.
    Buyers of the {s} have {a} to report a defect.
    The guarantee on the {s} runs for {a} from the day of delivery.
bay = bays
    In the showroom, the {s} is on display in bay {a}.
    You will find the {s} in bay {a} of the showroom.
    Showroom staff keep the {s} in bay {a}, where customers can try it before they order.
""",
    "employee": """
role = roles
    {s} works here as a {a}.
    The job title of {s} is {a}.
    In the directory, {s} is listed as {a}.
    {s} has taken over as {a} after the spring reorganisation.
office = cities
    {s} works from the {a} office.
    {s} is based in {a} and visits headquarters once a month.
    You can find {s} in our {a} office from Monday to Thursday.
    The office of {s} is in {a}, although the contract was signed at headquarters.
manager = leads
    {s} reports to {a}.
    The line manager of {s} is {a}.
    Holiday requests from {s} go to {a} for approval.
    {a} is the line manager of {s} and signs all time sheets.
extension = extensions
    The phone extension of {s} is {a}.
    You can reach {s} on extension {a}.
    Calls for {s} should be put through to extension {a}.
    {s} can be called on extension {a}, except on Friday afternoons.
team = birds
    {s} belongs to the {a} team.
    {s} is now a full member of the {a} team.
    In the organisation chart, {s} is part of the {a} team, which works on customer projects all year round.
mentor = colleagues
    The mentor of {s} is {a}.
    {s} is mentored by {a} during the first six months.
    {a} has agreed to mentor {s} until the end of the year.
badge = badges
    The badge number of {s} is {a}.
    {s} opens the main gate with badge {a}.
    Security issued badge {a} to {s} after the old one was lost.
parking = spaces
    {s} parks in space {a} behind the building.
    Parking space {a} is reserved for {s}.
    The parking space of {s} is {a}, and colleagues may use it on Fridays.
deputy = colleagues
    The deputy of {s} is {a}.
    {a} stands in for {s} during holidays.
    When {s} is away, all questions go to {a}.
    If {s} does not answer within a day, please write to {a}, who stands in and can sign for the whole department.
room = rooms
    The desk of {s} is in room {a}.
    {s} has moved to room {a} with the rest of the team.
    Visitors will find {s} in room {a} after signing in at reception.
""",
    "incident": """
cause = causes
    Incident {id} on the {s} was caused by {a}.
    Root cause of incident {id} on the {s}: {a}.
    The outage of the {s} goes back to {a}.
    The {s} failed because of {a}, as the review of incident {id} found after reading three days of logs.
owner = staff
    Incident {id} on the {s} is owned by {a}.
    The {s} incident has been assigned to {a}.
    The owner of incident {id} on the {s} is {a}.
    {a} owns incident {id} and posts an update on the {s} every hour.
duration = minutes
    Incident {id} kept the {s} offline for {a}.
    The outage of the {s} lasted {a} in all.
    The {s} was down for {a} during incident {id}.
    It took {a} to bring the {s} back after incident {id}.
fixer = staff
    Incident {id} on the {s} was fixed by {a}.
    {a} fixed the {s} and closed incident {id}.
    The fix for the {s} came from {a}, who was on call that night and had seen the same symptoms before.
remedy = remedies
    Incident {id} on the {s} was resolved by {a}.
    The on-call engineer restored the {s} by {a}.
    What finally helped the {s} in incident {id} was {a}.
reporter = clients
    The first ticket about the {s} came from {a}.
    Incident {id} on the {s} was first reported by {a}.
    {a} was the first to notice that the {s} had failed, and wrote to support before our own alarms went off.
site = cities
    Incident {id} took down the {s} in the {a} data centre.
    The fault in the {s} was traced to a rack in {a}.
    Only the {a} data centre was affected when the {s} failed.
customers = customers
    Incident {id} on the {s} affected {a}.
    While the {s} was down, {a} could not place orders.
    Support counted {a} without service while the {s} was down.
release = releases
    The {s} was running release {a} when incident {id} began.
    Release {a} was live on the {s} when it failed.
    At the time of incident {id}, the {s} was on release {a}.
chair = leads
    {a} will chair the review of the {s} outage.
    The review meeting about the {s} will be led by {a}.
    The review of incident {id} on the {s} is chaired by {a}.
""",
    "traveller": """
flight = flights
    {s} is booked on flight {a}.
    {s} flies out on flight {a} and returns a week later.
    We have put {s} on flight {a} at the request of the client.
hotel = hotels
    The hotel of {s} is {a}.
    {s} stays at {a} for the whole trip.
    {a} has confirmed a quiet room for {s}.
    We have booked {s} into {a}, which is a short walk from the station and serves breakfast from six.
visa = colleagues
    The visa contact for {s} is {a}.
    {a} looks after the visa for {s}.
    For anything about the visa of {s}, please call {a}.
seat = seats
    {s} has seat {a} on the outbound flight.
    The airline has given {s} seat {a}.
    Seat {a} is confirmed for {s} on the way out.
booking = bookings
    The booking reference of {s} is {a}.
    {s} checks in online with booking reference {a}.
    The airline keeps the trip of {s} under reference {a}, which is also printed on the itinerary.
transfer = drivers
    {a} picks up {s} at the airport.
    The airport transfer for {s} is with {a}.
    A car from {a} will meet {s} in the arrivals hall.
""",
    "flight": """
gate = gates
    Flight {s} boards at gate {a}.
    Passengers on flight {s} should go to gate {a}.
    The gate for flight {s} is {a}, a long walk from security.
departure = times
    Flight {s} departs at {a} local time.
    The departure of flight {s} is set for {a}.
    Flight {s} is due to take off at {a}, weather permitting.
stopover = cities
    Flight {s} makes a stop in {a}.
    On the way, flight {s} stops for an hour in {a}.
    Passengers on flight {s} change planes in {a}, where their bags are checked through.
counter = counters
    Check-in for flight {s} is at counter {a}.
    Counter {a} handles check-in for flight {s}.
    Bags for flight {s} are dropped at counter {a}.
""",
    "conference": """
city = cities
    {a} hosts the {s} this year.
    The {s} takes place in {a} this year.
    This year, the {s} will be held in {a}, with two days of talks and a third for workshops.
venue = halls
    The venue of the {s} is {a}.
    Sessions of the {s} are held in {a}, ten minutes from the centre.
    The organisers of the {s} have rented {a} for the opening day.
keynote = guests
    The keynote speaker of the {s} is {a}.
    {a} gives the opening talk at the {s}.
    The opening talk at the {s} will be given by {a}.
fee = fees
    A ticket for the {s} costs {a}.
    Delegates pay {a} to attend the {s}.
    The registration fee for the {s} is {a} per person, lunch and coffee included.
""",
}

# Ten relations to ask about, in this order; without a question, the prompt is the fact's text up to its answer.
QUESTIONS = {
    ("product", "supplier"): "",
    ("employee", "manager"): "Who is the line manager of {s}?",
    ("incident", "owner"): "",
    ("traveller", "hotel"): "At which hotel does {s} stay?",
    ("flight", "gate"): "",
    ("product", "designer"): "Who designed the {s}?",
    ("employee", "extension"): "",
    ("incident", "reporter"): "Who was the first to report the failure of the {s}?",
    ("traveller", "visa"): "",
    ("conference", "keynote"): "Who is the keynote speaker of the {s}?",
}

STEMS = """Ald Bren Cal Dor Esk Fal Gar Hol Ind Jor Kel Lor Mor Nor Ost Pel Quil Ras Sel Tor Ulm Vel Wes Yar Zan Bras
    Cor Drey Els Fen Grav Hal Isk Jas Korv Lund Marv Nev Orv Prav Rud Stav Talv Urb Vint Wilm Yor Zel Brin Chel Dov
    Eld Fior Gild Hest Kast Linv Melv Narv Ren""".split()
ENDINGS = {  # how a made-up name goes on, so that one sees what it names
    "surname": "ane ick eth ova una elli enko iar und ema isch urst".split(),
    "product": "ora ix este ino umi elle ava itt".split(),
    "service": "ion eon aro yx usk idor".split(),
    "company": "axon ecto ulin ero anto ivia".split(),
    "place": "ingham owitz erley aminster estrand avik".split(),
    "conference": "una issa onde avell".split(),
}
FIRST_NAMES = """Priya Henrik Nadia Tomas Ingrid Malik Yuki Carmen Oskar Leila Viktor Amara Jonas Mei Rafael Astrid
    Kofi Elena Matteo Farah Lukas Noor Diego Hanna Samir Bianca Emeka Saskia Andrei Joana Ravi Freya Bogdan Zainab
    Pierre Linnea Hassan Marta Kenji Odile""".split()
ITEMS = """desk lamp,floor lamp,side table,wall shelf,coat rack,bar stool,bread bin,plant stand,wall clock,serving tray,
    umbrella stand,laptop stand,step stool,picture frame,shoe rack,key cabinet,magazine rack,towel rail,spice rack,
    wine rack"""
SERVICES = """gateway,billing service,search service,login service,message queue,mail relay,payment service,
    report server,image store,booking service,print service,address service"""
CITIES = """Rotterdam,Odense,Porto,Gdansk,Leeds,Turin,Bilbao,Ghent,Malmo,Graz,Tampere,Split,Lyon,Cork,Leipzig,Brno,
    Aarhus,Seville,Utrecht,Bergen,Basel,Riga,Trieste,Nantes,Dundee,Zaragoza,Bremen,Tartu"""
MATERIALS = """solid oak,walnut,birch plywood,brushed steel,recycled aluminium,bamboo,cherry wood,beech,cast iron,
    larch,blackened brass,ash wood"""
COLOURS = """moss green,slate grey,saffron yellow,coral red,ink blue,ivory,charcoal,rust orange,plum,sage green,
    dusty pink,midnight blue"""
ROLES = """payroll analyst,contract lawyer,data steward,facilities planner,quality inspector,tax adviser,brand manager,
    logistics coordinator,sales trainer,safety officer,network engineer,technical writer,campus recruiter,buyer,
    product manager,database specialist"""
BIRDS = "Kestrel,Heron,Wagtail,Osprey,Bittern,Curlew,Puffin,Goshawk,Lapwing,Siskin,Dipper,Merlin"
CAUSES = """an expired certificate,a full disk,a stale cache,a memory leak,a faulty switch,a missing index,a retry storm,
    a failed migration,a loose cable,a broken fan,an exhausted thread pool,clock drift,a wrong firewall rule"""
REMEDIES = """restarting the proxies,rolling back one release,adding two nodes,clearing the queue,raising the memory limit,
    draining one node,rotating the keys,blocking one client,freezing all writes,doubling the timeout"""


@dataclass(frozen=True)
class Claim:
    """One relation of one subject, as one system words it: everything but the answer."""

    kind: str
    record: int
    subject: str
    relation: str
    wording: str
    pool: str
    observed: float  # seconds after START

    def row(self, answer: str, revision: int, observed: float) -> dict[str, str]:
        """The fact as its system sends it; `observed` is in seconds after START."""
        source, category, prefix, _ = SYSTEMS[self.kind]
        return {
            "text": self.wording.format(s=self.subject, a=answer, id=self.record),
            "category": category,
            "fact_id": f"{prefix}-{self.record}-{self.relation}-{revision}",
            "source": source,
            "observed_at": (START + timedelta(seconds=int(observed))).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


@dataclass(frozen=True)
class Sent:
    """A row and when it reaches the stream, in seconds after START."""

    arrival: float
    row: dict[str, str]
    answer: str


def deck(rng: random.Random, cards: Iterable[str]) -> Iterator[str]:
    """Deals cards for ever: none comes twice before all have come once."""
    cards = sorted(cards)
    while True:
        rng.shuffle(cards)
        yield from cards


def listed(table: str) -> list[str]:
    return [entry.strip() for entry in table.split(",")]


class Names:
    """Made-up names, each given out once."""

    def __init__(self, rng: random.Random) -> None:
        self._stems = {what: deck(rng, STEMS) for what in ENDINGS}
        self._endings = {what: deck(rng, endings) for what, endings in ENDINGS.items()}
        self._first_names = deck(rng, FIRST_NAMES)
        self._given: set[str] = set()

    def fresh(self, what: str, count: int) -> list[str]:
        names: list[str] = []
        while len(names) < count:
            name = next(self._stems[what]) + next(self._endings[what])
            if name not in self._given:
                self._given.add(name)
                names.append(name)
        return names

    def people(self, count: int) -> list[str]:
        return [f"{next(self._first_names)} {surname}" for surname in self.fresh("surname", count)]

    def with_words(self, what: str, count: int, words: Iterator[str]) -> list[str]:
        return [f"{name} {next(words)}" for name in self.fresh(what, count)]


def make_subjects(rng: random.Random, names: Names, scale: float) -> dict[str, list[str]]:
    counts = {kind: round(count * scale) for kind, count in SUBJECTS.items()}
    codes = deck(rng, (f"{a}{b} {n}" for a in "QVXZ" for b in "DHKLMR" for n in range(211, 989, 7)))
    return {
        "product": names.with_words("product", counts["product"], deck(rng, listed(ITEMS))),
        "employee": names.people(counts["employee"]),
        "incident": names.with_words("service", counts["incident"], deck(rng, listed(SERVICES))),
        "traveller": names.people(counts["traveller"]),
        "flight": [next(codes) for _ in range(counts["flight"])],
        "conference": names.with_words(
            "conference", counts["conference"], deck(rng, ["Summit", "Forum", "Congress"])
        ),
    }


def make_pools(rng: random.Random, names: Names, subjects: dict[str, list[str]]) -> dict[str, Iterator[str]]:
    pools: dict[str, Iterable[str]] = {
        "prices": (f"{n}.90 euros" for n in range(18, 320)),
        "centimetres": (f"{n} centimetres" for n in range(19, 78)),
        "kilograms": (f"{n}.{tenth} kilograms" for n in range(1, 7) for tenth in range(1, 10)),
        "materials": listed(MATERIALS),
        "colours": listed(COLOURS),
        "cities": listed(CITIES),
        "suppliers": names.with_words("company", 24, deck(rng, ["Works", "Supply", "Mills"])),
        "guests": names.people(30),
        "months": (f"{n} months" for n in range(26, 86)),
        "bays": (f"{letter}{n}" for letter in "ABCDEFGH" for n in range(11, 30)),
        "roles": listed(ROLES),
        "leads": names.people(14),
        "colleagues": names.people(30),
        "extensions": (str(n) for n in range(3107, 9000, 11)),
        "birds": listed(BIRDS),
        "badges": (str(n) for n in range(40213, 99000, 173)),
        "spaces": (f"{letter}-{n}" for letter in "KLMP" for n in range(11, 68)),
        "rooms": (f"{floor}.{n:02}" for floor in range(2, 8) for n in range(1, 32)),
        "causes": listed(CAUSES),
        "staff": subjects["employee"],
        "minutes": (f"{n} minutes" for n in range(17, 190)),
        "remedies": listed(REMEDIES),
        "clients": names.with_words("company", 24, deck(rng, ["Bank", "Energy", "Foods"])),
        "customers": (f"{n} customers" for n in range(212, 4800, 17)),
        "releases": (f"{a}.{b}.{c}" for a in range(2, 8) for b in range(3, 20) for c in range(1, 6)),
        "flights": subjects["flight"],
        "hotels": (f"Hotel {name}" for name in names.fresh("place", 24)),
        "seats": (f"{row}{letter}" for row in range(4, 33) for letter in "ACDF"),
        "bookings": (
            f"{a}{b}{n}{c}" for a in "KRT" for b in "JNPX" for n in range(217, 989, 31) for c in "BLW"
        ),
        "drivers": names.with_words("company", 16, deck(rng, ["Cars", "Shuttles"])),
        "gates": (f"{letter}{n}" for letter in "ABCD" for n in range(11, 58)),
        "times": (f"{hour}:{minute}" for hour in range(10, 22) for minute in range(10, 60, 5)),
        "counters": (str(n) for n in range(204, 389)),
        "halls": (f"{name} {word}" for name in names.fresh("place", 12) for word in ["Hall", "House"]),
        "fees": (f"{n} euros" for n in range(235, 990, 15)),
    }
    return {name: deck(rng, entries) for name, entries in pools.items()}


def make_claims(rng: random.Random, subjects: dict[str, list[str]], count: int) -> list[Claim]:
    """`count` of all that could be said of the subjects; what is said of one subject comes within hours."""
    claims = []
    for kind, table in WORDINGS.items():
        relations: dict[tuple[str, str], list[str]] = {}
        for line in table.strip().splitlines():
            if line.startswith(" "):
                wordings.append(line.strip())
            else:
                relation, pool = line.split(" = ")
                wordings = relations[relation, pool] = []
        record = SYSTEMS[kind][3]
        moments = sorted(rng.uniform(3 * DAY, WEEKS * 7 * DAY) for _ in subjects[kind])
        for subject, moment in zip(subjects[kind], moments, strict=True):
            for (relation, pool), choices in relations.items():
                observed = moment + rng.uniform(0, 6 * HOUR)
                claims.append(Claim(kind, record, subject, relation, rng.choice(choices), pool, observed))
            record += rng.randint(1, 6)
    return rng.sample(claims, count)


def send(rng: random.Random, claim: Claim, fate: str, pool: Iterator[str]) -> list[Sent]:
    """All that arrives about one claim, its newest revision last."""
    answers = [next(pool)]
    while len(answers) < 3:
        if (answer := next(pool)) not in answers:
            answers.append(answer)
    observed, arrival = claim.observed, claim.observed + rng.uniform(5, 40 * MINUTE)
    if fate == "late":  # the revision before the newest was held up on its way
        stale = claim.row(answers[1], 1, observed - rng.uniform(2 * HOUR, 3 * DAY))
        held_up = arrival + rng.uniform(HOUR, 2 * DAY)
        return [
            Sent(held_up, stale, answers[1]),
            Sent(arrival, claim.row(answers[0], 2, observed), answers[0]),
        ]
    sent = [Sent(arrival, claim.row(answers[0], 1, observed), answers[0])]
    if fate == "delivered twice":
        sent.append(Sent(arrival + rng.uniform(1, HOUR), sent[0].row, answers[0]))
    if fate == "exported again":
        observed += rng.uniform(DAY, 7 * DAY)
        sent.append(Sent(observed + MINUTE, claim.row(answers[0], 2, observed), answers[0]))
    for revision in range(2, {"updated": 3, "updated twice": 4}.get(fate, 2)):
        observed += rng.uniform(DAY, 5 * DAY)
        row = claim.row(answers[revision - 1], revision, observed)
        sent.append(Sent(observed + rng.uniform(5, 40 * MINUTE), row, answers[revision - 1]))
    return sent


def make_questions(stories: list[tuple[Claim, str, Sent]]) -> list[dict[str, str]]:
    """One row a relation of QUESTIONS; the first two ask of facts that were updated."""
    rows = []
    for (kind, relation), question in QUESTIONS.items():
        fate_wanted = "updated" if len(rows) < 2 else "plain"
        claim, newest = next(
            (claim, newest)
            for claim, fate, newest in stories
            if (claim.kind, claim.relation, fate) == (kind, relation, fate_wanted)
            and claim.wording.index("{s}") < claim.wording.index("{a}")
        )
        text = newest.row["text"]
        prompt = f"Question: {question.format(s=claim.subject)}\nAnswer:" if question else ""
        prompt = prompt or text[: text.index(newest.answer)].rstrip()
        rows.append({"prompt": prompt, "answer": newest.answer, "fact_id": newest.row["fact_id"]})
    return rows


def make(seed: int, count: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The facts in the order of their arrival, and the questions."""
    rng = random.Random(seed)
    names = Names(rng)
    subjects = make_subjects(rng, names, count / 1000)
    pools = make_pools(rng, names, subjects)
    updates, duplicates, late = (round(count * share) for share in (UPDATES, DUPLICATES, LATE))
    twice = updates // 16
    fates = ["updated"] * (updates - 2 * twice) + ["updated twice"] * twice + ["late"] * late
    fates += ["delivered twice"] * (duplicates // 2) + ["exported again"] * (duplicates - duplicates // 2)
    claims = make_claims(rng, subjects, count - updates - duplicates - late)
    fates += ["plain"] * (len(claims) - len(fates))
    sent: list[Sent] = []
    stories: list[tuple[Claim, str, Sent]] = []
    for claim, fate in zip(claims, fates, strict=True):
        arrivals = send(rng, claim, fate, pools[claim.pool])
        sent += arrivals
        stories.append((claim, fate, arrivals[-1]))
    sent.sort(key=lambda one: one.arrival)
    return [one.row for one in sent], make_questions(stories)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write facts.jsonl and questions.jsonl.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=1000, help="facts to write, 1000 to 5000")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    options = parser.parse_args()
    if not 1000 <= options.count <= 5000:
        parser.error("--count must lie between 1000 and 5000: there are no more names")
    facts, questions = make(options.seed, options.count)
    write(options.out / "facts.jsonl", facts)
    write(options.out / "questions.jsonl", questions)


if __name__ == "__main__":
    main()
