"""Language alignment: translations by the generator, ranks by hand, before and after."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmatch_ray.config import ModelSettings
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.evaluation.alignment import align, pair_alignments, translation_ranks
from skillmatch_ray.evaluation.language_gap import language_gap, translated_pool
from skillmatch_ray.model.matcher import Matcher
from skillmatch_ray.sample.taxonomy import LANGUAGES, builtin_taxonomy


def test_ranks_by_hand():
    """Own scores 0.9, 0.5, 0.1; better or equal ones: none, one (0.8), both others (0.2 and 0.1)."""
    queries = np.eye(3, dtype=np.float32)
    corpus = np.array([[0.9, 0.8, 0.2], [0.1, 0.5, 0.1], [0.0, 0.0, 0.1]], dtype=np.float32)
    assert translation_ranks(queries, corpus).tolist() == [1, 2, 3]
    pairs = pair_alignments({"en": queries, "fr": corpus})
    assert list(pairs) == ["en-fr", "fr-en"]
    assert (pairs["en-fr"].mean_rank, pairs["en-fr"].first) == (2.0, pytest.approx(1 / 3, abs=1e-4))


def test_a_document_and_its_translations_say_the_same():
    """Same person, same number of assignments, and skills that are the same ids under labels of each language."""
    written = translated_pool(30, 1, seed=5).freelancers
    assert set(written) == set(LANGUAGES)
    names: dict[str, dict[str, set[str]]] = {language: {} for language in LANGUAGES}
    for skill, labels in builtin_taxonomy().skills.items():
        for language in LANGUAGES:
            for label in labels[language]:
                names[language].setdefault(label, set()).add(skill)
    for i in range(30):
        people = {language: written[language][i] for language in LANGUAGES}
        assert len({person.id for person in people.values()}) == 1
        assert {language for language, person in people.items() if person.language == language} == set(LANGUAGES)
        assert len({len(person.experiences) for person in people.values()}) == 1
        told = [[names[language][label] for label in person.skills] for language, person in people.items()]
        for one in told[1:]:
            assert len(one) == len(told[0])
            assert all(any(ids & other for other in told[0]) for ids in one)
    assert len({person.description for person in (written[language][0] for language in LANGUAGES)}) == 5


def test_alignment_of_a_model_stands_beside_its_untrained_towers(tiny_backbone, tmp_path):
    torch.manual_seed(0)
    matcher = Matcher.untrained(tiny_backbone, ModelSettings(layers=1, heads=4))
    with torch.no_grad():
        matcher.towers.freelancer.projection.weight.zero_()
        matcher.towers.freelancer.projection.weight[0, 0] = 1.0
    matcher.save(tmp_path / "model")
    told: list[float] = []
    report = align(tmp_path / "model", documents=12, projects=9, seed=3, progress=lambda done, *_: told.append(done))
    assert told == [1, 2, 3, 4, 5]
    assert set(report.pairs["before"]) == {f"{a}-{b}" for a in LANGUAGES for b in LANGUAGES if a != b}
    assert report.mean("after").mean_rank > report.mean("before").mean_rank, "one number says less than 32"
    assert 1 <= report.mean("before").mean_rank <= 12
    assert report.as_dict()["mean"]["before"]["mean_rank"] == report.mean("before").mean_rank
    assert set(report.gaps) == {"before", "after"}
    pool = translated_pool(12, 9, seed=3)
    for system, towers in (
        ("before", Matcher.untrained(tiny_backbone, ModelSettings(layers=1, heads=4))),
        ("after", matcher),
    ):
        people = {language: towers.encode_freelancers(them) for language, them in pool.freelancers.items()}
        languages = [project.language for project in pool.projects]
        assert report.gaps[system] == language_gap(
            towers.encode_projects(pool.projects), people, languages, pool.relevant, 3
        )
    assert report.gaps["before"] != report.gaps["after"]
    gap = report.as_dict()["gaps"]["before"]
    assert gap["gap"] == pytest.approx(gap["own"] - gap["other"], abs=2e-4)
    assert gap["interval"][0] <= gap["gap"] <= gap["interval"][1]
    with pytest.raises(ConfigError, match="2 documents or more"):
        align(tmp_path / "model", documents=1, projects=1, seed=3)
