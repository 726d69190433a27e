"""Hard negatives: a running top-k that equals the whole ranking, guards, report, and the sampler that draws them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from quickstart_helpers import skillmatch_here

from skillmatch_ray.config import MiningSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.pipeline.vectors import Place, VectorKey, open_vectors, write_manifest, write_part
from skillmatch_ray.relations import Relations
from skillmatch_ray.split import Split
from skillmatch_ray.training.mining import Candidates, Picker, mine_negatives
from skillmatch_ray.training.negatives import NEGATIVES_FILE, read_negatives, write_negatives
from skillmatch_ray.training.setup import History, build_sampler, read_history


@pytest.mark.parametrize("keep", [1, 7, 60])
def test_a_running_top_k_over_shards_in_any_order_is_the_top_k_of_all(keep):
    rng = np.random.default_rng(keep)
    scores = rng.integers(0, 20, size=(5, 50)).astype(np.float32)  # many ties
    best = Candidates.none(5, keep)
    for shard in np.array_split(rng.permutation(50), 6):
        best = best.merge(np.broadcast_to(shard, (5, len(shard))), scores[:, shard])
    for p in range(5):
        expected = sorted(range(50), key=lambda i: (-scores[p, i], i))[:keep]
        found = [row for row in best.rows[p].tolist() if row >= 0]
        assert found == expected
        assert best.scores[p, : len(found)].tolist() == [scores[p, i] for i in expected]


def test_guards_by_hand():
    """By rank: before the band, known +, known -, copy of the +, above 0.95 x 0.8 = 0.76, taken, its copy, taken."""
    ids = ["first", "good", "bad", "twin", "close", "hard", "hard-twin", "softer", "enough"]
    contents = ["c0", "same", "c2", "same", "c4", "c5", "c5", "c7", "c8"]
    manifest = pa.table({"freelancer_id": ids, "content_hash": contents})
    settings = MiningSettings(relative_margin=0.05, per_project=2)
    picker = Picker(settings, Relations({"p": {"good": 1, "bad": -1}}), manifest, first=1)
    scores = np.array([0.99, 0.8, 0.79, 0.78, 0.77, 0.76, 0.75, 0.5, 0.4], dtype=np.float32)
    taken = picker.pick("p", np.arange(9), scores, [0.8])
    assert [(row["freelancer_id"], row["rank"]) for row in taken] == [("hard", 6), ("softer", 8)]
    report = picker.report(1, (2, 9))
    assert report.skipped == {
        "above_margin": 1,
        "before_the_band": 1,
        "copy_of_a_positive_or_taken_one": 2,
        "enough_taken": 1,
        "known_positive": 1,
        "stated_negative": 1,
    }
    assert (report.taken, report.starved) == (2, 0)
    assert report.scores["positives"]["50%"] == pytest.approx(0.8)
    assert report.scores["taken"]["0%"] == pytest.approx(0.5)


def test_a_margin_below_a_negative_score_is_below_it():
    picker = Picker(
        MiningSettings(relative_margin=0.5), Relations({}), pa.table({"freelancer_id": [], "content_hash": []}), 0
    )
    assert picker._limit([-0.2]) == pytest.approx(-0.3)
    assert picker._limit([]) == float("inf")


def stored(root: Path, vectors: np.ndarray, parts: int) -> None:
    """Vectors of freelancers f000, f001, ... in several parts, each with a dead row in front."""
    open_vectors(root, "space", vectors.shape[1])
    live = {}
    for rows in np.array_split(np.arange(len(vectors)), parts):
        keys = [("dead", f"old{rows[0]}", "r"), *((f"f{i:03d}", f"c{i}", "r") for i in rows)]
        before = set(root.glob("part-*.parquet"))
        write_part(root, keys, np.concatenate([np.ones((1, vectors.shape[1])), vectors[rows]]).astype(np.float32))
        (new,) = set(root.glob("part-*.parquet")) - before
        live |= {VectorKey(f, c): (Place(new.name, n), "r") for n, (f, c, _) in enumerate(keys) if f != "dead"}
    write_manifest(root, live)


def unit(rng, rows):
    vectors = rng.normal(size=(rows, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.ray_local
def test_mining_on_ray_is_a_plain_ranking_with_the_guards(ray_session, tiny_config, tmp_path):
    rng = np.random.default_rng(0)
    people, briefs = unit(rng, 90), unit(rng, 3)
    stored(tmp_path / "vectors", people, parts=4)
    relations = Relations({"p0": {"f003": 1, "f004": -1}, "p1": {"f010": 1}, "p2": {"f020": 1, "f021": 1}})
    history = History(
        Split(frozenset({"p0", "p1", "p2"}), frozenset()),
        relations,
        {p: Project(project_id=p, title=p) for p in ("p0", "p1", "p2")},
        {f: Freelancer(freelancer_id=f, headline=f) for f in ("f003", "f004", "f010", "f020", "f021")},
    )
    mining = MiningSettings(from_share=0.05, to_share=0.5, relative_margin=0.1, per_project=5)
    config = tiny_config.model_copy(update={"mining": mining})
    report = mine_negatives(config, history, ["p0", "p1", "p2"], briefs, tmp_path / "vectors", tmp_path / "out")
    found = read_negatives(tmp_path / "out" / NEGATIVES_FILE)
    for j, project in enumerate(("p0", "p1", "p2")):
        scores = people @ briefs[j]
        positive = np.mean([scores[int(f[1:])] for f in relations.positives(project)])
        order = [int(i) for i in np.argsort(-scores, kind="stable")][round(0.05 * 90) : 45]
        limit = positive - 0.1 * abs(positive)
        expected = [f"f{i:03d}" for i in order if f"f{i:03d}" not in relations.signs[project] and scores[i] <= limit]
        assert found.get(project, []) == expected[:5], project
    assert report.taken == sum(map(len, found.values()))
    assert report.band == (5, 45)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["taken"] == report.taken


def test_the_sampler_draws_mined_negatives_and_none_that_has_become_a_positive(tiny_config, tiny_dataset, tmp_path):
    dataset = Dataset(Path(tiny_dataset))
    plain = read_history(dataset, tiny_config)
    project = build_sampler(tiny_config, plain).projects[0]
    good = plain.relations.positives(project)[0]
    unknown = sorted({f.id for f in dataset.freelancers()} - set(plain.relations.signs[project]))[:3]
    rows = [
        {"project_id": project, "freelancer_id": f, "rank": i + 1, "score": 0.5} for i, f in enumerate([good, *unknown])
    ]
    write_negatives(tmp_path / "negatives.parquet", rows)
    training = tiny_config.training.model_copy(
        update={"mined_negatives": tmp_path / "negatives.parquet", "mined_per_project": 3}
    )
    config = tiny_config.model_copy(update={"training": training})
    history = read_history(dataset, config)
    assert list(history.mined[project]) == unknown
    sampler = build_sampler(config, history)
    batch = next(b for b in map(sampler.batch, range(sampler.steps_per_epoch)) if project in b.project_ids)
    assert set(unknown) <= set(batch.freelancer_ids)
    row = batch.signs[batch.project_ids.index(project)]
    assert all(row[batch.freelancer_ids.index(f)] <= 0 for f in unknown)


@pytest.mark.e2e
def test_what_the_verb_mines_can_be_trained_on_from_the_directory_of_the_call(
    ray_session, tiny_workspace, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_workspace.root, "workspace")
    (model,) = Path("workspace/models").iterdir()
    common = ("--workspace", "workspace", "--config", tiny_workspace.config, "--dataset", "workspace/dataset")
    anywhere = ("--set", "mining.from_share=0", "--set", "mining.to_share=1", "--set", "mining.relative_margin=0")
    mined = skillmatch_here("mine", *common, "--model", model, "--out", "mined", "--report", "mine.json", *anywhere)
    assert mined.returncode == 0, mined.stderr
    assert json.loads(Path("mine.json").read_text())["taken"] > 0
    (setting,) = (
        word for word in (mined.stdout + mined.stderr).split() if word.startswith("training.mined_negatives=")
    )
    trained = skillmatch_here("train", *common, "--model", "model", "--set", setting, "--set", "training.steps=2")
    assert trained.returncode == 0, trained.stderr
    assert Path("model/model.safetensors").is_file()


def test_a_missing_file_of_negatives_stops_the_verb_before_it_encodes(tmp_path, tiny_dataset):
    missing = f"training.mined_negatives={tmp_path / 'none.parquet'}"
    done = skillmatch_here("train", "--dataset", tiny_dataset, "--model", tmp_path / "model", "--set", missing)
    assert done.returncode != 0
    assert "none.parquet does not exist: run `skillmatch mine`" in " ".join(done.stderr.split())


def test_a_missing_file_of_negatives_is_named(tmp_path):
    with pytest.raises(DatasetError, match="run `skillmatch mine` first"):
        read_negatives(tmp_path / "none.parquet")
