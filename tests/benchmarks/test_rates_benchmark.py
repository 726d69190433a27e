"""The rates of a machine, in the form of rates.yaml."""

from __future__ import annotations

import json

import pytest

from skillmatch_ray.benchmarks.rates import benchmark_rates
from skillmatch_ray.config import Config
from skillmatch_ray.planning.rates import RateBook, load_rates


@pytest.mark.ray_local
@pytest.mark.usefixtures("ray_session")
def test_what_is_measured_can_go_into_the_file_as_it_is(tiny_settings, tmp_path):
    config = Config(backbone=tiny_settings)
    rates = benchmark_rates(config, machine="epyc-2", documents=120, report=tmp_path / "rates.json")
    assert [rate.model_dump(mode="json") for rate in rates] == json.loads((tmp_path / "rates.json").read_text())
    stored = load_rates()
    RateBook(quantities=stored.quantities, machines=stored.machines, rates=tuple(rates))
    values = {rate.name: rate.value for rate in rates}
    assert {rate.how for rate in rates} == {"measured"}
    assert values["vector_bytes_per_row"] > 384 * 4
    assert 200 < values["driver_bytes_per_row"] < 2000
    assert 0 < values["spool_bytes_per_token"] < 1000
    assert values["survey_rows_per_s"] > 1
    assert values["tokenise_tokens_per_s"] > 1
