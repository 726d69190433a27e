"""Fixtures that every tier shares: a tiny real backbone and one local Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION="0"
)

import numpy as np
import pytest
import torch
from quickstart_helpers import TINY_QUICKSTART, TinyWorkspace, skillmatch

from skillmatch_ray.backbone.embedded import build_tokenizer
from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.config import BackboneSettings

TINY_DIM = 32


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often the tests that kill something do it, each time at another random moment."""
    parser.addoption("--trials", type=int, default=3, help="kills of each kind in tests/pipeline/test_kills.py")


def make_tiny_checkpoint(path: Path, seed: int = 0) -> Path:
    """A real BertModel, 2 layers, d=32, with a Unigram tokenizer over characters and a few words."""
    from transformers import BertConfig, BertModel

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁"]
    pieces += [prefix + chr(code) for prefix in ("", "▁") for code in range(33, 127)]
    pieces += ["▁" + word for word in ("query:", "passage:", "developer", "React", "the", "and", "de", "für")]
    vocabulary = [(piece, 0.0 if i < 4 else -5.0 - len(piece) * 0.01) for i, piece in enumerate(dict.fromkeys(pieces))]
    path.mkdir(parents=True, exist_ok=True)
    build_tokenizer(vocabulary, bos=0, eos=2, unknown=3).save(str(path / "tokenizer.json"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=TINY_DIM, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=512, pad_token_id=1,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny checkpoint."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_settings(tiny_checkpoint: Path) -> BackboneSettings:
    """Settings of the tiny backbone."""
    return BackboneSettings(name=str(tiny_checkpoint), max_section_tokens=64, token_budget=512, dtype="float32")


@pytest.fixture(scope="session")
def tiny_backbone(tiny_settings: BackboneSettings) -> Backbone:
    """The tiny backbone, loaded."""
    return Backbone.load(tiny_settings, device="cpu")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small local Ray for the whole run."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


WORDS = (
    "react",
    "sql",
    "docker",
    "seo",
    "tax law",
    "welding",
    "piano",
    "budget",
    "training",
    "video",
    "audit",
    "python",
)
CATEGORIES = ("it", "finance", "media")


def write_tiny_dataset(root: Path, projects: int = 24, freelancers: int = 48, seed: int = 0) -> Path:
    """Random small documents; freelancer i suits project j where their first skills agree."""
    rng = np.random.default_rng(seed)
    people = [_tiny_freelancer(i, rng) for i in range(freelancers)]
    briefs = [_tiny_project(j, rng) for j in range(projects)]
    contacts = [
        {
            "project_id": brief["project_id"],
            "freelancer_id": people[i]["freelancer_id"],
            "outcome": "selected" if people[i]["skills"][0] == brief["skills"][0] else "company_declined_skills",
            "happened_at": brief["created_at"],
        }
        for brief in briefs
        for i in rng.choice(freelancers, size=10, replace=False)
    ]
    for name, rows in (("freelancers", people), ("projects", briefs), ("interactions", contacts)):
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def _some_words(rng: np.random.Generator, least: int, most: int) -> list[str]:
    return [str(w) for w in rng.choice(WORDS, size=int(rng.integers(least, most + 1)), replace=False)]


def _tiny_freelancer(i: int, rng: np.random.Generator) -> dict[str, object]:
    return {
        "freelancer_id": f"f{i:03d}",
        "headline": f"expert {rng.integers(100)}",
        "skills": _some_words(rng, 2, 5),
        "description": " ".join(_some_words(rng, 3, 8)) if i % 3 else None,
        "experiences": [{"title": "work", "skills": _some_words(rng, 1, 3)}] if i % 2 else [],
        "job_category": str(rng.choice(CATEGORIES)),
        "language": "en",
    }


def _tiny_project(j: int, rng: np.random.Generator) -> dict[str, object]:
    return {
        "project_id": f"p{j:03d}",
        "title": f"need {rng.integers(100)}",
        "skills": _some_words(rng, 2, 4),
        "description": " ".join(_some_words(rng, 2, 6)),
        "job_category": str(rng.choice(CATEGORIES)),
        "language": "en",
        "created_at": f"2025-01-{j % 28 + 1:02d}T00:00:00Z",
    }


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 24 projects and 48 freelancers with a history."""
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny_dataset"))


@pytest.fixture(scope="session")
def tiny_workspace(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyWorkspace:
    """The quickstart's own workspace, made through the command line, once for the whole run."""
    root = tmp_path_factory.mktemp("quickstart")
    config, report = root / "tiny.yaml", root / "report.json"
    config.write_text(TINY_QUICKSTART % tiny_checkpoint)
    done = skillmatch("quickstart", "--workspace", root / "workspace", "--config", config, "--report", report)
    assert done.returncode == 0, done.stderr[-4000:]
    return TinyWorkspace(root / "workspace", config, json.loads(report.read_text()), done.stderr)


MAY_BE_MISSING = "ESCO folder"
"""Reason of the only skip that continuous integration accepts: data that is not ours to ship."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In continuous integration a skipped test is a failed one: it hides a part that was not installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    unexpected = [report for report in skipped if MAY_BE_MISSING not in str(report.longrepr)]
    if os.environ.get("CI") and unexpected and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say in the last lines how many tests did not run."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} skipped: the reasons stand above; in continuous integration that fails"
        )
