"""One self-contained HTML page of an evaluation: it loads nothing, and what documents say is text, never markup."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.evaluation import plots
from skillmatch_ray.evaluation.baselines import FLOORS
from skillmatch_ray.evaluation.evaluate import KEY_METRICS, Detail, EvaluationReport
from skillmatch_ray.evaluation.overlap import TOP
from skillmatch_ray.evaluation.skills import skill_ids
from skillmatch_ray.evaluation.task import UNKNOWN
from skillmatch_ray.evaluation.truth import RELEVANT_GRADE
from skillmatch_ray.files import write_text

PAGE: Final = "index.html"
WORST: Final = 8
"""Queries shown with their answers."""
SHOWN: Final = 5
"""Freelancers shown of each answer."""
SHOWN_SKILLS: Final = 8
_TEXT: Final = 320
_NAME: Final = 28


def write_page(report: EvaluationReport, directory: Path, provenance: Mapping[str, Any]) -> Path:
    """Write index.html into a directory.

    Args:
        report: of `evaluate`.
        directory: made where missing.
        provenance: configuration, versions, model; printed at the end of the page.

    Returns:
        The file.
    """
    path = directory / PAGE
    write_text(path, render_page(report, provenance))
    return path


def render_page(report: EvaluationReport, provenance: Mapping[str, Any]) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    rooms = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    rooms.filters |= {"figure": _figure, "range": _range, "change": _change, "short": _short_name}
    return rooms.get_template("page.html").render(
        content=report.content,
        systems=report.systems(),
        metrics=(*KEY_METRICS, "precision@10", "r_precision@10", f"category_overlap@{TOP}", f"skill_overlap@{TOP}"),
        shown=report.detail.system,
        floor=best_floor(report),
        floors=FLOORS,
        images=_images(report),
        worst=_worst(report),
        provenance=provenance,
        made=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def best_floor(report: EvaluationReport) -> str:
    """The floor with the highest MAP, other than the system that is shown."""
    baselines = report.content["baselines"]
    return max((name for name in FLOORS if name != report.detail.system), key=lambda name: baselines[name]["map"])


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _range(bounds: Sequence[float] | None, digits: int = 3) -> str:
    return "" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _change(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}"


def _short_name(name: str) -> str:
    """A system's name as a label: of a long path only its end."""
    return name if len(name) <= _NAME else "…" + name[1 - _NAME :]


def _images(report: EvaluationReport) -> dict[str, str]:
    content, detail, floor = report.content, report.detail, best_floor(report)
    systems = report.systems()
    quiet = [name for name in FLOORS if name != detail.system]
    styles = {_short_name(k): style for k, style in plots.system_styles(systems, detail.system, quiet).items()}
    maps = {_short_name(k): (found["map"], *content["intervals"][k]["map"]) for k, found in systems.items()}
    curves = {_short_name(k): content["recall_curves"][k] for k in systems}
    groups = [detail.task.pool.categories.names[code] for code in detail.task.pool.categories.codes[detail.points]]
    flat = plots.flatten(detail.vectors, content["settings"]["seed"])
    return {
        "maps": plots.data_uri(plots.interval_bars(maps, styles, "MAP, 95 % interval")),
        "recall": plots.data_uri(plots.recall_curves(curves, styles)),
        "pairs": _pair_map(content, "map", detail.system),
        "pairs_gain": _pair_map(content, "map", detail.system, floor),
        "pairs_category": _pair_map(content, f"category_overlap@{TOP}", detail.system),
        "pairs_skill": _pair_map(content, f"skill_overlap@{TOP}", detail.system),
        "embedding": plots.data_uri(plots.embedding_map(flat, groups), "png"),
    }


def _pair_map(content: Mapping[str, Any], metric: str, system: str, other: str | None = None) -> str:
    """A metric of a system by language pair, or how far it is above another; empty where no pair has it."""
    cells = {}
    for pair, block in content["per_language_pair"].items():
        project, _, freelancer = pair.partition("-")
        if (value := block[metric][system]) is not None:
            cells[project, freelancer] = value - (block[metric][other] if other else 0.0)
    if not cells:
        return ""
    return plots.data_uri(plots.heat_map(cells, "project", "freelancer", signed=other is not None))


def _worst(report: EvaluationReport) -> list[dict[str, Any]]:
    """The projects with the lowest average precision, with the answers of two systems and who was right."""
    detail, floor = report.detail, best_floor(report)
    order = np.argsort(detail.figures[detail.system]["map"], kind="stable")[:WORST].tolist()
    relevant = {q: _best_relevant(detail, q) for q in order}
    places = {place for q in order for place, _ in relevant[q]}
    places |= {int(place) for q in order for s in (detail.system, floor) for place in detail.rankings[s][q].top[:SHOWN]}
    people = detail.task.pool.at(places)
    return [_case(detail, floor, q, relevant[q], people) for q in order]


def _best_relevant(detail: Detail, q: int) -> list[tuple[int, int]]:
    """(place, rank) of the best placed relevant freelancers of a query."""
    judged, ranks = detail.task.judged[q], detail.rankings[detail.system][q].overall
    pairs = [(int(ranks[i]), int(judged.places[i])) for i in np.flatnonzero(judged.grades >= RELEVANT_GRADE)]
    return [(place, rank) for rank, place in sorted(pairs)[:SHOWN]]


def _case(
    detail: Detail, floor: str, q: int, relevant: Sequence[tuple[int, int]], people: Mapping[int, Freelancer]
) -> dict[str, Any]:
    project, judged = detail.task.projects[q], detail.task.judged[q]
    grades = dict(zip(judged.places.tolist(), judged.grades.tolist(), strict=True))

    def answer(name: str, ranked: Sequence[tuple[int, int]]) -> dict[str, Any]:
        cards = [_card(project, people[place], rank, grades.get(place, 0)) for place, rank in ranked]
        return {"name": name, "cards": cards}

    def top(system: str) -> list[tuple[int, int]]:
        return [(int(place), rank) for rank, place in enumerate(detail.rankings[system][q].top[:SHOWN], start=1)]

    return {
        "project": project,
        "text": _short(project.description),
        "average_precision": detail.figures[detail.system]["map"][q],
        "relevant": int((judged.grades >= RELEVANT_GRADE).sum()),
        "answers": [
            answer(f"{detail.system}: best {SHOWN}", top(detail.system)),
            answer(f"{floor}: best {SHOWN}", top(floor)),
            answer(f"right: best placed by {detail.system}", relevant),
        ],
    }


def _card(project: Project, freelancer: Freelancer, rank: int, grade: int) -> dict[str, Any]:
    wanted = frozenset(skill for label in project.skills for skill in skill_ids(label))
    labels = dict.fromkeys(
        [*freelancer.skills, *(skill for experience in freelancer.experiences for skill in experience.skills)]
    )
    skills = sorted(
        ((label, not skill_ids(label).isdisjoint(wanted)) for label in labels), key=lambda pair: not pair[1]
    )
    return {
        "rank": rank,
        "grade": grade,
        "right": grade >= RELEVANT_GRADE,
        "headline": freelancer.headline,
        "language": freelancer.language or UNKNOWN,
        "category": freelancer.job_category or UNKNOWN,
        "skills": skills[:SHOWN_SKILLS],
        "more": max(0, len(skills) - SHOWN_SKILLS),
    }


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= _TEXT else text[:_TEXT].rsplit(" ", 1)[0] + " …"
