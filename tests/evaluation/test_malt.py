"""The public benchmark's files: read, converted, and ranked by the real WorkRB with the same figures as ours.

The data is made up; its schema is the one that workrb 0.6.0 reads.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import workrb
from datasets import Dataset as HubDataset
from typer.testing import CliRunner
from workrb.tasks import ProjectCandidateRanking, SearchQueryCandidateRanking
from workrb.types import ExecutionMode, LanguageAggregationMode, ModelInputType

from skillmatch_ray.cli import app
from skillmatch_ray.config import ModelSettings
from skillmatch_ray.dataset import QRELS, Dataset
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.evaluate import evaluate
from skillmatch_ray.evaluation.malt import import_benchmark, read_benchmark
from skillmatch_ray.evaluation.workrb import SkillMatchModel, freelancer_of, project_of
from skillmatch_ray.model.matcher import Matcher

LANGUAGES = ("en", "de", "es", "fr", "nl")
WORDS = ("react", "sql", "docker", "seo", "tax law", "welding", "piano", "budget", "training", "video", "audit")
OURS = {"map": "map", "rp@5": "r_precision@5", "rp@10": "r_precision@10", "mrr": "mrr"}


def profile(i, rng):
    skills = [str(w) for w in rng.choice(WORDS, 3, replace=False)]
    past = {"title": f"work {i}", "description": f"did {skills[0]} {i}", "skills": skills[:2]}
    return {
        "profile_id": f"c{i}", "headline": f"expert {i} in {skills[0]}", "language": LANGUAGES[i % 5],
        "description": f"about {skills[1]}\n\nand {skills[2]}", "skills": skills, "soft_skills": ["calm"],
        "experiences": [past] * (i % 3),
    }  # fmt: skip


def fit(rng, words, skills):
    """High where a word of the query is among the skills; scores lie on both sides of 0.8, some at it."""
    return 0.8 + 0.1 * rng.integers(0, 2) if set(words) & set(skills) else float(rng.uniform(0, 0.79))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Parquet, JSON Lines and a folder of parts, as a download may have them."""
    root, rng = tmp_path_factory.mktemp("malt"), np.random.default_rng(0)
    profiles = [profile(i, rng) for i in range(40)]
    asked = [[str(w) for w in rng.choice(WORDS, 2, replace=False)] for _ in range(8)]
    briefs = [
        {"brief_id": 100 + i, "title": f"need {a}", "description": f"help with {a}\n\n{b}"}
        for i, (a, b) in enumerate(asked)
    ]
    queries = [{"query_id": f"q{i}", "value": " ".join(words)} for i, words in enumerate(asked)]

    def scores(key, ids):
        return [
            {key: one, "profile_id": p["profile_id"], "score": fit(rng, words, p["skills"])}
            for one, words in zip(ids, asked, strict=True)
            for p in profiles
        ]

    tables = {
        "profiles": profiles, "briefs": briefs, "queries": queries,
        "brief_scores": scores("brief_id", [b["brief_id"] for b in briefs]),
        "query_scores": scores("query_id", [q["query_id"] for q in queries]),
    }  # fmt: skip
    for name in ("briefs", "profiles"):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, tables[name])))
    pq.write_table(pa.Table.from_pylist(tables["queries"]), root / "queries.parquet")
    for name in ("brief_scores", "query_scores"):
        (root / name).mkdir()
        rows = pa.Table.from_pylist(tables[name])
        pq.write_table(rows[:100], root / name / "test-00000-of-00002.parquet")
        pq.write_table(rows[100:], root / name / "test-00001-of-00002.parquet")
    return root, tables


@pytest.fixture(scope="module")
def model_dir(tiny_backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "head"
    Matcher.untrained(tiny_backbone, ModelSettings(layers=0)).save(path)
    return path


def test_rows_are_mapped_to_ours(files):
    root, tables = files
    briefs, queries = read_benchmark(root)
    assert [p.id for p in briefs.projects] == [str(b["brief_id"]) for b in tables["briefs"]]
    assert [f.id for f in briefs.freelancers] == [p["profile_id"] for p in tables["profiles"]]
    assert {p.language for p in (*briefs.projects, *queries.projects)} == {"en"}
    first = briefs.freelancers[1]
    assert (first.skills, first.soft_skills) == (tuple(tables["profiles"][1]["skills"]), ("calm",))
    assert first.experiences[0].title == "work 1"
    assert [section.type for section in queries.projects[0].sections()] == ["title"]


def test_relevant_is_a_score_of_at_least_eight_tenths(files):
    root, tables = files
    for benchmark, name, key in zip(
        read_benchmark(root), ("brief_scores", "query_scores"), ("brief_id", "query_id"), strict=True
    ):
        expected = {(str(row[key]), row["profile_id"]) for row in tables[name] if row["score"] >= 0.8}
        assert set(benchmark.relevant) == expected
        assert any(row["score"] == 0.8 for row in tables[name])


def test_the_converted_dataset_is_a_dataset_of_ours(files, tmp_path):
    root, _ = files
    done = CliRunner().invoke(app, ["import-benchmark", str(root), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for benchmark, name in zip(read_benchmark(root), ("briefs", "queries"), strict=True):
        written = Dataset(tmp_path / name)
        assert written.freelancers() == benchmark.freelancers
        assert written.projects() == benchmark.projects
        assert {(j.project_id, j.freelancer_id, j.grade) for j in written.read(QRELS)} == {
            (*pair, 2) for pair in benchmark.relevant
        }


def test_a_missing_table_and_a_bad_row_are_named(files, tmp_path):
    with pytest.raises(DatasetError, match="profiles"):
        read_benchmark(tmp_path)
    (tmp_path / "profiles.jsonl").write_text('{"profile_id": "a", "skills": 5}')
    with pytest.raises(DatasetError, match=r"profiles\.jsonl, row 1.*skills"):
        read_benchmark(tmp_path)


def test_flattened_documents_are_what_the_adapter_sees(files, tmp_path):
    """By way of WorkRB's own strings, field by field."""
    root, tables = files
    done = CliRunner().invoke(app, ["import-benchmark", str(root), "--out", str(tmp_path), "--flattened"])
    assert done.exit_code == 0, done.output
    people = Dataset(tmp_path / "briefs").freelancers()
    for row, person in zip(tables["profiles"], people, strict=True):
        text = ProjectCandidateRanking._candidate_profile_to_str(row)
        seen = freelancer_of(text, ModelInputType.CANDIDATE_PROFILE_STRING, row["profile_id"])
        assert person == seen.model_copy(update={"language": row["language"]})
    for kind, name, text_of in (
        (ModelInputType.PROJECT_BRIEF_STRING, "briefs", ProjectCandidateRanking._input_to_str),
        (ModelInputType.SEARCH_QUERY_STRING, "queries", SearchQueryCandidateRanking._input_to_str),
    ):
        for row, project in zip(tables[name], Dataset(tmp_path / name).projects(), strict=True):
            seen = project_of(text_of(row), kind, project.id)
            assert project == seen.model_copy(update={"language": "en"})


def test_workrb_runs_and_agrees_with_our_figures(files, model_dir, tiny_backbone, tmp_path, monkeypatch):
    """Only the loading of the hub's files is replaced. Each profile language and all together, both tasks."""
    root, tables = files
    asked = []

    def load(repository, name):
        asked.append((repository, name))
        return {"test": HubDataset.from_list(tables[name])}

    monkeypatch.setattr("workrb.tasks.ranking.freelancer_project_matching.load_dataset", load)
    arguments = {"split": "test", "languages": list(LANGUAGES)}
    tasks = [ProjectCandidateRanking(**arguments), SearchQueryCandidateRanking(**arguments)]
    results = workrb.evaluate(
        SkillMatchModel(model_dir), tasks, output_folder=str(tmp_path / "results"), execution_mode=ExecutionMode.ALL,
        language_aggregation_mode=LanguageAggregationMode.SKIP_LANGUAGE_AGGREGATION,
    )  # fmt: skip
    assert {repository for repository, _ in asked} == {"MaltCompany/Freelancer-Project-Matching"}
    towers = {"model": Matcher.untrained(tiny_backbone, ModelSettings(layers=0)).towers}
    for task, dataset in zip(tasks, import_benchmark(root, tmp_path / "ours", flattened=True), strict=True):
        ours = evaluate(dataset, tiny_backbone, towers).as_dict()
        theirs = results.task_results[task.name].datasetid_results
        for theirs_name, ours_name in OURS.items():
            assert theirs["multilingual"].metrics_dict[theirs_name] == pytest.approx(ours["model"][ours_name], abs=1e-5)
            for language in LANGUAGES:
                pair = ours["per_language_pair"][f"en-{language}"]
                assert theirs[language].metrics_dict[theirs_name] == pytest.approx(
                    pair[ours_name]["model"], abs=1e-5
                ), (task.name, language, theirs_name)


def test_classification_ranks_the_labels(model_dir):
    model = SkillMatchModel(model_dir)
    scores = model.compute_classification(["react", "sql"], ["sql", "react", "piano"], ModelInputType.JOB_TITLE)
    assert scores.shape == (2, 3)
    assert model.classification_label_space is None
