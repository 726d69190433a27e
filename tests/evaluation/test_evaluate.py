"""`evaluate` end to end on a small dataset with the tiny backbone, against an independent ranking."""

from __future__ import annotations

import json

import numpy as np
import pytest

from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import ModelSettings
from skillmatch_ray.dataset import QRELS, Dataset
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.evaluation.baselines import FLOORS, POOLING_FLOORS, Bm25, random_scorer, words
from skillmatch_ray.evaluation.encoders import TowerEncoder, encode_all, encoded_corpus
from skillmatch_ray.evaluation.evaluate import KEY_METRICS, evaluate
from skillmatch_ray.glossary import Glossary
from skillmatch_ray.model.matcher import Matcher, Towers

LANGUAGES = ("en", "fr")
TRADES = ("React developer", "pastry chef", "tax adviser", "violin teacher", "roof carpenter")


def write_table(root, name, rows):
    (root / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def freelancer(i):
    trade = TRADES[i % 5]
    return {
        "freelancer_id": f"f{i}", "headline": f"{trade} {i}", "skills": trade.split(), "language": LANGUAGES[i % 2],
        "description": "the and de " * (i % 4), "experiences": [{"title": TRADES[(i + 1) % 5]}] * (i % 3),
    }  # fmt: skip


def project(i):
    day = f"2024-01-{i + 1:02d}"
    return {
        "project_id": f"p{i}", "title": f"wanted: {TRADES[i % 5]}", "skills": [TRADES[i % 5]], "created_at": day,
        "language": LANGUAGES[i % 2], "job_category": TRADES[i % 5], "description": "the",
    }  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "dataset"
    root.mkdir()
    write_table(root, "freelancers", map(freelancer, range(30)))
    write_table(root, "projects", map(project, range(20)))
    return Dataset(root)


def judge(dataset, fits=3, without=()):
    """Of ten projects: `fits` for freelancers of their trade, grade 1 for those of the next one."""
    rows = [
        {"project_id": f"p{i}", "freelancer_id": f"f{j}", "grade": 1 if j % 5 != i % 5 or i in without else fits}
        for i in range(10)
        for j in range(30)
        if (j - i) % 5 in {0, 1}
    ]
    write_table(dataset.root, "qrels", rows)


def towers(backbone, **settings):
    return Matcher.untrained(backbone, ModelSettings(layers=0, **settings)).towers


def test_report_has_the_five_floors_with_the_promised_keys(dataset, tiny_backbone):
    judge(dataset)
    found = evaluate(dataset, tiny_backbone, {"model": towers(tiny_backbone)}).as_dict()
    assert set(found["baselines"]) == set(FLOORS) == {"random", "bm25", "e5_mean", "e5_sections", "e5_title_skills"}
    for figures in (found["model"], *found["baselines"].values()):
        assert set(KEY_METRICS) <= set(figures)
        assert all(0 <= value <= 1 for value in figures.values())
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, allow_nan=False))


def test_the_model_that_equals_a_floor_gets_its_figures(dataset, tiny_backbone):
    judge(dataset)
    same = towers(tiny_backbone, alpha=0.0, max_document_tokens=1_000_000)
    found = evaluate(dataset, tiny_backbone, {"model": same}).as_dict()
    assert found["model"] == found["baselines"]["e5_mean"]
    assert found["comparisons"]["e5_mean"]["difference"] == 0
    assert found["comparisons"]["e5_mean"]["p"] == found["comparisons"]["e5_mean"]["p_holm"] == 1


def test_map_equals_an_independent_ranking_of_the_whole_pool(dataset, tiny_backbone):
    judge(dataset)
    matcher = Matcher.untrained(tiny_backbone, ModelSettings(layers=0))
    projects, freelancers = dataset.projects()[:10], dataset.freelancers()
    scores = matcher.encode_projects(projects) @ matcher.encode_freelancers(freelancers).T
    grades = {(j.project_id, j.freelancer_id): j.grade for j in dataset.read(QRELS)}
    expected = []
    for one, row in zip(projects, scores, strict=True):
        order = np.argsort(-row, kind="stable")
        hits = [grades.get((one.id, freelancers[i].id), 0) >= 2 for i in order]
        expected.append(np.mean([sum(hits[: n + 1]) / (n + 1) for n, hit in enumerate(hits) if hit]))
    found = evaluate(dataset, tiny_backbone, {"model": matcher.towers}).as_dict()
    assert found["model"]["map"] == pytest.approx(np.mean(expected), abs=0.01)  # other padding, last bits


def test_without_a_model_the_floors_are_evaluated(dataset, tiny_backbone):
    judge(dataset)
    report = evaluate(dataset, tiny_backbone, {})
    found = report.as_dict()
    assert found["model"] is None
    assert found["comparisons"] == {}
    assert len(found["baselines"]) == 5
    assert report.render().renderables[0].row_count == 5 + 1  # and the short queries


def test_a_short_query_is_ranked_like_a_project_that_has_only_its_words(dataset, tiny_backbone, tmp_path):
    """Every other brief lists skills. The dataset of queries is evaluated as one of its own, briefs and all."""
    judge(dataset)
    listed = {f"p{i}": ["SQL", TRADES[i % 5], "dbt", "Go"] if i % 2 else [] for i in range(20)}
    rows = [{**project(i), "skills": listed[f"p{i}"]} for i in range(20)]
    write_table(dataset.root, "projects", rows)
    systems = {"model": towers(tiny_backbone)}
    found = evaluate(dataset, tiny_backbone, systems).as_dict()
    typed = Dataset(tmp_path / "typed")
    typed.root.mkdir()
    (typed.root / "freelancers.jsonl").write_text((dataset.root / "freelancers.jsonl").read_text())
    queries = [{"project_id": p, "title": " ".join(skills[:3])} for p, skills in listed.items() if skills]
    write_table(typed.root, "projects", queries)
    grades = [
        {"project_id": j.project_id, "freelancer_id": j.freelancer_id, "grade": j.grade} for j in dataset.read(QRELS)
    ]
    write_table(typed.root, "qrels", [row for row in grades if listed[row["project_id"]]])
    expected = evaluate(typed, tiny_backbone, systems).as_dict()
    assert found["short_queries"]["projects"] == expected["counts"]["projects"] == 5
    assert expected["short_queries"] == {**expected["short_queries"], "projects": 0, "systems": {}}
    for name in ("model", "bm25", "e5_mean"):
        block = found["short_queries"]["systems"][name]
        whole = expected["model"] if name == "model" else expected["baselines"][name]
        assert block["map"] == pytest.approx(whole["map"], abs=0.01)  # other padding, last bits
        assert block["difference"] == pytest.approx(block["map"] - block["map_of_briefs"], abs=1e-5)


@pytest.mark.parametrize("block", ["per_language", "per_category", "per_language_pair"])
def test_every_metric_has_a_mean_and_an_interval_in_every_group(dataset, tiny_backbone, block):
    judge(dataset)
    found = evaluate(dataset, tiny_backbone, {"model": towers(tiny_backbone)}).as_dict()
    metrics = set(found["model"])
    for group in found[block].values():
        assert set(group) == {"projects", "intervals", *metrics}
        assert all(set(group[metric]) == {"model", *FLOORS} for metric in metrics)
        for system, bounds in group["intervals"].items():
            assert set(bounds) == metrics
            for metric, interval in bounds.items():
                assert (interval is None) == (group["projects"] < 5)
                assert interval is None or interval[0] <= group[metric][system] <= interval[1]


def test_projects_without_a_relevant_freelancer_are_left_out_and_counted(dataset, tiny_backbone):
    judge(dataset, without={2, 3, 4})
    counts = evaluate(dataset, tiny_backbone, {}).as_dict()["counts"]
    assert (counts["projects"], counts["projects_without_relevant"]) == (7, 3)


def test_nothing_relevant_is_an_error_that_names_the_dataset(dataset, tiny_backbone):
    judge(dataset, fits=1)
    with pytest.raises(DatasetError, match=str(dataset.root)):
        evaluate(dataset, tiny_backbone, {})


def test_of_a_history_the_held_out_projects_are_evaluated(dataset, tiny_backbone):
    """20 projects, the latest 15 % = 3 are held out; only outcomes that speak for the skills make relevance."""
    outcomes = ("selected", "declined_price", "company_declined_skills")
    pairs = [(i, j) for i in range(20) for j in range(9)]
    rows = [{"project_id": f"p{i}", "freelancer_id": f"f{j}", "outcome": outcomes[j % 3]} for i, j in pairs]
    write_table(dataset.root, "interactions", rows)
    found = evaluate(dataset, tiny_backbone, {}).as_dict()
    assert found["settings"]["truth"] == "interactions"
    assert found["counts"]["projects"] == 3
    assert found["counts"]["relevant_pairs"] == 3 * 3


def test_named_held_out_sets_become_subsets(dataset, tiny_backbone):
    judge(dataset)
    held_out = {"later": ["p8", "p9"], "occupations": ["p1"]}
    (dataset.root / "sample.json").write_text(json.dumps({"held_out_projects": held_out}))
    subsets = evaluate(dataset, tiny_backbone, {}).as_dict()["subsets"]
    assert {name: block["projects"] for name, block in subsets.items()} == {"later": 2, "occupations": 1}


def test_a_language_pair_ranks_only_freelancers_of_that_language(dataset, tiny_backbone):
    """Every French freelancer is relevant: among them alone any ranking is perfect, random too."""
    rows = [{"project_id": "p0", "freelancer_id": f"f{j}", "grade": 2} for j in range(1, 30, 2)]
    write_table(dataset.root, "qrels", rows)
    found = evaluate(dataset, tiny_backbone, {}).as_dict()
    assert list(found["per_language_pair"]) == ["en-fr"]
    assert set(found["per_language_pair"]["en-fr"]["map"].values()) == {1.0}
    assert found["baselines"]["random"]["map"] < 1


def test_stored_states_give_the_figures_of_computed_ones(dataset, tiny_backbone, tmp_path):
    store = TokenStateStore(tmp_path / "store", tiny_backbone.fingerprint, tiny_backbone.dim)
    half = dataset.freelancers()[:15]
    texts = list(dict.fromkeys("passage: " + section.text for f in half for section in f.sections()))
    store.add(texts, tiny_backbone.encode(texts))
    systems = {name: Towers(settings, tiny_backbone.dim).eval() for name, settings in POOLING_FLOORS.items()}
    stored, computed = (
        encode_all([TowerEncoder(tiny_backbone, systems, states)], "freelancer", dataset.freelancers())
        for states in (store, None)
    )
    for name in systems:
        np.testing.assert_allclose(stored[name], computed[name], atol=2e-3)  # the store holds half precision


def test_one_pass_for_all_encoders_equals_each_on_its_own(dataset, tiny_backbone, monkeypatch):
    """Blocks of 7, and encoders that number and choose their section types differently."""
    monkeypatch.setattr("skillmatch_ray.evaluation.encoders.BLOCK_DOCUMENTS", 7)
    settings = {
        "all": ModelSettings(layers=0),
        "some": ModelSettings(layers=0, section_types=("skills", "headline"), alpha=0.5),
        "none": ModelSettings(layers=0, section_types=("title",)),
    }
    matchers = {name: Matcher.untrained(tiny_backbone, chosen) for name, chosen in settings.items()}
    done = []
    encoder = TowerEncoder(tiny_backbone, {n: m.towers for n, m in matchers.items()})
    found = encode_all([encoder], "freelancer", dataset.freelancers(), lambda block: done.append(len(block)))
    assert done == [7, 7, 7, 7, 2]
    for name, matcher in matchers.items():
        np.testing.assert_allclose(found[name], matcher.encode_freelancers(dataset.freelancers()), atol=1e-5)
    assert not found["none"].any()
    with encoded_corpus([encoder], "freelancer", iter(dataset.freelancers())) as mapped:
        for name, vectors in found.items():
            assert np.array_equal(mapped[name], vectors)


def test_bm25_finds_shared_words_of_any_script_and_case(dataset):
    documents = dataset.freelancers()
    written = documents[0].model_copy(update={"headline": "РАЗРАБОТЧИК für Straßenbau", "skills": ()})
    asked = dataset.projects()[0].model_copy(update={"title": "разработчик", "skills": (), "description": None})
    silent = asked.model_copy(update={"title": "!!!"})
    index = Bm25([asked, silent])
    index.add([*documents[1:], written])
    scores = index.scorer()(0, 30)
    assert scores[0].argmax() == 29
    assert np.count_nonzero(scores[0]) == 1
    assert not scores[1].any()


def test_floors_are_told_the_concepts_of_the_glossary(dataset, tiny_backbone):
    """Briefs in French, freelancers in English, no word in common: BM25 is perfect with a glossary only."""
    french = ("fleur", "gateau", "impot", "violon", "toit")
    concepts = tuple({"en": (trade,), "fr": (name,)} for trade, name in zip(TRADES, french, strict=True))
    rows = [
        {**project(i), "title": "cherche", "skills": [french[i % 5]], "description": None, "language": "fr"}
        for i in range(20)
    ]
    write_table(dataset.root, "projects", rows)
    people = [{**freelancer(i), "experiences": [], "language": "en"} for i in range(30)]
    write_table(dataset.root, "freelancers", people)
    grades = [
        {"project_id": f"p{i}", "freelancer_id": f"f{j}", "grade": 3}
        for i in range(10)
        for j in range(30)
        if i % 5 == j % 5
    ]
    write_table(dataset.root, "qrels", grades)
    known = evaluate(dataset, tiny_backbone, {}, glossary=Glossary(concepts)).as_dict()["baselines"]
    unknown = evaluate(dataset, tiny_backbone, {}).as_dict()["baselines"]
    assert known["bm25"]["map"] == 1
    assert unknown["bm25"]["map"] < 0.5
    assert known["e5_sections"]["map"] > unknown["e5_sections"]["map"]
    assert known["e5_title_skills"] == unknown["e5_title_skills"]


def test_bm25_agrees_with_an_independent_library(dataset):
    """Repeated words, words that nobody has, and blocks that cut the corpus anywhere."""
    import bm25s

    freelancers, projects = dataset.freelancers(), dataset.projects()
    projects[0] = projects[0].model_copy(update={"title": "react React REACT nobody-has-this"})
    numbers = {}
    corpus = [[numbers.setdefault(word, len(numbers)) for word in words(document)] for document in freelancers]
    index = bm25s.BM25()
    index.index((corpus, numbers), show_progress=False)
    asked = [[numbers[word] for word in words(project) if word in numbers] for project in projects]
    expected = np.array([index.get_scores_from_ids(ids) for ids in asked])
    ours = Bm25(projects)
    for start in range(0, 30, 11):
        ours.add(freelancers[start : start + 11])
    score = ours.scorer()
    np.testing.assert_allclose(np.concatenate([score(0, 7), score(7, 30)], axis=1), expected, atol=1e-5)


def test_random_floor_is_seeded():
    first, again, other = (random_scorer(3, 5000, seed) for seed in (1, 1, 2))
    assert (first(0, 5000) == again(0, 5000)).all()
    assert (first(0, 5000) != other(0, 5000)).any()


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1000, 1030), (1024, 2048), (3000, 5000)])
def test_random_floor_has_the_same_scores_in_any_block(start, end):
    score = random_scorer(3, 5000, 0)
    assert (score(start, end) == score(0, 5000)[:, start:end]).all()
