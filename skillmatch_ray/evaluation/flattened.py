"""Documents that arrive as one string, as WorkRB hands them over, parsed back into sections.

A profile is "HEADLINE, Bio:, Skills:, Experiences:" with blank lines between (workrb 0.6.0,
tasks/ranking/freelancer_project_matching.py). Skills and soft skills come in one list and stay in one. Where texts
themselves hold blank lines the borders of experiences are guessed; nothing that was written is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from skillmatch_ray.documents import Experience, Freelancer, Project

_PROFILE = re.compile(
    r"(?:(?P<headline>.*?)\n\n)?Bio:\n(?P<bio>.*?)\n\nSkills:\n(?P<skills>[^\n]*)\n\nExperiences:(?:\n(?P<experiences>.*))?",
    re.DOTALL,
)
_LABEL_BORDER = re.compile(r",(?!\s)")
"""WorkRB joins labels with a bare comma: one with a space after it stands inside of a label."""
_LONGEST_LABEL = 60


def parse_profile(text: str, freelancer_id: str) -> Freelancer:
    """A flattened profile; any other text becomes its headline, or headline and description."""
    found = _PROFILE.fullmatch(text.strip())
    if not found:
        title, description = split_brief(text)
        return Freelancer(freelancer_id=freelancer_id, headline=title, description=description)
    skills = tuple(filter(None, map(_said, _LABEL_BORDER.split(found["skills"]))))
    experiences = tuple(map(_experience, _experience_texts(found["experiences"] or "")))
    return Freelancer(
        freelancer_id=freelancer_id,
        headline=headline_of(_said(found["headline"]), skills, experiences, _said(found["bio"])),
        description=_said(found["bio"]),
        skills=skills,
        experiences=experiences,
    )


def parse_brief(text: str, project_id: str) -> Project:
    """A flattened brief: the title, a blank line, the description; a text of one paragraph is a short query."""
    title, description = split_brief(text)
    return Project(project_id=project_id, title=title, description=description)


def flatten_profile(freelancer: Freelancer) -> str:
    """The string that WorkRB makes of a profile, byte for byte."""
    experiences = "\n\n".join(f"{e.title}\n{e.description}\n{', '.join(e.skills)}" for e in freelancer.experiences)
    return (
        f"{freelancer.headline}\n\nBio:\n{freelancer.description}\n\n"
        f"Skills:\n{','.join((*freelancer.skills, *freelancer.soft_skills))}\n\nExperiences:\n{experiences}"
    )


def reparsed(freelancer: Freelancer) -> Freelancer:
    """A freelancer as the adapter gets to see them: flattened, parsed back, all else as it was."""
    parsed = parse_profile(flatten_profile(freelancer), freelancer.id)
    seen = {name: getattr(parsed, name) for name in ("headline", "description", "skills", "experiences")}
    return freelancer.model_copy(update={**seen, "soft_skills": ()})


def split_brief(text: str) -> tuple[str, str | None]:
    """Title and description of a text; "?" where it is empty."""
    title, _, description = text.strip().partition("\n\n")
    return title or "?", _said(description)


def headline_of(
    headline: str | None, skills: tuple[str, ...], experiences: tuple[Experience, ...], bio: str | None
) -> str:
    """The headline, or what comes nearest to one where it is missing: a title, a skill, the bio's first words."""
    titles = [experience.title for experience in experiences if experience.title]
    return next(filter(None, (headline, *titles, *skills, (bio or "")[:80].strip())), "?")


def _said(text: str | None) -> str | None:
    """Missing values were written as the word None."""
    text = (text or "").strip()
    return None if text in {"", "None"} else text


def _experience(text: str) -> Experience:
    """Title, description and skills, line by line; the description may have several."""
    lines = text.split("\n")
    title, description, skills = lines[0], "\n".join(lines[1:-1]), lines[-1] if len(lines) > 1 else ""
    labels = tuple(filter(None, map(_said, skills.split(", "))))
    return Experience(title=_said(title), description=_said(description), skills=labels)


def _experience_texts(text: str) -> Iterator[str]:
    """Cut where an experience is whole (three lines or more, the last one a list of labels) and another begins."""
    current: str | None = None
    for piece in text.split("\n\n") if text.strip() else ():
        if current is None:
            current = piece
        elif piece.startswith("\n"):  # the experience before ended with an empty line of skills
            yield current + "\n"
            current = piece.removeprefix("\n")
        elif _is_whole(current):
            yield current
            current = piece
        else:
            current += "\n\n" + piece
    if current is not None:
        yield current if current.count("\n") > 1 else current + "\n"


def _is_whole(text: str) -> bool:
    """Whether a title, a description and a list of labels are there."""
    lines = text.split("\n")
    labels = lines[-1].split(", ")
    return len(lines) > 2 and all(0 < len(label) <= _LONGEST_LABEL and not label.endswith(".") for label in labels)
