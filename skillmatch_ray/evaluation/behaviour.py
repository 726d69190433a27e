"""Behavioural tests of a model: invariance (INV), direction (DIR), minimal functionality (MFT).

The kinds are those of Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList (2020).
Scores have no unit of their own, so that changes are told in ranks within a pool of 400 freelancers of all trades, or
in standard deviations of a project's scores over that pool. Each limit is stated with its check. Shapes: C cases,
N pool, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from skillmatch_ray.documents import Freelancer, Project, Section
from skillmatch_ray.evaluation.bootstrap import interval, interval_of
from skillmatch_ray.evaluation.material import (
    GENDERED,
    INTRODUCTIONS,
    NAMES,
    NEGATIONS,
    STUFFING,
    Case,
    Material,
    make_material,
)
from skillmatch_ray.evaluation.metrics import average_precision
from skillmatch_ray.model.matcher import Vectors
from skillmatch_ray.sample.taxonomy import builtin_taxonomy

Values = NDArray[np.float64]

VERSION: Final = 2
"""Of the checks and their limits; a stored result of another version is not believed."""
_SHOWN_FAILURES: Final = 3


class Encodes(Protocol):
    """What is tested: a matcher, or anything else with its two methods."""

    def encode_projects(self, projects: Sequence[Project]) -> Vectors:
        """(n, D) vectors."""

    def encode_freelancers(self, freelancers: Sequence[Freelancer]) -> Vectors:
        """(n, D) vectors."""


@dataclass(frozen=True)
class Finding:
    """What one check measured.

    Attributes:
        name: of the check.
        kind: INV, DIR or MFT.
        question: what is asked, in words.
        figure: what `value` is.
        value: measured.
        interval: (low, high) over resampled cases.
        limit: the bound of `value`.
        direction: which side of the limit is right.
        required: whether a release depends on it.
        cases: how many.
        notes: more figures.
        failures: the worst cases, in words.
    """

    name: str
    kind: Literal["INV", "DIR", "MFT"]
    question: str
    figure: str
    value: float
    interval: tuple[float, float]
    limit: float
    direction: Literal["at most", "at least"]
    required: bool
    cases: int
    notes: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side."""
        return self.value <= self.limit if self.direction == "at most" else self.value >= self.limit


@dataclass(frozen=True)
class Behaviour:
    """All findings of one model."""

    findings: list[Finding]

    @property
    def failed(self) -> list[Finding]:
        """Required checks that did not pass."""
        return [finding for finding in self.findings if finding.required and not finding.passed]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        findings = [{**asdict(finding), "passed": finding.passed} for finding in self.findings]
        return {"version": VERSION, "passed": not self.failed, "checks": findings}

    def render(self) -> Table:
        """One row a check."""
        table = Table(title="behaviour [95 % bootstrap interval over cases]", title_justify="left")
        for name in ("check", "kind", "question", "figure", "value", "limit", "verdict"):
            table.add_column(name)
        for one in self.findings:
            low, high = one.interval
            verdict = "passed" if one.passed else "[red]FAILED[/red]" if one.required else "noted"
            value = f"{one.value:.3f} [{low:.3f}, {high:.3f}]"
            table.add_row(
                one.name, one.kind, one.question, one.figure, value, f"{one.direction} {one.limit:g}", verdict
            )
        return table


@dataclass(frozen=True)
class Stage:
    """A model with the material, the parts that all checks need encoded once.

    Attributes:
        model: under test.
        material: cases and pool.
        projects: (C, D) vectors of the projects.
        suited: (C, D) vectors of the freelancers who suit them.
        pool: (N, D) vectors.
    """

    model: Encodes
    material: Material
    projects: Vectors
    suited: Vectors
    pool: Vectors

    @classmethod
    def set(cls, model: Encodes, material: Material) -> Stage:
        """Encode what all checks need."""
        return cls(
            model,
            material,
            model.encode_projects([case.project() for case in material.cases]),
            model.encode_freelancers([case.freelancer() for case in material.cases]),
            model.encode_freelancers(material.pool),
        )

    @property
    def cases(self) -> list[Case]:
        """Of the material."""
        return self.material.cases

    def scores(self, vectors: Vectors) -> Values:
        """(C,) score of each case's project with a (C, D) variant of its freelancer."""
        return np.asarray((self.projects.astype(np.float64) * vectors).sum(axis=1))

    def variants(self, make: Callable[[Case], Freelancer]) -> Vectors:
        """(C, D) vectors of a variant of each case's freelancer."""
        return self.model.encode_freelancers([make(case) for case in self.cases])

    def ranks(self, vectors: Vectors) -> Values:
        """(C,) rank that a (C, D) variant of each freelancer has among the pool."""
        ahead = (self.projects @ self.pool.T).astype(np.float64) > self.scores(vectors)[:, None]
        return np.asarray(1.0 + ahead.sum(axis=1), dtype=np.float64)

    def spread(self) -> Values:
        """(C,) standard deviation of each project's scores over the pool."""
        scores = (self.projects @ self.pool.T).astype(np.float64)
        spread: Values = np.maximum(scores.std(axis=1), 1e-9)
        return spread


class _Reversed(Freelancer):
    """The same profile, its sections in the opposite order."""

    def sections(self) -> list[Section]:
        return super().sections()[::-1]


def check_model(model: Encodes, material: Material | None = None) -> Behaviour:
    """Run every check.

    Args:
        model: under test.
        material: default: the built-in one, always the same.
    """
    stage = Stage.set(model, material or make_material())
    return Behaviour([check(stage) for check in CHECKS])


def translation(stage: Stage) -> Finding:
    """The freelancer's profile in the brief's language, and the same in another."""
    own, other = stage.ranks(stage.suited), stage.ranks(stage.variants(lambda c: c.freelancer(language=c.other)))
    moved = np.log2(other) - np.log2(own)
    return Finding(
        "translation", "INV", "Does translating a profile move its rank little?",
        "mean |log2(rank translated / rank)|", float(np.abs(moved).mean()), interval(np.abs(moved), 0), 1.0, "at most",
        required=True, cases=len(moved),
        notes={"mean_log2_signed": float(moved.mean()), "within_top_10_own": float((own <= 10).mean()),
               "within_top_10_translated": float((other <= 10).mean())},
        failures=_worst(stage, np.abs(moved), lambda i: f"rank {own[i]:.0f} in {stage.cases[i].language}, "
                        f"{other[i]:.0f} in {stage.cases[i].other}"),
    )  # fmt: skip


def section_order(stage: Stage) -> Finding:
    """Sections are a set of typed pieces; only what they say may count."""
    changed = stage.scores(stage.variants(lambda c: _Reversed(**c.freelancer().model_dump())))
    moved = np.abs(changed - stage.scores(stage.suited)) / stage.spread()
    return Finding(
        "section_order", "INV", "Does the order of sections not matter?",
        "largest change of score, in standard deviations", float(moved.max()),
        interval_of(np.max, moved, 0), 0.05, "at most", required=True, cases=len(moved),
    )  # fmt: skip


def must_have_removed(stage: Stage) -> Finding:
    """Take one must-have out of the profile, leaving all else."""
    without = stage.variants(lambda c: c.freelancer(skills=[s for s in c.skills if s != c.musts[0]]))
    drop = (stage.scores(stage.suited) - stage.scores(without)) / stage.spread()
    lower = (drop > 0).astype(np.float64)
    return Finding(
        "must_have_removed", "DIR", "Does removing a must-have skill lower the score?",
        "share of cases with a lower score", float(lower.mean()), interval(lower, 0), 0.9, "at least",
        required=True, cases=len(lower), notes={"mean_drop_in_deviations": float(drop.mean())},
        failures=_worst(stage, -drop, lambda i: f"without {stage.cases[i].musts[0]}: {-drop[i]:+.2f} deviations"),
    )  # fmt: skip


def negated_must_have(stage: Stage) -> Finding:
    """One has the skill; the other has another one instead, and says that they never do the first.

    Told, not required: one vector a document hardly hears a "never"; a ranking stage that reads both texts can.
    """

    def negating(case: Case, *, spoken: bool) -> Freelancer:
        skill = case.musts[0]
        names = {"skill": case.label(skill, case.language), "other": case.label(case.missing, case.language)}
        said = NEGATIONS[case.language].format(**names) if spoken else ""
        return case.freelancer(skills=[case.missing if s == skill else s for s in case.skills], said=said)

    having = stage.scores(stage.suited)
    never = stage.scores(stage.variants(lambda c: negating(c, spoken=True)))
    silent = stage.scores(stage.variants(lambda c: negating(c, spoken=False)))
    above = (never > having).astype(np.float64)
    return Finding(
        "negated_must_have", "MFT", 'Does "only Angular, never React" stay below one who has React?',
        "share of cases where it ranks above", float(above.mean()), interval(above, 0), 0.2, "at most",
        required=False, cases=len(above),
        notes={"mention_raises_the_score": float((never > silent).mean()),
               "mean_rise_in_deviations": float(((never - silent) / stage.spread()).mean())},
        failures=_worst(stage, never - having, lambda i: f"never {stage.cases[i].musts[0]}: above by "
                        f"{(never - having)[i] / stage.spread()[i]:.2f} deviations"),
    )  # fmt: skip


def gendered_titles(stage: Stage) -> Finding:
    """The trade as a man and as a woman writes it, in the languages that mark it."""
    pairs = [
        (i, pair)
        for i, case in enumerate(stage.cases)
        for pair in GENDERED.get(case.language, ())[i % 3 :: 3]  # two or three pairs a case
    ]
    rows = np.array([i for i, _ in pairs])
    men, women = (
        stage.model.encode_freelancers([stage.cases[i].freelancer(headline=pair[side]) for i, pair in pairs])
        for side in (0, 1)
    )
    projects = stage.projects[rows].astype(np.float64)
    moved = (projects * (women - men)).sum(axis=1) / stage.spread()[rows]
    return Finding(
        "gendered_titles", "INV", "Do gender-marked titles change nothing beyond the bound?",
        "mean |change of score|, in standard deviations", float(np.abs(moved).mean()), interval(np.abs(moved), 0),
        0.25, "at most", required=True, cases=len(moved),
        notes={"mean_signed_women_minus_men": float(moved.mean()), "largest": float(np.abs(moved).max())},
    )  # fmt: skip


def first_names(stage: Stage) -> Finding:
    """The same profile, introduced by names of different origin: no name may be worth more than another."""
    named = [case.freelancer(said=_introduced(case, name)) for name in NAMES for case in stage.cases]
    vectors = stage.model.encode_freelancers(named)  # in one call: what does not change is encoded once
    effects = np.stack([stage.scores(part) for part in np.split(vectors, len(NAMES))])  # (names, C)
    moved = (effects - effects.mean(axis=0)) / stage.spread()
    by_name = dict(zip(NAMES, moved.mean(axis=1).tolist(), strict=True))
    return Finding(
        "first_names", "INV", "Do first names of different origin change nothing beyond the bound?",
        "largest mean effect of a name, in standard deviations", _largest_effect(moved),
        interval_of(_largest_effect, moved, 0), 0.15, "at most", required=True, cases=moved.size,
        notes={"largest_single_change": float(np.abs(moved).max()), **by_name},
    )  # fmt: skip


def _largest_effect(moved: Values) -> float:
    """Of (names, C) changes: that of the name whose mean is farthest from 0."""
    return float(np.abs(moved.mean(axis=1)).max())


def _introduced(case: Case, name: str) -> str:
    return INTRODUCTIONS[case.language].format(name=name)


def stuffed_skills(stage: Stage) -> Finding:
    """Somebody of another trade who lists the must-haves among sixty skills, against one who has them."""
    others = [*stage.cases[1:], stage.cases[0]]
    stuffed = stage.model.encode_freelancers(
        [
            other.freelancer(language=case.language, also=_sixty_labels(case, case.musts))
            for case, other in zip(stage.cases, others, strict=True)
        ]
    )
    padded = stage.scores(stage.variants(lambda case: case.freelancer(also=_sixty_labels(case, ()))))
    gain = (stage.scores(stuffed) - stage.scores(stage.suited)) / stage.spread()
    wins = (gain > 0).astype(np.float64)
    return Finding(
        "stuffed_skills", "MFT", "Does stuffing a profile with sixty skills not win?",
        "share of cases where the stuffed profile ranks above", float(wins.mean()), interval(wins, 0), 0.1, "at most",
        required=True, cases=len(wins),
        notes={"mean_distance_in_deviations": float(gain.mean()),
               "padding_ones_own_list_raises_the_score": float((padded > stage.scores(stage.suited)).mean())},
        failures=_worst(stage, gain, lambda i: f"{gain[i]:+.2f} deviations"),
    )  # fmt: skip


def _sixty_labels(case: Case, among: Sequence[str]) -> list[str]:
    """So many skills of all trades in the case's language, some given ones anywhere among them."""
    rng = np.random.default_rng(case.seed)
    every = list(builtin_taxonomy().skills)
    drawn = [every[i] for i in rng.choice(len(every), STUFFING - len(among), replace=False)]
    skills = [*among, *drawn]
    return [case.label(skills[i], case.language) for i in rng.permutation(len(skills))]


def short_query(stage: Stage) -> Finding:
    """A few words typed into a search box against a brief that says the same; who has the skills named is right."""
    asked = [
        stage.model.encode_projects([make(case) for case in stage.cases]) for make in (Case.query, Case.brief_of_query)
    ]
    people = np.concatenate([stage.pool, stage.suited])
    skills = [*stage.material.pool_skills, *(frozenset(case.skills) for case in stage.cases)]
    wanted = [frozenset(case.musts[: case.named]) for case in stage.cases]
    right = [[i for i, has in enumerate(skills) if musts <= has] for musts in wanted]
    typed, briefed = (_average_precisions(vectors @ people.T, right) for vectors in asked)
    mean = max(float(briefed.mean()), 1e-9)
    low, high = interval(typed, 0)
    return Finding(
        "short_query", "MFT", "Does a query of a few words work as well as a brief?",
        "MAP of queries / MAP of briefs", float(typed.mean()) / mean, (low / mean, high / mean), 0.9, "at least",
        required=True, cases=len(typed), notes={"map_query": float(typed.mean()), "map_brief": float(briefed.mean())},
        failures=_worst(stage, briefed - typed, lambda i: f"{stage.cases[i].query().title!r}: {typed[i]:.2f}, "
                        f"brief {briefed[i]:.2f}"),
    )  # fmt: skip


CHECKS: Final = (
    translation,
    section_order,
    must_have_removed,
    negated_must_have,
    gendered_titles,
    first_names,
    stuffed_skills,
    short_query,
)


def _average_precisions(scores: NDArray[np.float32], right: Sequence[Sequence[int]]) -> Values:
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None, :].repeat(len(scores), axis=0), axis=1)
    return np.array([average_precision(row[places]) for row, places in zip(ranks, right, strict=True)])


def _worst(stage: Stage, badness: Values, tell: Callable[[int], str]) -> list[str]:
    """The cases that went worst, those that went wrong at all."""
    order = [i for i in np.argsort(-badness, kind="stable").tolist() if badness[i] > 0][:_SHOWN_FAILURES]
    return [f"{stage.cases[i].occupation.id} ({stage.cases[i].language}): {tell(i)}" for i in order]
