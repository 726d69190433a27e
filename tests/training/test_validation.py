"""Validation figures, apart by time and by cold start."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.evaluation.metrics import average_precision
from skillmatch_ray.relations import Relations
from skillmatch_ray.split import Split
from skillmatch_ray.training.setup import History, build_model, read_history, state_source
from skillmatch_ray.training.validation import METRICS, Validator


def no_states(documents):
    raise AssertionError("nothing here needs token states")


def project(name, day, skills):
    return Project(project_id=name, title=name, skills=skills, created_at=dt.datetime(2025, 1, day, tzinfo=dt.UTC))


def small_history():
    """Training ends on day 10 and knows react, sql and (by a freelancer) seo; v1 to v3 validate."""
    projects = [
        project("t", 1, ["React"]),
        project("v1", 9, ["react", "SQL"]),
        project("v2", 20, ["SEO"]),
        project("v3", 21, ["welding", "sql"]),
        project("v4", 22, ["piano"]),
    ]
    people = [
        Freelancer(freelancer_id="f", headline="x", skills=["sql", "Seo"]),
        Freelancer(freelancer_id="g", headline="y"),
    ]
    return History(
        Split(frozenset({"t"}), frozenset({"v1", "v2", "v3", "v4"})),
        Relations({"t": {"f": 1}, "v1": {"f": 1}, "v2": {"g": 1}, "v3": {"g": 1}, "v4": {"g": -1}}),
        {p.id: p for p in projects},
        {p.id: p for p in people},
        dt.datetime(2025, 1, 10, tzinfo=dt.UTC),
    )


def test_sets_by_hand():
    validator = Validator(small_history(), no_states)
    assert validator.queries == ["v1", "v2", "v3"], "v4 has no positive"
    assert validator.sets == {"later": [1, 2], "unseen_skills": [2]}


def test_figures_are_those_of_the_rankings(tiny_config, tiny_dataset, tiny_store):
    source, dim = state_source(tiny_config, tiny_store)
    history = read_history(Dataset(Path(tiny_dataset)), tiny_config)
    validator, model = Validator(history, source), build_model(tiny_config, dim).eval()
    figures = validator(model)
    assert set(figures) == set(validator.names) >= set(METRICS)
    people = [history.freelancers[f] for f in validator.pool]
    queries = [history.projects[p] for p in validator.queries]
    scores = model.towers.encode("project", source(queries)) @ model.towers.encode("freelancer", source(people)).T
    expected = []
    for row, query in zip(scores, queries, strict=True):
        ranked = np.argsort(np.argsort(-row, kind="stable"), kind="stable") + 1
        good = [validator.pool.index(f) for f in history.relations.positives(query.id)]
        expected.append(average_precision(ranked[good]))
    assert figures["map"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_figure_that_does_not_exist_is_named_with_the_nearest():
    validator = Validator(small_history(), no_states)
    validator.check("later/ndcg@10")
    with pytest.raises(ConfigError, match="did you mean 'later/map'"):
        validator.check("latest/map")


def test_without_validation_projects_there_are_no_figures(tiny_config, tiny_dataset, tiny_store):
    config = tiny_config.model_copy(
        update={"training": tiny_config.training.model_copy(update={"validation_share": 0})}
    )
    source, dim = state_source(config, tiny_store)
    validator = Validator(read_history(Dataset(Path(tiny_dataset)), config), source)
    assert validator(build_model(config, dim)) == {}
    validator.check("map")
