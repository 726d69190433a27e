"""Releases: built, refused by the gate, switched, rolled back, brought up to date, compacted and pruned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from index_helpers import (
    DIM,
    FINGERPRINT,
    World,
    clustered,
    make_world,
    random_rows,
    write_model,
    write_rows,
    write_vectors,
)

from skillmatch_ray.config import MilvusSettings
from skillmatch_ray.dataset import FREELANCERS, TableReport
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import DatasetError, FingerprintError, LockedError, MilvusError, ReleaseError
from skillmatch_ray.index.backend import Backend
from skillmatch_ray.index.compaction import compact
from skillmatch_ray.index.gate import ExactTop, GoldenQuery
from skillmatch_ray.index.living import living
from skillmatch_ray.index.release import ReleaseStore
from skillmatch_ray.index.releases import (
    activate,
    active_release,
    build_release,
    list_releases,
    prune,
    rollback,
    status,
    update_release,
)
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.pipeline.vectors import read_vectors

EACH = pytest.mark.parametrize("milvus", ["lite", "server", "lite-server"], indirect=True)
"""On every backend in the default run; the others run on the servers when slow tests do."""


def found(world: World, query: int = 0) -> str:
    """Whom the active release finds for the vector of one of the world's rows."""
    with Retriever(world.config) as retriever:
        return retriever.search(world.vectors[query], top_k=1, fingerprint=FINGERPRINT).candidates[0].freelancer_id


def change(world: World, rows: list[Freelancer], vectors: np.ndarray) -> None:
    """Another dataset with its vectors, as after `skillmatch encode`."""
    write_rows(world.workspace.dataset, [row.model_dump(mode="json") for row in rows])
    write_vectors(world.vectors_dir, rows, vectors)
    world.rows, world.vectors = rows, vectors


@EACH
def test_the_life_of_releases(world: World) -> None:
    with pytest.raises(ReleaseError, match="no active release"):
        active_release(world.workspace)
    with pytest.raises(ReleaseError, match="no earlier release"):
        rollback(world.workspace, world.config)
    first = world.release()
    assert (first.rows, first.validation["rows"], first.validation["recall_at_10"]) == (
        300,
        300,
        pytest.approx(1, abs=0.05),
    )
    second = world.build()
    assert active_release(world.workspace).name == first.name  # built, not yet active
    activate(world.workspace, second.name, world.config)
    assert active_release(world.workspace) == second
    assert rollback(world.workspace, world.config).name == first.name
    assert rollback(world.workspace, world.config).name == second.name
    third = world.release()
    assert [release.name for release in list_releases(world.workspace)] == [first.name, second.name, third.name]
    told = status(world.workspace, world.config)
    assert (told["active"]["name"], told["previous"], told["rows"]) == (third.name, second.name, 300)
    if third.kind == "server":
        assert told["alias_points_here"]
    assert prune(world.workspace, world.config, keep=5).removed == []
    done = prune(world.workspace, world.config, keep=0)
    assert (done.removed, done.left) == ([first.name], {})
    assert done.kept == {second.name: "answered before", third.name: "answers now"}
    assert not ReleaseStore(world.workspace).directory(first.name).exists()
    with pytest.raises(ReleaseError, match=second.name):
        activate(world.workspace, first.name, world.config)
    assert found(world) == world.rows[0].id
    if third.uri is not None:
        with Backend(world.config.milvus) as backend:
            assert not backend.has(first.collection)
            assert backend.has(second.collection)


def test_a_second_build_is_refused_with_the_owners_name(world: World) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(world.workspace.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(LockedError, match=rf"skillmatch reindex by .*process {holder.pid}"):
            world.build()
    finally:
        holder.communicate("")
    assert world.build().rows == 300


HOLD = """
import sys
from pathlib import Path
from skillmatch_ray.index.release import ReleaseStore
from skillmatch_ray.workspace import Workspace
with ReleaseStore(Workspace(Path(sys.argv[1]))).building("skillmatch reindex"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("setting", "reason"), [({"gate_recall": 1.0}, "recall@10"), ({}, "golden queries without their answer: hard one")]
)
def test_a_failed_gate_leaves_the_old_release(
    world: World, setting: dict[str, float], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = world.release()
    config = world.config.model_copy(update={"milvus": world.config.milvus.model_copy(update=setting)})
    if setting:
        # The answers are right; what they are compared with is made better than any index can be.
        monkeypatch.setattr(ExactTop, "recall", lambda *_: 0.5)
    golden = [] if setting else [GoldenQuery("hard one", -world.vectors[0], world.rows[0].id)]
    with pytest.raises(ReleaseError, match=reason):
        build_release(config, world.workspace, world.dataset, world.model_dir, world.vectors_dir, golden=golden)
    assert active_release(world.workspace) == old
    assert [directory.name for directory in ReleaseStore(world.workspace).indexes.glob("*/")] == [old.name]
    assert found(world) == world.rows[0].id
    if old.uri is not None:
        with Backend(world.config.milvus) as backend:
            ours = [c for c in backend.client.list_collections() if c.startswith(world.config.milvus.alias)]
            assert ours == [old.collection]


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows, vectors = random_rows(40), clustered(40)
    world = make_world(tmp_path / "w", rows, vectors)
    write_model(world.model_dir, fingerprint="b" * 64)
    with pytest.raises(FingerprintError, match="bbbbbbbbbbbb"):
        world.build()
    write_model(world.model_dir)
    write_rows(world.workspace.dataset, [*rows, {"freelancer_id": "late", "headline": "x"}])
    with pytest.raises(ReleaseError, match=r"1 of 41 freelancers .* have no vector"):
        world.build()
    write_rows(world.workspace.dataset, [{**rows[0], "headline": "other"}, *rows[1:]])
    with pytest.raises(ReleaseError, match=r"'f000000'.*another text"):
        world.build()
    write_rows(world.workspace.dataset, [])
    with pytest.raises(ReleaseError, match="no freelancer to index"):
        world.build()
    with pytest.raises(DatasetError, match="skillmatch encode"):
        build_release(world.config, world.workspace, world.dataset, world.model_dir, tmp_path / "none")


@pytest.mark.parametrize("factor", [2.0, np.inf])
def test_vectors_that_would_poison_the_index_are_refused(tmp_path: Path, factor: float) -> None:
    from skillmatch_ray.index.source import check_vectors

    vectors = clustered(5)
    vectors[3] *= factor
    with pytest.raises(ReleaseError, match="'c3'"):
        check_vectors([f"c{i}" for i in range(5)], vectors)
    vectors[3] = 0  # a document without tokens
    check_vectors([f"c{i}" for i in range(5)], vectors)


def test_an_index_in_use_names_its_owner_and_the_way_around(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", random_rows(50), clustered(50))
    release = world.release()
    with Retriever(world.config):
        with pytest.raises(LockedError, match=r"searching release .*process \d+.*--url"):
            Retriever(world.config)
        assert "searching" in status(world.workspace, world.config)["in_use"]
        other = world.build()
        activate(world.workspace, other.name, world.config)  # the switch needs no lock of the old index
        activate(world.workspace, release.name, world.config)  # nor of one that somebody else has open
        assert active_release(world.workspace).name == release.name
    Retriever(world.config).close()


def test_a_release_that_is_searched_stays_and_the_others_go(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", random_rows(50), clustered(50))
    first = world.release()
    second = world.release()
    with Retriever(world.config) as retriever:  # as a service that was not told of the next two switches
        third, fourth, fifth = world.release(), world.release(), world.build()
        activate(world.workspace, first.name, world.config)
        activate(world.workspace, fourth.name, world.config)
        done = prune(world.workspace, world.config, keep=1)
        assert (done.removed, list(done.left)) == ([third.name], [second.name])
        assert f"searching release {second.name} by" in done.left[second.name]
        assert done.kept == {
            first.name: "answered before",
            fourth.name: "answers now",
            fifth.name: "one of the 1 newest",
        }
        assert [line.partition(" ")[0] for line in done.render().splitlines()] == ["deleted", *3 * ["kept"], "left"]
        with pytest.raises(ReleaseError, match=second.name):
            done.check()
        assert retriever.get("f000003") is not None
    done = prune(world.workspace, world.config, keep=0)
    assert (done.removed, done.left) == ([second.name, fifth.name], {})
    done.check()


def test_a_server_that_is_gone_is_told_in_bounded_time(tmp_path: Path) -> None:
    gone = MilvusSettings(uri="http://127.0.0.1:1", timeout_s=2)
    with pytest.raises(MilvusError, match=r"no Milvus at http://127.0.0.1:1"):
        Backend(gone)
    world = make_world(tmp_path / "w", random_rows(20), clustered(20), gone)
    with pytest.raises(MilvusError, match=r"127\.0\.0\.1:1"):
        world.build()


def test_a_rebuild_holds_online_changes_and_deletes_never_come_back(world: World) -> None:
    world.release()
    newcomer = Freelancer(freelancer_id="new", headline="n")
    vector = clustered(1, seed=20)[0]
    with Retriever(world.config) as retriever:
        retriever.upsert(newcomer, vector, fingerprint=FINGERPRINT)
        retriever.delete("f000000")
        changed = world.rows[1].model_copy(update={"headline": "changed online"})
        retriever.upsert(changed, world.vectors[1], fingerprint=FINGERPRINT)
    release = world.release()
    assert release.rows == 300
    with Retriever(world.config) as retriever:
        assert retriever.get("new") is not None
        assert retriever.get("f000000") is None
        assert retriever.get("f000001")[1]["headline"] == "changed online"  # type: ignore[index]


def test_a_release_catches_up_before_it_answers(world: World) -> None:
    """Changes after the build, and a rollback to an index that never saw the delete."""
    first = world.release()
    second = world.build()
    with Retriever(world.config) as retriever:
        retriever.delete("f000002")
    activate(world.workspace, second.name, world.config)
    with Retriever(world.config) as retriever:
        assert retriever.get("f000002") is None
        retriever.delete("f000003")
    compact(world.config, world.workspace, world.dataset)  # from here on the journal knows only hashes
    assert rollback(world.workspace, world.config).name == first.name
    with Retriever(world.config) as retriever:
        assert retriever.get("f000002") is None
        assert retriever.get("f000003") is None


def test_only_what_changed_is_written(world: World) -> None:
    world.release()
    rows, vectors = list(world.rows), world.vectors.copy()
    rows[5] = rows[5].model_copy(update={"daily_rate_eur": 77.0})
    rows[6] = rows[6].model_copy(update={"headline": "another text"})
    vectors[6] = -vectors[6]
    newcomer = Freelancer(freelancer_id="new", headline="n")
    change(world, [*rows[:-2], newcomer], np.concatenate([vectors[:-2], clustered(1, seed=33)]))
    report = update_release(world.config, world.workspace, world.dataset)
    assert (report.upserted, report.deleted, report.unchanged) == (3, 2, 296)
    assert update_release(world.config, world.workspace, world.dataset).upserted == 0
    with Retriever(world.config) as retriever:
        assert retriever.get("f000005")[1]["daily_rate_eur"] == 77.0  # type: ignore[index]
        np.testing.assert_allclose(retriever.get("f000006")[0], vectors[6], atol=1e-6)  # type: ignore[index]
        assert retriever.get("f000299") is None
        assert retriever.get("new") is not None


def test_compaction_erases_a_deleted_person(tmp_path: Path) -> None:
    from skillmatch_ray.backbone.encoder import TokenStates
    from skillmatch_ray.backbone.store import TokenStateStore

    rows = random_rows(60)
    rows[4] = {**rows[4], "headline": "only mine", "skills": ["shared"]}
    rows[5] = {**rows[5], "skills": ["shared"]}
    world = make_world(tmp_path / "w", rows, clustered(60))
    texts = ["passage: only mine", "passage: shared", "passage: expert 3", "passage: their concept"]
    import torch

    (tmp_path / "names.jsonl").write_text('{"en": ["their concept"], "de": ["only mine"]}')
    config = world.config.model_copy(update={"glossary": (str(tmp_path / "names.jsonl"),)})
    states = torch.arange(7 * 4, dtype=torch.float32).reshape(7, 4)
    store = TokenStateStore(world.workspace.token_states, "t" * 64, 4)
    store.add(texts, TokenStates(states, np.array([0, 1, 3, 6, 7])))
    world.release()
    with Retriever(world.config) as retriever:
        retriever.delete("f000004")
    report = compact(config, world.workspace, world.dataset)
    assert (report.vectors, report.sections, report.waiting) == (1, 2, ())
    assert report.holding == (active_release(world.workspace).name,)
    assert report.holding[0] in report.render()
    ids = [freelancer for table in read_vectors(world.vectors_dir) for freelancer in table[0].to_pylist()]
    assert sorted(ids) == [row.id for row in world.rows if row.id != "f000004"]
    for part in world.vectors_dir.glob("part-*.parquet"):
        assert b"f000004" not in part.read_bytes()
    assert "f000004" not in ReleaseStore(world.workspace).journal.path.read_text()
    again = TokenStateStore(world.workspace.token_states, "t" * 64, 4)
    assert [text in again for text in texts] == [False, True, True, False]
    np.testing.assert_array_equal(again.get("passage: shared").numpy(), states[1:3].numpy())
    np.testing.assert_array_equal(again.get("passage: expert 3").numpy(), states[3:6].numpy())
    assert compact(world.config, world.workspace, world.dataset).vectors == 0
    assert world.release().rows == 59  # the dataset still has them; they do not come back
    assert world.release().rows == 59
    prune(world.workspace, world.config, keep=0)
    assert compact(world.config, world.workspace, world.dataset).holding == ()
    counted = TableReport("freelancers")
    assert "f000004" not in [
        row.freelancer_id for row in living(world.workspace, world.dataset).read(FREELANCERS, counted)
    ]
    assert (counted.rows, counted.good) == (59, 59)


def test_changes_of_another_model_are_encoded_anew(tmp_path: Path, tiny_backbone, tiny_settings) -> None:  # type: ignore[no-untyped-def]
    """A journal written under one model, an index built by the next."""
    from skillmatch_ray.config import ModelSettings
    from skillmatch_ray.model.matcher import Matcher

    world = make_world(tmp_path / "w", random_rows(30), clustered(30))
    newcomer = Freelancer(freelancer_id="new", headline="react developer", skills=("react",))
    ReleaseStore(world.workspace).journal.upsert(newcomer, clustered(1)[0], "another model" * 4)
    matcher = Matcher.untrained(tiny_backbone, ModelSettings(layers=0))
    matcher.save(world.workspace.models / "real")
    vectors = matcher.encode_freelancers(world.rows)
    assert vectors.shape[1] == DIM
    root = write_vectors(world.workspace.vectors(matcher.fingerprint), world.rows, vectors, matcher.fingerprint)
    release = build_release(world.config, world.workspace, world.dataset, world.workspace.models / "real", root)
    activate(world.workspace, release.name, world.config)
    with Retriever(world.config) as retriever:
        stored = retriever.get("new")
        assert stored is not None
        np.testing.assert_allclose(stored[0], matcher.encode_freelancers([newcomer])[0], atol=1e-5)


def test_a_workspace_may_be_moved(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", random_rows(20), clustered(20))
    world.release()
    (tmp_path / "w").rename(tmp_path / "moved")
    moved = World(world.config.model_copy(update={"workspace": tmp_path / "moved"}), world.rows, world.vectors)
    assert active_release(moved.workspace).model_dir == (tmp_path / "moved" / "models" / "m")
    assert found(moved) == world.rows[0].id
