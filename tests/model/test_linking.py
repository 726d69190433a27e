"""Models with a glossary: what they read, how they are kept, and another glossary for a trained one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.cli import app
from skillmatch_ray.config import Config, ModelSettings
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import ConfigError, ModelError
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary
from skillmatch_ray.model.linking import Coverage, link, some
from skillmatch_ray.model.matcher import GLOSSARY_FILE, Matcher, load_matcher
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.stages import reading_like

GLOSSARY = Glossary(
    (
        {"en": ("bookkeeping",), "fr": ("tenue des comptes",), "de": ("Buchhaltung",)},
        {"en": ("roofing",), "fr": ("couverture",), "de": ("Dachdeckerei",)},
        {"en": ("baking",), "fr": ("boulangerie",), "de": ("Backen",)},
    )
)
PROJECT = Project(
    project_id="p", title="Besoin", skills=("tenue des comptes",), description="Boulangerie", language="fr"
)
PEOPLE = [
    Freelancer(freelancer_id="a", headline="x", skills=("Buchhaltung", "Backen"), language="de"),
    Freelancer(freelancer_id="b", headline="x", skills=("bookkeeping", "baking"), language="en"),
    Freelancer(freelancer_id="c", headline="x", skills=("Dachdeckerei", "Holz"), language="de"),
]


def matcher_of(backbone: Backbone, glossary: Glossary = GLOSSARY, **settings: object) -> Matcher:
    """Every weight random, as if trained."""
    torch.manual_seed(0)
    matcher = Matcher.untrained(backbone, ModelSettings(**{"layers": 1, "heads": 4, **settings}), glossary)
    with torch.no_grad():
        for weight in matcher.towers.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return matcher


def test_names_of_two_languages_are_one_concept(tiny_backbone: Backbone) -> None:
    """A model that reads nothing but concepts cannot tell the two accountants who bake apart."""
    vectors = matcher_of(tiny_backbone, section_types=("concepts",)).encode_freelancers(PEOPLE)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert vectors[0] @ vectors[2] < 0.999


def test_concepts_that_are_found_count_like_those_that_are_given(tiny_backbone: Backbone) -> None:
    given = [GLOSSARY.read(person) for person in PEOPLE]
    assert [person.concepts for person in given] == [("baking", "bookkeeping")] * 2 + [("roofing",)]
    found = matcher_of(tiny_backbone).encode_freelancers(PEOPLE)
    np.testing.assert_allclose(found, matcher_of(tiny_backbone, NO_GLOSSARY).encode_freelancers(given), atol=1e-6)
    assert np.abs(found - matcher_of(tiny_backbone, NO_GLOSSARY).encode_freelancers(PEOPLE)).max() > 0.01


def test_an_explanation_tells_the_share_of_concepts(tiny_backbone: Backbone) -> None:
    matcher = matcher_of(tiny_backbone)
    found = matcher.explain(PROJECT, PEOPLE[0])
    score = float((matcher.encode_projects([PROJECT]) @ matcher.encode_freelancers(PEOPLE[:1]).T)[0, 0])
    assert found.score == pytest.approx(score, abs=1e-5)
    for shares in (found.project, found.freelancer):
        assert sum(share.score for share in shares) == pytest.approx(score, abs=1e-4)
        assert shares[-1].type == "concepts"
        assert shares[-1].text == "baking, bookkeeping"
    assert {share.text for share in found.skills} == {"Buchhaltung", "Backen", "bookkeeping", "baking"}


def test_a_model_keeps_its_glossary(tiny_backbone: Backbone, tmp_path: Path) -> None:
    matcher = matcher_of(tiny_backbone)
    matcher.save(tmp_path / "model")
    loaded = load_matcher(tmp_path / "model", backbone=tiny_backbone)
    assert loaded.glossary == GLOSSARY
    assert loaded.fingerprint == matcher.fingerprint != matcher_of(tiny_backbone, NO_GLOSSARY).fingerprint
    np.testing.assert_array_equal(loaded.encode_freelancers(PEOPLE), matcher.encode_freelancers(PEOPLE))
    matcher_of(tiny_backbone, NO_GLOSSARY).save(tmp_path / "plain")
    assert not (tmp_path / "plain" / GLOSSARY_FILE).exists()


def test_another_glossary_is_another_space_of_the_same_weights(tiny_backbone: Backbone, tmp_path: Path) -> None:
    trained = matcher_of(tiny_backbone, NO_GLOSSARY)
    trained.save(tmp_path / "model", {"metrics.json": {"training_key": "k", "map": 0.5}, "README.md": "# card\n"})
    link(tmp_path / "model", GLOSSARY, tmp_path / "linked")
    linked = load_matcher(tmp_path / "linked", backbone=tiny_backbone)
    assert linked.fingerprint == matcher_of(tiny_backbone).fingerprint != trained.fingerprint
    np.testing.assert_allclose(
        linked.encode_freelancers(PEOPLE), matcher_of(tiny_backbone).encode_freelancers(PEOPLE), atol=1e-6
    )
    metrics = json.loads((tmp_path / "linked" / "metrics.json").read_text())
    assert metrics == {"map": 0.5, "fingerprint": linked.fingerprint, "linked_from": trained.fingerprint}
    assert "3 concepts" in (tmp_path / "linked" / "README.md").read_text()
    link(tmp_path / "linked", NO_GLOSSARY, tmp_path / "back")
    assert load_matcher(tmp_path / "back", backbone=tiny_backbone).fingerprint == trained.fingerprint


def test_what_is_trained_anew_can_read_like_a_model(tiny_backbone: Backbone, tmp_path: Path) -> None:
    matcher_of(tiny_backbone).save(tmp_path / "told")
    matcher_of(tiny_backbone, NO_GLOSSARY).save(tmp_path / "plain")
    config = reading_like(tmp_path / "told", Config())
    assert read_glossary(config.glossary) == GLOSSARY
    assert reading_like(tmp_path / "plain", config).glossary == ()


def test_what_stands_there_is_not_replaced(tiny_backbone: Backbone, tmp_path: Path) -> None:
    matcher_of(tiny_backbone, NO_GLOSSARY).save(tmp_path / "model")
    link(tmp_path / "model", GLOSSARY, tmp_path / "linked")
    link(tmp_path / "model", GLOSSARY, tmp_path / "linked")  # the same once more
    with pytest.raises(ConfigError, match="holds something else already"):
        link(tmp_path / "model", some(GLOSSARY, 0.5, 0), tmp_path / "linked")
    with pytest.raises(ConfigError, match="holds something else already"):
        link(tmp_path / "model", GLOSSARY, tmp_path)


def test_a_model_that_leaves_concepts_out_is_refused(tiny_backbone: Backbone, tmp_path: Path) -> None:
    matcher_of(tiny_backbone, NO_GLOSSARY, section_types=("title", "skills")).save(tmp_path / "model")
    with pytest.raises(ModelError, match=r"model\.section_types"):
        link(tmp_path / "model", GLOSSARY, tmp_path / "linked")


def test_a_share_of_the_concepts_keeps_their_order() -> None:
    whole = Glossary(tuple({"en": (str(i),), "fr": (str(i),)} for i in range(40)))
    half = some(whole, 0.5, seed=3)
    numbers = [int(labels["en"][0]) for labels in half.concepts]
    assert len(numbers) == 20
    assert numbers == sorted(numbers) != list(range(20))
    assert half == some(whole, 0.5, seed=3) != some(whole, 0.5, seed=4)
    assert some(whole, 1.0, seed=3) == whole
    assert not some(whole, 0.0, seed=3)


def test_coverage_by_hand() -> None:
    found = Coverage.of(GLOSSARY, [PROJECT, *PEOPLE, Project(project_id="q", title="t", skills=("Holz", "Backen"))])
    assert (found.listed, found.known) == ({"?": 2, "de": 4, "en": 2, "fr": 1}, {"?": 1, "de": 3, "en": 2, "fr": 1})
    assert found.unknown == [("Holz", 2)]
    assert found.share == pytest.approx(7 / 9)
    assert Coverage.of(GLOSSARY, []).share == 0


def test_the_verb_writes_a_model_and_tells_what_is_known(
    tiny_backbone: Backbone, tiny_dataset: Path, tmp_path: Path
) -> None:
    matcher_of(tiny_backbone, NO_GLOSSARY).save(tmp_path / "model")
    Glossary(({"en": ("react",), "fr": ("réagir",)}, *GLOSSARY.concepts)).save(tmp_path / "names.jsonl")
    given = ["--model", str(tmp_path / "model"), "--glossary", str(tmp_path / "names.jsonl")]
    more = ["--out", str(tmp_path / "linked"), "--dataset", str(tiny_dataset), "--report", str(tmp_path / "r.json")]
    done = CliRunner().invoke(app, ["link", *given, *more])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["concepts"], report["names"]) == (4, {"de": 3, "en": 4, "fr": 4})
    assert 0 < report["coverage"]["share"] < 1
    assert "react" not in [name for name, _ in report["coverage"]["unknown"]]
    assert load_matcher(tmp_path / "linked", backbone=tiny_backbone).glossary.find("React") == ("react",)
