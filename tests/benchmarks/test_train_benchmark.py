"""The training benchmark with the tiny backbone: every contestant runs, and its rate is what it says."""

from __future__ import annotations

import json

import pytest

from skillmatch_ray.benchmarks.train import OURS, PEERS, benchmark_train
from skillmatch_ray.config import BackboneSettings, Config


@pytest.mark.ray_local
@pytest.mark.slow
def test_every_contestant_is_measured_in_one_run(ray_session, tiny_settings: BackboneSettings, tmp_path):
    pytest.importorskip("sentence_transformers")
    config = Config.model_validate(
        {
            "backbone": tiny_settings.model_dump(),
            "model": {"layers": 1, "heads": 4, "max_document_tokens": 128},
            "training": {"projects_per_step": 8, "threads_per_worker": 1, "cpus_per_worker": 0.5},
            "encode": {"threads_per_worker": 1, "cpus_per_worker": 0.5},
        }
    )
    result = benchmark_train(config, documents=60, steps=3, report=tmp_path / "report.json")
    assert set(result.rates) == {*OURS, *PEERS}
    for name, rate in result.rates.items():
        assert rate.documents_per_s == pytest.approx(rate.documents / rate.seconds, rel=0.02), name
    ours = [result.rates[name] for name in OURS]
    assert len({rate.documents for rate in ours}) == 1, "the same batches, whatever the number of workers"
    assert ours[2].last_loss == pytest.approx(ours[0].last_loss, abs=5e-3), "live states give the loss of cached ones"
    assert result.cache["bytes"] > 0
    assert json.loads((tmp_path / "report.json").read_text())["ratios"] == result.ratios
