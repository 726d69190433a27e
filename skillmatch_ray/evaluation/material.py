"""Documents for behavioural tests: pairs that differ in one thing only, made from the built-in taxonomy.

Nothing here is learned from: the seed is another than that of samples, and the profiles are composed, not generated.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from skillmatch_ray.documents import Experience, Freelancer, Project
from skillmatch_ray.sample.phrases import Template, builtin_phrases
from skillmatch_ray.sample.taxonomy import LANGUAGES, Occupation, builtin_taxonomy
from skillmatch_ray.sample.texts import freelancer_row
from skillmatch_ray.sample.world import World

CASES: Final = 60
POOL: Final = 400
MUSTS: Final = 3
OWN_SKILLS: Final = 7
SEED: Final = 20_260_101

NEGATIONS: Final = {
    "en": "I only do {other}, never {skill}.",
    "fr": "Je fais uniquement {other}, jamais {skill}.",
    "de": "Ich mache nur {other}, niemals {skill}.",
    "es": "Solo hago {other}, nunca {skill}.",
    "nl": "Ik doe alleen {other}, nooit {skill}.",
}
INTRODUCTIONS: Final = {
    "en": "My name is {name}.",
    "fr": "Je m'appelle {name}.",
    "de": "Ich heiße {name}.",
    "es": "Me llamo {name}.",
    "nl": "Ik heet {name}.",
}
NAMES: Final = (
    "Anna", "Thomas", "Fatima", "Mohammed", "Mehmet", "Wei", "Priya", "Kwame", "Ngozi", "Olga", "Carlos", "Giulia",
)  # fmt: skip
"""First names of men and women from many places."""
GENDERED: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "fr": (
        ("Développeur", "Développeuse"), ("Rédacteur", "Rédactrice"), ("Traducteur", "Traductrice"),
        ("Consultant", "Consultante"), ("Technicien", "Technicienne"), ("Formateur", "Formatrice"),
        ("Chef de projet", "Cheffe de projet"), ("Conseiller", "Conseillère"),
    ),
    "de": (
        ("Entwickler", "Entwicklerin"), ("Redakteur", "Redakteurin"), ("Übersetzer", "Übersetzerin"),
        ("Berater", "Beraterin"), ("Techniker", "Technikerin"), ("Trainer", "Trainerin"),
        ("Projektleiter", "Projektleiterin"), ("Ingenieur", "Ingenieurin"),
    ),
    "es": (
        ("Desarrollador", "Desarrolladora"), ("Redactor", "Redactora"), ("Traductor", "Traductora"),
        ("Consultor", "Consultora"), ("Técnico", "Técnica"), ("Formador", "Formadora"),
        ("Director de proyecto", "Directora de proyecto"), ("Ingeniero", "Ingeniera"),
    ),
    "nl": (
        ("Redacteur", "Redactrice"), ("Vertaler", "Vertaalster"), ("Adviseur", "Adviseuse"),
        ("Ontwerper", "Ontwerpster"), ("Docent", "Docente"), ("Directeur", "Directrice"),
    ),
}  # fmt: skip
"""The same trade as men and as women write it, where a language marks it."""
STUFFING: Final = 60


@dataclass(frozen=True)
class Case:
    """A project, and a freelancer who suits it.

    Attributes:
        occupation: the trade of both.
        language: of the project.
        other: another language.
        musts: ids of the skills asked for.
        skills: ids of the freelancer's skills, the musts among them.
        missing: id of a skill of the trade that the freelancer does not have.
        seed: decides the choice of words; the same for all variants.
    """

    occupation: Occupation
    language: str
    other: str
    musts: tuple[str, ...]
    skills: tuple[str, ...]
    missing: str
    seed: int

    def label(self, skill: str, language: str) -> str:
        """The name of a skill that all documents of this case use in a language."""
        rng = random.Random(f"{self.seed}|{skill}|{language}")  # noqa: S311
        return rng.choice(builtin_taxonomy().skills[skill][language])

    def title(self, language: str) -> str:
        """The usual name of the trade."""
        return self.occupation.titles[language][0]

    def project(self, musts: int = MUSTS, title: str | None = None) -> Project:
        """Asks for the first so many musts, as a list and in a sentence; without a title it has the trade's."""
        labels = self._labels(musts)
        phrases = builtin_phrases()[self.language]
        rng = random.Random(self.seed)  # noqa: S311
        asked = rng.choice(phrases.templates["project_musts"]).fill({"skills": phrases.join(labels)})
        return Project(
            project_id=f"p{self.seed}",
            title=title or self.title(self.language),
            description=asked,
            skills=labels,
            language=self.language,
            job_category=self.occupation.category,
        )

    @property
    def typed(self) -> Template:
        """The form of words that this case's query has."""
        rng = random.Random(self.seed)  # noqa: S311
        return rng.choice(builtin_phrases()[self.language].templates["short_queries"])

    @property
    def named(self) -> int:
        """How many of the musts the query names: one or two."""
        return 2 if "skill2" in self.typed.slots else 1

    def query(self) -> Project:
        """A few words typed into a search box: a must or two, perhaps the trade."""
        skill, skill2 = (self._labels(self.named) * 2)[:2]
        values = {"title": self.title(self.language), "skill": skill, "skill2": skill2}
        return Project(project_id=f"q{self.seed}", title=self.typed.fill(values), language=self.language)

    def brief_of_query(self) -> Project:
        """A brief that says what the query says, and no more: where that names no trade, the title names the must."""
        return self.project(self.named, None if "title" in self.typed.slots else self._labels(1)[0])

    def _labels(self, musts: int) -> tuple[str, ...]:
        return tuple(self.label(skill, self.language) for skill in self.musts[:musts])

    def freelancer(
        self,
        *,
        language: str | None = None,
        skills: Sequence[str] | None = None,
        headline: str | None = None,
        said: str = "",
        also: Sequence[str] = (),
    ) -> Freelancer:
        """The profile; each argument changes one thing of it.

        Args:
            language: default: the project's.
            skills: ids of all skills.
            headline: default: the trade.
            said: a sentence in front of the bio.
            also: labels behind the listed skills.
        """
        language = language or self.language
        labels = [self.label(skill, language) for skill in (self.skills if skills is None else skills)]
        rng = random.Random(self.seed)  # noqa: S311
        phrases = builtin_phrases()[language]
        style = rng.choice([t.text for t in phrases.templates["bio_style"] if not t.slots])
        task = self.occupation.tasks[language][0]
        return Freelancer(
            freelancer_id=f"f{self.seed}",
            headline=headline or self.title(language),
            description=f"{said} {style}".strip(),
            skills=(*labels, *also),
            experiences=(Experience(title=self.title(language), description=task, skills=tuple(labels[-2:])),),
            language=language,
            job_category=self.occupation.category,
        )


@dataclass(frozen=True)
class Material:
    """Cases, and a pool of freelancers of all trades to rank among."""

    cases: list[Case]
    pool: list[Freelancer]
    pool_skills: list[frozenset[str]]


def make_material(cases: int = CASES, pool: int = POOL) -> Material:
    """Always the same."""
    taxonomy = builtin_taxonomy()
    world = World(taxonomy, pool, 1, SEED, 0.0)
    people = [world.person(i) for i in range(pool)]
    rng = random.Random(SEED)  # noqa: S311
    trades = rng.sample([o for o in taxonomy.occupations if len(o.skills) > OWN_SKILLS], cases)
    return Material(
        [_case(rng, trade, i) for i, trade in enumerate(trades)],
        [Freelancer.model_validate(freelancer_row(world, person)) for person in people],
        [frozenset(person.skills) for person in people],
    )


def _case(rng: random.Random, trade: Occupation, number: int) -> Case:
    drawn = rng.sample(trade.skills, OWN_SKILLS + 1)
    language = LANGUAGES[number % len(LANGUAGES)]
    other = rng.choice([spoken for spoken in LANGUAGES if spoken != language])
    mixed = rng.sample(drawn[:OWN_SKILLS], OWN_SKILLS)
    return Case(trade, language, other, tuple(drawn[:MUSTS]), tuple(mixed), drawn[OWN_SKILLS], SEED + number)
