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
ASIDES = 0.8


class _Writer:
    """Fills templates of one language for one document."""

    def __init__(self, world: World, rng: random.Random, language: str, occupation: Occupation) -> None:
        self.world = world
        self.rng = rng
        self.language = language
        self.occupation = occupation
        self.phrases: Phrases = builtin_phrases()[language]

    def label(self, skill: str) -> str:
        """Any of the names that the skill has in this language."""
        return self.rng.choice(self.world.taxonomy.skills[skill][self.language])

    def labels(self, skills: Sequence[str]) -> list[str]:
        """One name for each skill."""
        return [self.label(skill) for skill in skills]

    def title(self, occupation: Occupation | None = None) -> str:
        """Any of the names that the trade has in this language."""
        return self.rng.choice((occupation or self.occupation).titles[self.language])

    def task(self, occupation: Occupation) -> str:
        """A typical task of a trade."""
        tasks = occupation.tasks.get(self.language) or (self.label(self.rng.choice(occupation.skills)),)
        return self.rng.choice(tasks)

    def say(self, key: str, **values: str) -> str:
        """A phrase of `key`, its slots filled with `values` and what the document is about."""
        template: Template = self.rng.choice(self.phrases.templates[key])
        known = {**self._defaults(template.slots), **values}
        return template.fill(known)

    def _defaults(self, slots: frozenset[str]) -> dict[str, str]:
        makers: dict[str, Callable[[], str]] = {
            "title": self.title,
            "skill": lambda: self.label(self.rng.choice(self.occupation.skills)),
            "skill2": lambda: self.label(self.rng.choice(self.occupation.skills)),
            "task": lambda: self.task(self.occupation),
            "years": lambda: str(self.rng.randint(2, 25)),
            "sector": lambda: self.rng.choice(self.phrases.words("sectors")),
            "company": lambda: self.rng.choice(COMPANIES),
            "city": lambda: self.rng.choice(CITIES).name,
        }
        return {slot: makers[slot]() for slot in sorted(slots) if slot in makers}

    def headline(self, generic_key: str, key: str, skills: Sequence[str]) -> str:
        """A title that says the trade, a neighbouring one, or nothing."""
        draw = self.rng.random()
        if draw < GENERIC_TITLES:
            return self.say(generic_key)
        spoken = self.occupation
        if draw < GENERIC_TITLES + RELATED_TITLES and self.occupation.related:
            spoken = self.world.occupation(self.rng.choice(self.occupation.related))
        first, second = (self.labels(skills) * 2)[:2]
        return self.say(key, title=self.title(spoken), skill=first, skill2=second)

    def aside(self, key: str) -> list[str]:
        """A sentence about another trade, most of the time."""
        if self.rng.random() >= ASIDES:
            return []
        other = self.rng.choice(self.world.taxonomy.occupations)
        return [self.say(key, task=self.task(other))] if other.id != self.occupation.id else []

    def maybe(self, share: float, key: str) -> list[str]:
        """A phrase of `key` with probability `share`."""
        return [self.say(key)] if self.rng.random() < share else []


def freelancer_row(world: World, person: Person) -> dict[str, Any]:
    """One row of the freelancers table."""
    rng = world.rng("profile", person.index)
    writer = _Writer(world, rng, person.language, person.occupation)
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
    """One or two past assignments, and the untold skills that are left for the bio."""
    rng, left, result = writer.rng, list(told), []
    for _ in range(rng.choice((1, 1, 2))):
        used = [left.pop() for _ in range(min(len(left), rng.randint(0, 2)))] + some(rng, person.skills, 0, 1)
        sentences = [writer.say("experience_descriptions")]
        if rng.random() < 0.3:
            sentences += writer.aside("experience_asides")
        named = writer.title() if rng.random() < 0.6 else None
        result.append(
            {"title": named, "description": " ".join(sentences), "skills": writer.labels(list(dict.fromkeys(used)))}
        )
    return result, left


def _bio(writer: _Writer, person: Person, told: Sequence[str]) -> str:
    sentences = writer.maybe(0.6, "bio_openers")
    spoken = list(told) or some(writer.rng, person.skills, 1, 2)
    for start in range(0, len(spoken), 2):
        first, second = (writer.labels(spoken[start : start + 2]) * 2)[:2]
        template = _naming(writer, "bio_skills", both=len(spoken[start : start + 2]) == 2)
        sentences.append(template.fill({"skill": first, "skill2": second}))
    middle = writer.maybe(0.5, "bio_tasks") + writer.aside("bio_asides") + writer.maybe(0.4, "bio_style")
    sentences += writer.rng.sample(middle, len(middle))
    return " ".join(sentences + writer.maybe(0.2, "bio_closers"))


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
    writer = _Writer(world, rng, brief.language, brief.occupation)
    wanted = [*brief.must, *brief.nice]
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
    middle = asked + welcome + writer.aside("project_asides")
    sentences += rng.sample(middle, len(middle))
    return " ".join([*sentences, writer.say("project_closers")])


def _asking(writer: _Writer, key: str, skills: Sequence[str]) -> str:
    return writer.say(key, skills=writer.phrases.join(writer.labels(skills)))
