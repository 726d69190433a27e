"""Encoding with Ray Data: equal to a plain loop, incremental, and every row accounted for."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_helpers import assert_same_vectors, profiles, spilled_bytes, vectors_by_id, write_freelancers

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import ConfigError, DatasetError, FingerprintError
from skillmatch_ray.glossary import Glossary
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.pipeline.encode import QUARANTINE_FILE, STAGES, EncodeReport, encode_freelancers
from skillmatch_ray.pipeline.session import share_gpus
from skillmatch_ray.pipeline.token_states import cache_token_states, section_texts
from skillmatch_ray.pipeline.vectors import read_manifest
from skillmatch_ray.stages import encode_vectors

pytestmark = [pytest.mark.ray_local, pytest.mark.usefixtures("ray_session")]
MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """200 rows, one of them without a headline, one a duplicate."""
    made = profiles(199)
    made[3]["headline"] = ""
    return [*made, made[5] | {"headline": "an impostor"}]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Dataset:
    """The rows, and a line that is not JSON."""
    root = write_freelancers(tmp_path_factory.mktemp("data"), rows)
    with (root / "freelancers.jsonl").open("a", encoding="utf-8") as file:
        file.write("not json\n")
    return Dataset(root)


@dataclass(frozen=True)
class Run:
    """A finished encoding."""

    out: Path
    report: EncodeReport
    notes: list[tuple[float, float, str]]
    spilled: int

    def copy_to(self, target: Path) -> Path:
        return Path(shutil.copytree(self.out, target))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset, model_dir: Path, make_config: MakeConfig) -> Run:
    """One worker over the dataset."""
    out = tmp_path_factory.mktemp("vectors") / "out"
    notes: list[tuple[float, float, str]] = []
    config, before = make_config(max_bad_share=0.1), spilled_bytes()
    report = encode_freelancers(config, dataset, model_dir, out, progress=lambda *note: notes.append(note))
    return Run(out, report, notes, spilled_bytes() - before)


def test_the_pipeline_equals_a_plain_loop(run: Run, dataset: Dataset, model_dir: Path) -> None:
    people = dataset.freelancers()
    plain = load_matcher(model_dir, "cpu").encode_freelancers(people)
    assert_same_vectors(vectors_by_id(run.out), dict(zip([p.id for p in people], plain, strict=True)))
    assert run.notes[-1][:2] == (198, 198)
    assert "tokens/s" in run.notes[-1][2]
    assert not (run.out / ".spool").exists()


def test_a_pool_that_may_grow_equals_one_worker(
    tmp_path: Path, run: Run, dataset: Dataset, model_dir: Path, make_config: MakeConfig
) -> None:
    config = make_config(max_bad_share=0.1, workers=1, max_workers=2)
    report = encode_freelancers(config, dataset, model_dir, tmp_path / "out")
    assert report.encoded == 198
    assert_same_vectors(vectors_by_id(tmp_path / "out"), vectors_by_id(run.out))


def test_every_row_is_accounted_for(run: Run) -> None:
    """Bad rows and duplicates are set aside, with their place; the first of two equal ids wins."""
    report = run.report
    assert (report.rows_in, report.rows_out, report.quarantined, report.encoded) == (201, 198, 3, 198)
    found = [json.loads(line) for line in (run.out / QUARANTINE_FILE).read_text(encoding="utf-8").splitlines()]
    assert [(bad["table"], bad["row"], bad["id"]) for bad in found] == [
        ("freelancers", 4, "f000003"),
        ("freelancers", 200, "f000005"),
        ("freelancers", 201, "?"),
    ]
    assert "201 rows in = 198 vectors + 3 quarantined" in report.summary()


def test_the_object_store_spills_nothing(run: Run) -> None:
    assert run.spilled == 0


def test_utilisation_covers_the_actors_time(run: Run) -> None:
    shares = run.report.utilisation
    assert set(shares) == set(STAGES)
    assert sum(shares[stage] for stage in ("wait", "backbone", "head", "write")) == pytest.approx(1, abs=0.003)
    assert "backbone" in run.report.summary()


def test_only_changed_rows_are_encoded_again(
    tmp_path: Path, run: Run, rows: list[dict[str, Any]], model_dir: Path, make_config: MakeConfig
) -> None:
    """2 of 200 rows change (1 %); at most 1.5 % may be encoded. A changed price costs nothing."""
    out, changed_rows = run.copy_to(tmp_path / "out"), copy.deepcopy(rows)
    for i in (7, 150):
        changed_rows[i]["headline"] = "React and rust"
    changed_rows[20]["daily_rate_eur"] = 900
    dataset = Dataset(write_freelancers(tmp_path / "data", changed_rows))
    report = encode_freelancers(make_config(), dataset, model_dir, out)
    assert (report.encoded, report.reused, report.removed) == (2, 196, 0)
    first, second = vectors_by_id(run.out), vectors_by_id(out)
    changed = {name for name in first if np.abs(first[name] - second[name]).max() > 1e-6}
    assert changed == {"f000007", "f000150"}
    old_hash, new_hash = row_hashes(run.out), row_hashes(out)
    assert {name for name in new_hash if new_hash[name] != old_hash[name]} == changed | {"f000020"}


def row_hashes(out: Path) -> dict[str, str]:
    manifest = read_manifest(out)
    return dict(zip(manifest["freelancer_id"].to_pylist(), manifest["row_hash"].to_pylist(), strict=True))


def test_removed_rows_are_dropped_and_nothing_is_computed(
    tmp_path: Path, run: Run, rows: list[dict[str, Any]], model_dir: Path, make_config: MakeConfig
) -> None:
    out, before = run.copy_to(tmp_path / "out"), vectors_by_id(run.out)
    dataset = Dataset(write_freelancers(tmp_path / "data", rows[50:199]))
    report = encode_freelancers(make_config(), dataset, model_dir, out)
    assert (report.rows_out, report.encoded, report.removed) == (149, 0, 49)
    assert_same_vectors(
        vectors_by_id(out), {row["freelancer_id"]: before[row["freelancer_id"]] for row in rows[50:199]}
    )


def test_too_many_bad_rows_stop_the_job_before_it_writes(
    tmp_path: Path, model_dir: Path, make_config: MakeConfig
) -> None:
    rows = profiles(10)
    rows[0]["headline"] = rows[1]["headline"] = ""
    dataset = Dataset(write_freelancers(tmp_path / "data", rows))
    with pytest.raises(DatasetError, match=r"2 of 10 rows of table 'freelancers' are bad .*max_bad_share = 0\.1"):
        encode_freelancers(make_config(max_bad_share=0.1), dataset, model_dir, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".lock"}


def test_another_models_vectors_are_refused(
    run: Run, dataset: Dataset, tmp_path: Path, model_dir: Path, make_config: MakeConfig, tiny_backbone: Backbone
) -> None:
    other = load_matcher(model_dir, "cpu", backbone=tiny_backbone)
    other.towers.freelancer.type_embedding.weight.data += 1
    other.save(tmp_path / "other")
    before = sorted(path.name for path in run.out.iterdir())
    with pytest.raises(FingerprintError, match="never mixed"):
        encode_freelancers(make_config(), dataset, tmp_path / "other", run.out)
    assert sorted(path.name for path in run.out.iterdir()) == before


def test_all_gpus_of_a_cluster_without_any_are_refused() -> None:
    with pytest.raises(ConfigError, match="--gpus auto: there are no GPUs"):
        share_gpus(Config(), "auto")


def test_a_pool_that_does_not_fit_is_refused_at_once(tmp_path: Path, model_dir: Path, make_config: MakeConfig) -> None:
    dataset = Dataset(write_freelancers(tmp_path / "data", profiles(64)))
    with pytest.raises(ConfigError, match="logical CPUs of Ray"):
        encode_freelancers(make_config(workers=4, cpus_per_worker=1.0), dataset, model_dir, tmp_path / "out")


def test_cached_token_states_are_complete_and_give_the_same_vectors(
    tmp_path: Path, run: Run, dataset: Dataset, model_dir: Path, make_config: MakeConfig, tiny_backbone: Backbone
) -> None:
    config = make_config(max_bad_share=0.1)
    notes: list[str] = []
    report = cache_token_states(dataset, config, tmp_path / "states", progress=lambda *note: notes.append(note[2]))
    texts = set(section_texts(dataset, config.backbone))
    glossary = Glossary(({"en": ("gold",), "de": ("React",)},))
    assert {"passage: gold"} == set(section_texts(dataset, config.backbone, glossary)) - texts
    store = TokenStateStore(tmp_path / "states", tiny_backbone.fingerprint, tiny_backbone.dim)
    assert all(text in store for text in texts)
    assert (report.sections, report.computed, len(store)) == (len(texts), len(texts), len(texts))
    assert report.bytes == store.nbytes()
    assert report.estimated_bytes == pytest.approx(report.bytes, rel=0.4)
    assert "MB to come" in notes[0]
    again = cache_token_states(dataset, config, tmp_path / "states")
    assert (again.sections, again.computed, again.tokens) == (len(texts), 0, 0)
    encode_freelancers(config, dataset, model_dir, tmp_path / "out", store_dir=tmp_path / "states")
    assert_same_vectors(vectors_by_id(tmp_path / "out"), vectors_by_id(run.out), atol=2e-3)


def test_token_states_of_another_backbone_are_left_alone(
    tmp_path: Path,
    run: Run,
    dataset: Dataset,
    model_dir: Path,
    make_config: MakeConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A workspace may hold those of a backbone that was tried before; encoding says so and goes on without them."""
    config = make_config(max_bad_share=0.1).model_copy(update={"workspace": tmp_path / "workspace"})
    others = TokenStateStore(tmp_path / "workspace" / "token_states", "0" * 64, 32)
    report = encode_vectors(config, dataset, model_dir, tmp_path / "out")
    assert report.encoded == 198
    assert "are not those of the model's backbone" in capsys.readouterr().err
    assert len(TokenStateStore(others.root, others.fingerprint, others.dim)) == 0
    assert_same_vectors(vectors_by_id(tmp_path / "out"), vectors_by_id(run.out))
