"""Memory of a whole evaluation grows with the projects, hardly with the freelancers."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from skillmatch_ray.config import ModelSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.evaluation.evaluate import evaluate
from skillmatch_ray.model.matcher import Matcher

WORDS = ("react", "sql", "docker", "seo", "welding", "piano", "budget", "training")


def write(root, freelancers, projects=40):
    """A profile of about 1 kB each, so that holding all of them would show."""
    root.mkdir()
    with (root / "freelancers.jsonl").open("w") as file:
        for i in range(freelancers):
            skills = [WORDS[i % 8], WORDS[i // 8 % 8]]
            row = {"freelancer_id": f"f{i:06d}", "headline": skills[0], "skills": skills, "city": "x" * 900}
            file.write(json.dumps(row) + "\n")
    rows = [{"project_id": f"p{i}", "title": WORDS[i % 8]} for i in range(projects)]
    (root / "projects.jsonl").write_text("\n".join(map(json.dumps, rows)))
    grades = [{"project_id": f"p{i}", "freelancer_id": f"f{i:06d}", "grade": 3} for i in range(projects)]
    (root / "qrels.jsonl").write_text("\n".join(map(json.dumps, grades)))
    return Dataset(root)


def peak(dataset, backbone):
    towers = {"model": Matcher.untrained(backbone, ModelSettings(layers=0)).towers}
    tracemalloc.start()
    report = evaluate(dataset, backbone, towers)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used, report


@pytest.mark.slow
def test_four_times_the_freelancers_cost_few_bytes_each(tiny_backbone, tmp_path):
    """Less than 400 bytes a freelancer: an id hash, a label each, counted words. A document held would be 3 kB."""
    peak(write(tmp_path / "warm", 600), tiny_backbone)
    small, _ = peak(write(tmp_path / "small", 3_000), tiny_backbone)
    large, report = peak(write(tmp_path / "large", 12_000), tiny_backbone)
    assert report.content["counts"]["freelancers"] == 12_000
    assert (large - small) / 9_000 < 400
