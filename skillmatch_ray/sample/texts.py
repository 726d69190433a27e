"""Words for the people and briefs of a sample: rows of the freelancers and projects tables.

Easy data teaches nothing, so a quarter of the titles tell nothing, a tenth tell a neighbouring trade,
part of the skills stand only in the prose, and all prose holds sentences about other trades.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Sequence
from typing import Any

from skillmatch_ray.sample.phrases import Phrases, Template, builtin_phrases
from skillmatch_ray.sample.places import CITIES, COMPANIES, City
from skillmatch_ray.sample.taxonomy import LANGUAGES, Occupation
from skillmatch_ray.sample.world import FIRST_DAY, PERIOD, Brief, Person, World, some

GENERIC_TITLES = 0.25
RELATED_TITLES = 0.10
PROJECT_ASIDES = 0.8
EXPERIENCE_ASIDES = 0.3
"""Texts stay short, since a CPU reads them; bios always hold an aside."""


class _Writer:
    """Fills templates of one language for one document.

    Attributes:
        skills: the skills that the document may claim, and no others.
        spoken: the trade that the document says it is about; None where it keeps silent.
    """

    def __init__(self, world: World, rng: random.Random, about: Person | Brief, skills: Sequence[str]) -> None:
        self.world = world
        self.rng = rng
        self.language = about.language
        self.occupation = about.occupation
        self.skills = skills
        self.phrases: Phrases = builtin_phrases()[about.language]
        self.spoken = self._spoken()

    def _spoken(self) -> Occupation | None:
        draw = self.rng.random()
        if draw < GENERIC_TITLES:
            return None
        if draw < GENERIC_TITLES + RELATED_TITLES and self.occupation.related:
            return self.world.occupation(self.rng.choice(self.occupation.related))
        return self.occupation

    def label(self, skill: str) -> str:
        """Any of the names that the skill has in this language."""
        return self.rng.choice(self.world.taxonomy.skills[skill][self.language])

    def labels(self, skills: Sequence[str]) -> list[str]:
        """One name for each skill."""
        return [self.label(skill) for skill in skills]

    def title(self, occupation: Occupation) -> str:
        """Any of the names that a trade has in this language."""
        return self.rng.choice(occupation.titles[self.language])

    def task(self, occupation: Occupation, skills: Sequence[str]) -> str:
        """A typical task of a trade, or the name of one of `skills` where the taxonomy tells no tasks."""
        tasks = occupation.tasks.get(self.language)
        return self.rng.choice(tasks) if tasks else self.label(self.rng.choice(skills))

    def say(self, key: str, **values: str) -> str:
        """A phrase of `key`, its slots filled with `values` and what the document is about."""
        templates: Sequence[Template] = self.phrases.templates[key]
        if self.spoken is None:
            templates = [t for t in templates if "title" not in t.slots] or templates
        template = self.rng.choice(templates)
        return template.fill({**self._defaults(template.slots - values.keys()), **values})

    def _defaults(self, slots: frozenset[str]) -> dict[str, str]:
        makers: dict[str, Callable[[], str]] = {
            "title": lambda: self.title(self.spoken or self.occupation),
            "skill": lambda: self.label(self.rng.choice(self.skills)),
            "skill2": lambda: self.label(self.rng.choice(self.skills)),
            "task": lambda: self.task(self.occupation, self.skills),
            "years": lambda: str(self.rng.randint(2, 25)),
            "sector": lambda: self.rng.choice(self.phrases.words("sectors")),
            "company": lambda: self.rng.choice(COMPANIES),
            "city": lambda: self.rng.choice(CITIES).name,
        }
        return {slot: makers[slot]() for slot in sorted(slots) if slot in makers}

    def headline(self, generic_key: str, key: str, skills: Sequence[str]) -> str:
        """A title that says the trade, a neighbouring one, or nothing."""
        if self.spoken is None:
            return self.say(generic_key)
        first, second = (self.labels(skills[:2]) * 2)[:2]
        return self.say(key, skill=first, skill2=second)

    def aside(self, key: str, share: float = 1.0) -> list[str]:
        """A sentence about a trade of another category, with probability `share`."""
        if self.rng.random() >= share:
            return []
        other = self.rng.choice(self.world.taxonomy.occupations)
        while other.category == self.occupation.category and len(self.world.taxonomy.categories) > 1:
            other = self.rng.choice(self.world.taxonomy.occupations)
        return [self.say(key, task=self.task(other, other.skills))]

    def maybe(self, share: float, key: str) -> list[str]:
        """A phrase of `key` with probability `share`."""
        return [self.say(key)] if self.rng.random() < share else []


def freelancer_row(world: World, person: Person) -> dict[str, Any]:
    """One row of the freelancers table."""
    rng = world.rng("profile", person.index)
    writer = _Writer(world, rng, person, person.skills)
    listed = [skill for skill in person.skills if rng.random() < 0.72]
    told = [skill for skill in person.skills if skill not in listed]
    experiences, left = _experiences(writer, person, told)
    return {
        "freelancer_id": person.id,
        "headline": writer.headline("generic_headlines", "headlines", person.skills),
        "description": _bio(writer, person, left),
        "skills": rng.sample(labels := writer.labels(listed), len(labels)),
        "soft_skills": some(rng, writer.phrases.words("soft_skills"), 0, 2),
        "experiences": experiences,
        "language": person.language,
        "job_category": person.occupation.category,
        "spoken_languages": _spoken(rng, person),
        **_place(person.city),
        "mobility_radius_km": rng.choice((None, 20.0, 50.0, 100.0, 300.0)),
        "remote": rng.choice((True, True, False, None)),
        "daily_rate_eur": _rate(world, rng, person.occupation),
        "available_from": (FIRST_DAY + PERIOD + dt.timedelta(days=rng.randrange(120))).date()
        if rng.random() < 0.8
        else None,
        "updated_at": FIRST_DAY + rng.random() * PERIOD,
    }


def _experiences(writer: _Writer, person: Person, told: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Up to two past assignments, and the untold skills that are left for the bio."""
    rng, left, result = writer.rng, list(told), []
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
        used = [left.pop() for _ in range(min(len(left), rng.randint(0, 2)))] + some(rng, person.skills, 0, 1)
        only_skills = bool(used) and rng.random() < 0.3
        sentences = [] if only_skills else [writer.say("experience_descriptions")]
        sentences += writer.aside("experience_asides", EXPERIENCE_ASIDES)
        named = writer.title(person.occupation) if writer.spoken and rng.random() < 0.6 else None
        result.append(
            {
                "title": named,
                "description": " ".join(sentences) or None,
                "skills": writer.labels(list(dict.fromkeys(used))),
            }
        )
    return result, left


def _bio(writer: _Writer, person: Person, told: Sequence[str]) -> str:
    sentences = writer.maybe(0.35, "bio_openers")
    spoken = list(told) or some(writer.rng, person.skills, 1, 2)
    for start in range(0, len(spoken), 2):
        first, second = (writer.labels(spoken[start : start + 2]) * 2)[:2]
        template = _naming(writer, "bio_skills", both=len(spoken[start : start + 2]) == 2)
        sentences.append(template.fill({"skill": first, "skill2": second}))
    middle = writer.maybe(0.2, "bio_tasks") + writer.aside("bio_asides") + writer.maybe(0.15, "bio_style")
    sentences += writer.rng.sample(middle, len(middle))
    return " ".join(sentences + writer.maybe(0.1, "bio_closers"))


def _naming(writer: _Writer, key: str, *, both: bool) -> Template:
    """A template that names one skill, or two where two have to be told."""
    fitting = [t for t in writer.phrases.templates[key] if ("skill2" in t.slots) == both]
    return writer.rng.choice(fitting)


def _spoken(rng: random.Random, person: Person) -> list[str]:
    more = [language for language in LANGUAGES if rng.random() < (0.6 if language == "en" else 0.12)]
    return list(dict.fromkeys([person.language, *more]))


def _place(city: City) -> dict[str, Any]:
    return {"country": city.country, "city": city.name, "latitude": city.latitude, "longitude": city.longitude}


def _rate(world: World, rng: random.Random, occupation: Occupation) -> float | None:
    if rng.random() < 0.1:
        return None
    usual = world.rng("rate", occupation.id).randint(280, 760)
    return float(round(usual * rng.uniform(0.7, 1.5) / 10) * 10)


def project_row(world: World, brief: Brief) -> dict[str, Any]:
    """One row of the projects table."""
    rng = world.rng("words", brief.index)
    wanted = [*brief.must, *brief.nice]
    writer = _Writer(world, rng, brief, wanted)
    listed = [skill for skill in wanted if rng.random() < 0.6]
    city = rng.choice(CITIES)
    on_site = rng.random() < 0.4
    return {
        "project_id": brief.id,
        "title": writer.headline("project_generic_titles", "project_titles", brief.must),
        "description": _description(writer, brief, listed),
        "skills": rng.sample(labels := writer.labels(listed), len(labels)),
        "language": brief.language,
        "job_category": brief.occupation.category,
        "created_at": brief.created_at,
        **{key: value for key, value in _place(city).items() if key != "city"},
        "radius_km": rng.choice((50.0, 100.0, 200.0)) if on_site else None,
        "remote": not on_site,
        "spoken_languages": [brief.language] if rng.random() < 0.2 else [],
        "max_daily_rate_eur": _rate(world, rng, brief.occupation) if rng.random() < 0.3 else None,
        "start_date": (brief.created_at + dt.timedelta(days=rng.randrange(10, 90))).date(),
    }


def _description(writer: _Writer, brief: Brief, listed: Sequence[str]) -> str:
    """The brief's prose tells every skill that the list leaves out, and some that it has."""
    rng = writer.rng
    must = [s for s in brief.must if s not in listed or rng.random() < 0.3]
    nice = [s for s in brief.nice if s not in listed]
    sentences = writer.maybe(0.7, "project_contexts") + writer.maybe(0.6, "project_needs")
    asked = [_asking(writer, "project_musts", must)] if must else []
    welcome = [_asking(writer, "project_nices", nice)] if nice else []
    middle = asked + welcome + writer.aside("project_asides", PROJECT_ASIDES)
    sentences += rng.sample(middle, len(middle))
    return " ".join([*sentences, writer.say("project_closers")])


def _asking(writer: _Writer, key: str, skills: Sequence[str]) -> str:
    return writer.say(key, skills=writer.phrases.join(writer.labels(skills)))
