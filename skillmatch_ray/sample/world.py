"""Who exists in a sample and what they can do: pure functions of a seed and an index, without any text.

A freelancer or project can be looked up by its index alone, so nothing has to be held in memory and
any worker makes the same world.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeVar

from skillmatch_ray.relations import Outcome
from skillmatch_ray.sample.places import CITIES, City
from skillmatch_ray.sample.taxonomy import LANGUAGES, Occupation, Taxonomy, unique

ItemT = TypeVar("ItemT")

HELD_OUT_OCCUPATIONS: Final = 0.12
"""Share of occupations that appear in late projects only."""
COLD_START: Final = 0.80
"""From this share of the period on, held-out occupations appear."""
LATER: Final = 0.85
"""Projects after this share of the period are held out."""
FIRST_DAY: Final = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
PERIOD: Final = dt.timedelta(days=730)
COLLEAGUES: Final = 8
"""Freelancers of one trade, at least: below that, near misses would be rare."""
CLUSTER: Final = 3
"""Trades taken together where a taxonomy has too many: one and those it is confused with."""
PEOPLE_KEPT: Final = 8192
"""Freelancers remembered at a time, so that memory stays flat at any size of a sample."""
SPECIALISM: Final = 7
"""Core skills of one specialism of an occupation; neighbouring specialisms share three."""
SPECIALISM_STEP: Final = 4

_OUTCOMES_WITH_SKILLS: Final = (
    (Outcome.SELECTED, 0.20),
    (Outcome.ACCEPTED, 0.38),
    (Outcome.DECLINED_PRICE, 0.14),
    (Outcome.DECLINED_DATES, 0.12),
    (Outcome.DECLINED_OTHER, 0.06),
    (Outcome.NO_ANSWER, 0.10),
)
_OUTCOMES_WITHOUT: Final = (
    (Outcome.COMPANY_DECLINED_SKILLS, 0.47),
    (Outcome.FREELANCER_DECLINED_SKILLS, 0.25),
    (Outcome.DECLINED_PRICE, 0.05),
    (Outcome.DECLINED_DATES, 0.05),
    (Outcome.NO_ANSWER, 0.18),
)


@dataclass(frozen=True)
class Person:
    """A freelancer without words.

    Attributes:
        index: position in the sample.
        occupation: their trade.
        language: of the profile.
        skills: ids of all skills, those of the specialism first.
        city: where they live.
    """

    index: int
    occupation: Occupation
    language: str
    skills: tuple[str, ...]
    city: City

    @property
    def id(self) -> str:
        """The freelancer_id."""
        return f"f{self.index:07d}"


@dataclass(frozen=True)
class Brief:
    """A project without words.

    Attributes:
        index: position in the sample, and in time.
        occupation: the trade asked for.
        language: of the brief.
        must: ids of the skills that decide.
        nice: ids of welcome skills.
        anchor: index of a freelancer who has the must-haves.
        created_at: when it was posted.
    """

    index: int
    occupation: Occupation
    language: str
    must: tuple[str, ...]
    nice: tuple[str, ...]
    anchor: int
    created_at: dt.datetime

    @property
    def id(self) -> str:
        """The project_id."""
        return f"p{self.index:07d}"


@dataclass
class World:
    """Everything that a seed decides.

    Args:
        taxonomy: occupations and skills.
        freelancers: how many there are.
        projects: how many there are.
        seed: decides all else.
        label_noise: share of outcomes that contradict the skills.
    """

    taxonomy: Taxonomy
    freelancers: int
    projects: int
    seed: int
    label_noise: float
    _people: dict[int, Person] = field(default_factory=dict, repr=False)

    def rng(self, *key: object) -> random.Random:
        """A stream of its own for each key."""
        text = "|".join(map(str, (self.seed, *key)))
        return random.Random(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))  # noqa: S311

    @cached_property
    def _occupations(self) -> list[Occupation]:
        """Occupations in the order in which they are dealt to freelancers.

        A taxonomy of thousands of trades would leave a small sample without colleagues to confuse,
        so that only some of its trades are dealt, together with the related ones.
        """
        rng = self.rng("occupations")
        shuffled = rng.sample(list(self.taxonomy.occupations), len(self.taxonomy.occupations))
        wanted = max(CLUSTER, self.freelancers // COLLEAGUES)
        if wanted >= len(shuffled):
            return shuffled
        clusters = ((first.id, *first.related[: CLUSTER - 1]) for first in shuffled)
        dealt = unique(occupation for cluster in clusters for occupation in cluster)[:wanted]
        return [self._by_id[occupation] for occupation in rng.sample(dealt, len(dealt))]

    @cached_property
    def _by_id(self) -> Mapping[str, Occupation]:
        return {occupation.id: occupation for occupation in self.taxonomy.occupations}

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {occupation.id: i for i, occupation in enumerate(self._occupations)}

    @cached_property
    def held_out_occupations(self) -> frozenset[str]:
        """Ids of occupations that no early project asks for; some always stay."""
        peopled = [o.id for o in self._occupations[: self.freelancers]]
        return frozenset(peopled[: round(HELD_OUT_OCCUPATIONS * len(peopled))])

    def occupation(self, occupation_id: str) -> Occupation:
        """The trade with this id."""
        return self._by_id[occupation_id]

    def of_occupation(self, occupation: Occupation) -> range:
        """Indices of all freelancers of a trade; none where the trade is not dealt."""
        first = self._positions.get(occupation.id, self.freelancers)
        return range(first, self.freelancers, len(self._occupations))

    def specialisms(self, occupation: Occupation) -> list[tuple[str, ...]]:
        """Overlapping parts of the core skills; a freelancer masters one or two of them."""
        core = occupation.skills
        starts = range(0, max(1, len(core) - SPECIALISM + SPECIALISM_STEP), SPECIALISM_STEP)
        return [core[start : start + SPECIALISM] for start in starts]

    def person(self, index: int) -> Person:
        """The freelancer at `index`."""
        known = self._people.get(index)
        if known is None:
            if len(self._people) >= PEOPLE_KEPT:
                self._people.clear()
            known = self._people[index] = self._make_person(index)
        return known

    def _make_person(self, index: int) -> Person:
        rng = self.rng("person", index)
        occupation = self._occupations[index % len(self._occupations)]
        language = rng.choice(LANGUAGES)
        parts = self.specialisms(occupation)
        mastered = rng.sample(parts, min(len(parts), 1 if rng.random() < 0.7 else 2))
        taught = unique(skill for part in mastered for skill in part)
        core = [skill for skill in taught if rng.random() < 0.88]
        if len(core) < 3:
            core = list(taught[:3])
        optional = some(rng, occupation.optional, 0, 2)
        borrowed = [
            s for other in some(rng, occupation.related, 0, 1) for s in some(rng, self._by_id[other].skills, 1, 2)
        ]
        return Person(index, occupation, language, unique((*core, *optional, *borrowed)), self._city(rng, language))

    @staticmethod
    def _city(rng: random.Random, language: str) -> City:
        at_home = [city for city in CITIES if language in city.languages]
        return rng.choice(at_home if rng.random() < 0.8 else CITIES)

    def brief(self, index: int) -> Brief:
        """The project at `index`; at least its anchor has all its must-haves."""
        rng = self.rng("brief", index)
        moment = (index + rng.random()) / self.projects
        for _ in range(1000):
            anchor = self.person(self._draw_anchor(rng, moment))
            known = [s for s in rng.choice(self.specialisms(anchor.occupation)) if s in anchor.skills]
            if len(known) >= 3:
                break
        else:
            known = list(anchor.skills)
        must = tuple(rng.sample(known, min(len(known), rng.choice((3, 3, 4)))))
        rest = [s for s in (*anchor.occupation.skills, *anchor.occupation.optional) if s not in must]
        nice = tuple(some(rng, rest, 1, 3))
        created = FIRST_DAY + moment * PERIOD
        return Brief(index, anchor.occupation, rng.choice(LANGUAGES), must, nice, anchor.index, created)

    def _draw_anchor(self, rng: random.Random, moment: float) -> int:
        """A freelancer whose trade may be asked for at this share of the period."""
        cold = moment >= COLD_START and rng.random() < 0.4
        for _ in range(1000):
            index = rng.randrange(self.freelancers)
            held_out = self._occupations[index % len(self._occupations)].id in self.held_out_occupations
            if held_out == (cold and bool(self.held_out_occupations)):
                return index
        return index

    def held_out(self, brief: Brief) -> str | None:
        """Which held-out set a project belongs to: "occupations", "later" or none."""
        if brief.occupation.id in self.held_out_occupations:
            return "occupations"
        return "later" if brief.created_at >= FIRST_DAY + LATER * PERIOD else None

    def grade(self, brief: Brief, person: Person) -> int:
        """3 all must-haves and half the welcome skills, 2 all must-haves, 1 some and of the trade, else 0."""
        skills = set(person.skills)
        has = sum(skill in skills for skill in brief.must)
        if has == len(brief.must):
            return 3 if 2 * sum(skill in skills for skill in brief.nice) >= len(brief.nice) else 2
        near = person.occupation.id == brief.occupation.id or person.occupation.id in brief.occupation.related
        return int(has > 0 and near)

    def contacts(self, brief: Brief) -> list[tuple[Person, Outcome, dt.datetime]]:
        """Who was contacted for a project, how it ended and when."""
        rng = self.rng("contacts", brief.index)
        colleagues = self.of_occupation(brief.occupation)
        related = [self.of_occupation(self._by_id[other]) for other in brief.occupation.related]
        drawn = some(rng, colleagues, 5, 9)
        drawn += [rng.choice(indices) for indices in some(rng, related, 1, 3) if indices]
        drawn += [rng.randrange(self.freelancers) for _ in range(rng.choice((0, 1, 2)))]
        if rng.random() < 0.9:
            drawn.append(brief.anchor)
        people = [person for person in map(self.person, dict.fromkeys(drawn)) if self._may_meet(brief, person)]
        return [(person, self._outcome(rng, brief, person), self._answered(rng, brief)) for person in people]

    def _may_meet(self, brief: Brief, person: Person) -> bool:
        """Training must not see a held-out trade, not even as somebody else's negative."""
        return person.occupation.id not in self.held_out_occupations or self.held_out(brief) is not None

    def _outcome(self, rng: random.Random, brief: Brief, person: Person) -> Outcome:
        has_skills = self.grade(brief, person) >= 2
        if rng.random() < self.label_noise:
            has_skills = not has_skills
        outcomes, weights = zip(*(_OUTCOMES_WITH_SKILLS if has_skills else _OUTCOMES_WITHOUT), strict=True)
        return Outcome(rng.choices(outcomes, weights)[0])

    @staticmethod
    def _answered(rng: random.Random, brief: Brief) -> dt.datetime:
        return brief.created_at + dt.timedelta(hours=rng.randrange(12, 24 * 20))


def some(rng: random.Random, items: Sequence[ItemT], least: int, most: int) -> list[ItemT]:
    """Between `least` and `most` different items, fewer where there are not so many."""
    return rng.sample(items, min(len(items), rng.randint(least, most)))
