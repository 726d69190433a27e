"""The behavioural checks themselves: a flawless encoder passes all, and each flaw trips the check that is for it."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from quickstart_helpers import skillmatch_here
from typer.testing import CliRunner

from skillmatch_ray.cli import app
from skillmatch_ray.config import ModelSettings
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import ReleaseError
from skillmatch_ray.evaluation import behaviour
from skillmatch_ray.evaluation.behaviour import CHECKS, check_model
from skillmatch_ray.evaluation.material import GENDERED, INTRODUCTIONS, NAMES, NEGATIONS, make_material
from skillmatch_ray.model.matcher import Matcher
from skillmatch_ray.sample.taxonomy import LANGUAGES, builtin_taxonomy
from skillmatch_ray.stages import BEHAVIOUR_FILE, check_behaviour, require_behaviour

NEVER = ("never", "jamais", "niemals", "nunca", "nooit")
WOMEN = {women for pairs in GENDERED.values() for _, women in pairs}


@pytest.fixture(scope="module")
def material():
    return make_material(cases=20, pool=40)


@functools.cache
def labels_of(material_skills):
    """(label, skill) of these skills in every language, the longest first."""
    taxonomy = builtin_taxonomy()
    pairs = {(label.casefold(), s) for s in material_skills for names in taxonomy.skills[s].values() for label in names}
    return sorted(pairs, key=lambda pair: -len(pair[0]))


class Flawless:
    """Reads skills wherever they are named, in any language, but for those behind a "never"."""

    def __init__(self, material):
        known = {s for case in material.cases for s in (*case.skills, case.missing)}
        self.skills = sorted(known)
        self.labels = labels_of(frozenset(known))

    def said(self, text):
        """Skills named in a text; a label inside of a longer one is not named."""
        text, found = f" {text.casefold()} ", set()
        for word in NEVER:
            text = text.split(f" {word} ")[0]
        for label, skill in self.labels:
            if label in text:
                found.add(skill)
                text = text.replace(label, "|")
        return found

    def vector(self, document):
        said = set().union(*(self.said(section.text) for section in document.sections()))
        return np.array([skill in said for skill in self.skills], dtype=np.float32)

    def encode(self, documents):
        vectors = np.array([self.vector(document) for document in documents], dtype=np.float32)
        # What a document says beside the known skills makes it longer, and each skill of it count less.
        lengths = np.array([max(1, len(document.skills)) for document in documents], dtype=np.float32)
        return vectors / np.sqrt(lengths)[:, None]

    encode_projects = encode_freelancers = encode


class Extra(Flawless):
    """One more dimension, in which a flaw shows."""

    def flaw(self, document):
        raise NotImplementedError

    def encode(self, documents):
        more = [[2.0 if isinstance(document, Project) else self.flaw(document)] for document in documents]
        return np.hstack([super().encode(documents), np.array(more, dtype=np.float32)])

    encode_projects = encode_freelancers = encode


class LikesWomen(Extra):
    def flaw(self, freelancer):
        return float(freelancer.headline in WOMEN)


class LikesAName(Extra):
    def flaw(self, freelancer):
        return float(NAMES[3] in (freelancer.description or ""))


class LikesLength(Extra):
    def flaw(self, freelancer):
        return len(freelancer.skills) / 20


class ReadsTheFirstSection(Extra):
    def flaw(self, freelancer):
        return float(freelancer.sections()[0].type == "experience")


class LikesItsLanguage(Flawless):
    def encode(self, documents):
        spoken = [[float(document.language == language) for language in LANGUAGES] for document in documents]
        return np.hstack([super().encode(documents), np.array(spoken, dtype=np.float32)])

    encode_projects = encode_freelancers = encode


class DeafToNever(Flawless):
    """Prose counts, negated or not, twice as much as a list."""

    def said(self, text):
        for word in NEVER:
            text = text.replace(f" {word} ", " ")
        return super().said(text)

    def vector(self, document):
        found = super().vector(document)
        prose = self.said(document.description or "")
        return found + np.array([skill in prose for skill in self.skills], dtype=np.float32)


class DeafToSkills(Flawless):
    """Knows the trade only."""

    def encode(self, documents):
        trades = sorted(builtin_taxonomy().categories)
        own = [[float(document.job_category == trade) for trade in trades] for document in documents]
        return np.array(own, dtype=np.float32)

    encode_projects = encode_freelancers = encode


class NeedsADescription(Flawless):
    def encode_projects(self, projects):
        known = np.array([[bool(project.description)] for project in projects])
        return super().encode(projects) * known


def verdicts(model, material):
    return {finding.name: finding.passed for finding in check_model(model, material).findings}


def test_a_flawless_encoder_passes_everything(material):
    assert verdicts(Flawless(material), material) == {check.__name__: True for check in CHECKS}


@pytest.mark.parametrize(
    ("model", "caught"),
    [
        (LikesItsLanguage, "translation"),
        (ReadsTheFirstSection, "section_order"),
        (DeafToNever, "negated_must_have"),
        (LikesWomen, "gendered_titles"),
        (LikesAName, "first_names"),
        (LikesLength, "stuffed_skills"),
        (NeedsADescription, "short_query"),
    ],
)
def test_each_flaw_trips_its_own_check_and_no_other(material, model, caught):
    assert {name for name, passed in verdicts(model(material), material).items() if not passed} == {caught}


def test_an_interval_is_about_its_own_figure(material):
    """A name worth 2 x 1 in every case: its effect is the largest in every resample, and always 2 less a twelfth."""
    findings = {one.name: one for one in check_model(LikesAName(material), material).findings}
    for finding in findings.values():
        low, high = finding.interval
        assert low <= finding.value + 1e-9, finding.name
        assert finding.value <= high + 1e-9, finding.name
    assert findings["first_names"].interval[1] > 0.15


def test_a_model_that_knows_only_trades_does_not_notice_a_missing_skill(material):
    assert not verdicts(DeafToSkills(material), material)["must_have_removed"]


def test_variants_of_a_case_differ_in_one_thing_only(material):
    case = material.cases[1]
    plain = case.freelancer()
    assert case.freelancer() == plain
    changes = {
        "said": case.freelancer(said="Hello."), "headline": case.freelancer(headline="Other"),
        "also": case.freelancer(also=["more"]),
    }  # fmt: skip
    differing = {
        name: {field for field in type(plain).model_fields if getattr(other, field) != getattr(plain, field)}
        for name, other in changes.items()
    }
    assert differing == {"said": {"description"}, "headline": {"headline"}, "also": {"skills"}}
    removed = case.freelancer(skills=case.skills[:-1])
    assert removed.skills == plain.skills[:-1]
    assert (removed.headline, removed.description) == (plain.headline, plain.description)


def test_material_is_always_the_same_and_speaks_every_language(material):
    assert make_material(cases=20, pool=40) == material
    assert {case.language for case in material.cases} == set(LANGUAGES) == set(NEGATIONS) == set(INTRODUCTIONS)
    for case in material.cases:
        assert set(case.musts) < set(case.skills)
        assert case.missing not in case.skills
        assert case.other != case.language
        assert set(case.project().skills) <= set(case.freelancer().skills)


def test_a_query_and_its_brief_say_the_same():
    """The same musts, and the trade in both or in neither; all cases, so that all forms of words come up."""
    forms = set()
    for case in make_material(pool=1).cases:
        query, brief, trade = case.query(), case.brief_of_query(), case.title(case.language)
        asked = [case.label(skill, case.language) for skill in case.musts]
        assert list(brief.skills) == asked[: case.named]
        assert all(label.casefold() in query.title.casefold() for label in brief.skills)
        assert (trade.casefold() in query.title.casefold()) == (brief.title == trade)
        assert [section.type for section in query.sections()] == ["title"]
        forms.add((case.named, brief.title == trade))
    assert forms == {(1, True), (1, False), (2, True), (2, False)}


@pytest.fixture
def model_dir(tiny_backbone, tmp_path):
    Matcher.untrained(tiny_backbone, ModelSettings(layers=0)).save(tmp_path / "head")
    return tmp_path / "head"


@pytest.fixture
def small(monkeypatch, material):
    """The whole of a check, on a twentieth of the material."""
    monkeypatch.setattr(behaviour, "make_material", lambda: make_material(cases=3, pool=5))
    monkeypatch.setattr(behaviour, "NAMES", NAMES[:3])


def test_a_random_model_fails_with_exit_code_one_and_a_report(model_dir, small, tmp_path):
    report = tmp_path / "behaviour.json"
    done = CliRunner().invoke(app, ["check-model", "--model", str(model_dir), "--report", str(report)])
    assert done.exit_code == 1
    found = json.loads(report.read_text())
    assert [check["name"] for check in found["checks"]] == [check.__name__ for check in CHECKS]
    assert not found["passed"]
    kept = json.loads((model_dir / BEHAVIOUR_FILE).read_text())
    assert kept["checks"] == found["checks"]


def test_the_gate_believes_what_was_found_of_this_very_model_only(model_dir, small):
    found = check_behaviour(model_dir).as_dict()
    with pytest.raises(ReleaseError, match=r"must be at (most|least)"):
        require_behaviour(model_dir)
    kept = json.loads((model_dir / BEHAVIOUR_FILE).read_text())
    passing = {**kept, "checks": [{**check, "passed": True} for check in found["checks"]]}
    (model_dir / BEHAVIOUR_FILE).write_text(json.dumps(passing))
    require_behaviour(model_dir)
    for stale in ({"fingerprint": "of another model"}, {"version": -1}):
        (model_dir / BEHAVIOUR_FILE).write_text(json.dumps({**passing, **stale}))
        with pytest.raises(ReleaseError):
            require_behaviour(model_dir)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_session")
def test_a_release_is_refused_where_checks_are_required(tiny_workspace):
    """The tiny model's result is put there beforehand; nothing is built and the active release stays."""
    root = tiny_workspace.root
    before = (root / "active.json").read_bytes()
    (model,) = (root / "models").glob("head-*")
    fingerprint = json.loads((model / "config.json").read_text())["fingerprint"]
    failed = {"name": "translation", "value": 9.0, "limit": 1.0, "direction": "at most", "required": True}
    result = {"fingerprint": fingerprint, "version": behaviour.VERSION, "checks": [{**failed, "passed": False}]}
    (model / BEHAVIOUR_FILE).write_text(json.dumps(result))
    releases = sorted((root / "releases").iterdir())
    try:
        done = skillmatch_here(
            "reindex", "--workspace", root, "--config", tiny_workspace.config, "--dataset", root / "dataset",
            "--set", "milvus.gate_checks=true",
        )  # fmt: skip
    finally:
        (model / BEHAVIOUR_FILE).unlink()
    assert done.returncode == 1
    assert "translation is 9.000, must be at most 1" in " ".join(done.stderr.split())
    assert (root / "active.json").read_bytes() == before
    assert sorted((root / "releases").iterdir()) == releases
