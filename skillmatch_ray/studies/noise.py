"""How a model bears documents that are written badly, at growing strength.

Every noise is drawn unit by unit (word, title, section, label, freelancer) from a stream of its own for each
document, and strikes the units whose draw lies below the strength: what is struck at one strength is struck at every
greater one, in the same way.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from skillmatch_ray.config import Config
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.glossary import Labels
from skillmatch_ray.sample.phrases import builtin_phrases
from skillmatch_ray.sample.taxonomy import LANGUAGES, builtin_taxonomy
from skillmatch_ray.studies.material import Material
from skillmatch_ray.studies.measure import ranked
from skillmatch_ray.studies.study import Contrast, Places, Run, Study, Variant

LEAST_LETTERS: Final = 4
"""Shorter words are left alone."""
STUFFERS: Final = 0.05
"""Share of the pool that stuffs its profile."""
STUFFED_SKILLS: Final = 40
"""Foreign skills that a stuffer adds at full strength."""
TOP: Final = 10

_WORD = re.compile(rf"[^\W\d_]{{{LEAST_LETTERS},}}")
Draws = random.Random


def draws_of(seed: int, *key: str) -> Draws:
    """A stream of its own for each key."""
    text = "|".join((str(seed), *key))
    return random.Random(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))  # noqa: S311


def misspell(text: str, strength: float, draws: Draws) -> str:
    """One slip in a share of the words: two letters swapped, one left out, or one doubled.

    Example:
        >>> misspell("accounting for small firms", 1.0, draws_of(0, "x")) != "accounting for small firms"
        True
        >>> misspell("accounting for small firms", 0.0, draws_of(0, "x"))
        'accounting for small firms'
    """

    def slip(match: re.Match[str]) -> str:
        word, draw, kind = match[0], draws.random(), draws.randrange(3)
        at = draws.randrange(len(word) - 1)
        if draw >= strength:
            return word
        middle = (word[at + 1] + word[at], word[at + 1], word[at] * 2 + word[at + 1])[kind]
        return word[:at] + middle + word[at + 2 :]

    return _WORD.sub(slip, text)


@dataclass(frozen=True)
class Noise:
    """One kind of noise at one strength.

    Attributes:
        kind: a key of `BRIEFS`, "stuffing", or "none".
        strength: 0 to 1.
    """

    kind: str
    strength: float

    def __call__(self, material: Material, seed: int) -> Material:
        """Briefs are struck, or, by stuffing, profiles."""
        if self.kind == "none":
            return material
        if self.kind == "stuffing":
            return self._stuffed(material, seed)
        change = BRIEFS[self.kind](material)
        return material.with_projects(
            lambda project: change(project, self.strength, draws_of(seed, self.kind, project.id))
        )

    def _stuffed(self, material: Material, seed: int) -> Material:
        everything = sorted({skill for freelancer in material.freelancers for skill in freelancer.skills})
        stuffers, count = stuffers_of(material, seed), round(self.strength * STUFFED_SKILLS)

        def stuff(freelancer: Freelancer) -> Freelancer:
            if freelancer.id not in stuffers:
                return freelancer
            order = draws_of(seed, "stuffing", freelancer.id).sample(everything, min(len(everything), STUFFED_SKILLS))
            return freelancer.model_copy(update={"skills": (*freelancer.skills, *order[:count])})

        return material.with_freelancers(stuff)


def stuffers_of(material: Material, seed: int) -> frozenset[str]:
    """Ids of those who stuff, whatever the strength."""
    ids = sorted(freelancer.id for freelancer in material.freelancers)
    return frozenset(draws_of(seed, "stuffers").sample(ids, max(1, round(STUFFERS * len(ids)))))


BriefChange = Callable[[Project, float, Draws], Project]


def _typos(_: Material) -> BriefChange:
    def change(project: Project, strength: float, draws: Draws) -> Project:
        return rewritten(project, lambda text: misspell(text, strength, draws))

    return change


def rewritten(project: Project, write: Callable[[str], str]) -> Project:
    """The brief with every text of it written anew."""
    return project.model_copy(
        update={
            "title": write(project.title),
            "description": project.description and write(project.description),
            "skills": tuple(write(skill) for skill in project.skills),
        }
    )


def _vague_titles(_: Material) -> BriefChange:
    def change(project: Project, strength: float, draws: Draws) -> Project:
        phrases = builtin_phrases()
        spoken = phrases.get(project.language or "en", phrases["en"])
        draw, title = draws.random(), draws.choice(spoken.words("project_generic_titles"))
        return project.model_copy(update={"title": title}) if draw < strength else project

    return change


def _wrong_titles(material: Material) -> BriefChange:
    def change(project: Project, strength: float, draws: Draws) -> Project:
        others = [other.title for other in material.projects if other.job_category != project.job_category]
        draw, title = draws.random(), draws.choice(others or [project.title])
        return project.model_copy(update={"title": title}) if draw < strength else project

    return change


def _missing(field: str, value: object) -> Callable[[Material], BriefChange]:
    def change(project: Project, strength: float, draws: Draws) -> Project:
        return project.model_copy(update={field: value}) if draws.random() < strength else project

    return lambda _: change


def _mixed_languages(_: Material) -> BriefChange:
    def change(project: Project, strength: float, draws: Draws) -> Project:
        known = _labels_of(project.language or "en")
        if known is None:
            return project
        pattern, concepts = known

        def swap(match: re.Match[str]) -> str:
            draw = draws.random()
            language = draws.choice([other for other in LANGUAGES if other != project.language])
            label = draws.choice(concepts[match[0].casefold()][language])
            return label if draw < strength else match[0]

        return rewritten(project, lambda text: pattern.sub(swap, text))

    return change


@cache
def _labels_of(language: str) -> tuple[re.Pattern[str], Mapping[str, Labels]] | None:
    """Every name of a skill or trade in one language, longest first, and the names of the same in all."""
    if language not in LANGUAGES:
        return None
    taxonomy = builtin_taxonomy()
    concepts = [*taxonomy.skills.values(), *(occupation.titles for occupation in taxonomy.occupations)]
    names = {label.casefold(): labels for labels in concepts for label in labels[language]}
    longest_first = sorted(names, key=len, reverse=True)
    pattern = r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)"
    return re.compile(pattern, re.IGNORECASE), names


BRIEFS: Final[Mapping[str, Callable[[Material], BriefChange]]] = {
    "typos": _typos,
    "vague-titles": _vague_titles,
    "wrong-titles": _wrong_titles,
    "no-skills": _missing("skills", ()),
    "no-description": _missing("description", None),
    "mixed-languages": _mixed_languages,
}
"""Kinds of noise that strike briefs."""


def measure(study: Study, variant: Variant, config: Config, seed: int, places: Places) -> Run:
    """The usual measure, and the share of stuffers among the best places."""
    del study
    found = ranked(variant, config, seed, places, top=TOP)
    stuffers = stuffers_of(found.material, seed)
    is_stuffer = np.array([freelancer.id in stuffers for freelancer in found.material.freelancers])
    run = found.run(variant, seed)
    run.values[f"stuffers@{TOP}"] = [round(float(is_stuffer[ranks.top].mean()), 6) for ranks in found.ranks]
    return run


_UNITS: Final = {
    "typos": (0.1, 0.3, 0.6, "words misspelt"),
    "vague-titles": (0.33, 0.67, 1.0, "titles vague"),
    "wrong-titles": (0.33, 0.67, 1.0, "titles of another category"),
    "no-skills": (0.33, 0.67, 1.0, "briefs without skills"),
    "no-description": (0.33, 0.67, 1.0, "briefs without description"),
    "mixed-languages": (0.33, 0.67, 1.0, "skill and trade names in another language"),
    "stuffing": (0.25, 0.5, 1.0, "of 40 foreign skills in 5 % of the profiles"),
}


def _variants() -> list[Variant]:
    found = [Variant("clean", "as written", towers="model", change=Noise("none", 0.0), x=0.0)]
    for kind, (*strengths, unit) in _UNITS.items():
        for strength in strengths:
            name, label = f"{kind}-{strength * 100:.0f}", f"{strength:.0%} {unit}"
            found.append(Variant(name, label, towers="model", change=Noise(kind, strength), curve=kind, x=strength))
    return found


def _contrasts() -> list[Contrast]:
    ends = [(kind, strengths[0], strengths[2]) for kind, strengths in _UNITS.items()]
    found = [Contrast(f"{kind}-{s * 100:.0f}", "clean") for kind, low, high in ends for s in (low, high)]
    return [*found, Contrast("stuffing-100", "clean", metric=f"stuffers@{TOP}")]


STUDY = Study(
    name="noise",
    summary="typos, vague or wrong titles, missing sections, keyword stuffing, mixed languages, at growing strength",
    question=(
        "What do badly written documents cost the workspace's model, which never saw such noise on purpose? Briefs are "
        "struck, profiles stay as they are; only stuffing strikes profiles, a twentieth of the pool."
    ),
    variants=_variants(),
    contrasts=_contrasts(),
    notes=(
        "Nothing is trained here: one model, one draw of the noise for each seed.",
        "Mixing languages knows the names of the built-in taxonomy only; other words stay as they are.",
    ),
    axis="strength (see the table)",
    measure=measure,
)
