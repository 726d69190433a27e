"""Plans computed by hand from given rates."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from skillmatch_ray.cli import app
from skillmatch_ray.planning.flops import transformer_flops
from skillmatch_ray.planning.plan import Demand, backbone_rate, size_workload
from skillmatch_ray.planning.rates import load_rates

GIVEN = {
    "backbone_tokens_per_s": 1e6,
    "head_tokens_per_s": 2e6,
    "tokenise_tokens_per_s": 2e5,
    "survey_rows_per_s": 5000,
    "spool_bytes_per_token": 5,
    "vector_bytes_per_row": 1600,
    "driver_bytes_per_row": 500,
    "worker_memory_bytes": 2e9,
    "index_rows_per_s": 1000,
    "index_disk_bytes_per_row": 4000,
    "index_memory_bytes_per_row": 2500,
    "brief_encodings_per_s": 100,
    "searches_per_s": 50,
    "ingress_requests_per_s": 400,
    "planned_utilisation": 0.5,
}
RATES = load_rates().with_given([f"{name}={value}" for name, value in GIVEN.items()])
DEMAND = Demand(freelancers=7_200_000, tokens_per_profile=500, qps=200, gpu="h100", hours=0.5)


def test_a_plan_agrees_with_the_arithmetic():
    """7.2M x (500/1e6 + 500/2e6) s = 5400 s: three workers of half an hour each.

    Survey 7.2M/5000 = 1440 s = 0.4 h; index 7200 s = 2 h, the longest.
    Tokenising 500/2e5 = 2.5 ms against 0.75 ms of work: 3.3 cores feed a worker, rounded up 3.4.
    """
    plan = size_workload(DEMAND, RATES)
    assert not plan.missing
    steps = {step.name: (step.units, round(step.hours, 6)) for step in plan.steps}
    assert steps == {
        "read and check rows": (1, 0.4),
        "encode": (3, 0.5),
        "insert, build the HNSW graph, check": (1, 2.0),
    }
    assert plan.bottleneck.name == "insert, build the HNSW graph, check"
    assert plan.hours == pytest.approx(2.9)
    assert plan.serving_bottleneck.name == "Milvus query nodes"
    sizes = {size.name: size.amount for size in (*plan.sizes, *plan.replicas)}
    assert sizes == pytest.approx(
        {
            "freelancers that each worker encodes a second": 1 / 0.75e-3,
            "cores that tokenise for each worker": 3.4,
            "memory of each worker": 2.0,
            "memory of the driver": 3.6,
            "shared disk: vectors, and texts while encoding": 7.2e6 * (1600 + 500 * 5) / 1e9,
            "Milvus disk, two releases": 57.6,
            "Milvus memory, two releases at the switch": 36.0,
            "ProjectEncoder replicas": 4,
            "Milvus query nodes": 8,
            "Ingress replicas": 1,
        }
    )


def test_without_requests_there_are_no_replicas():
    plan = size_workload(dataclasses.replace(DEMAND, qps=0), RATES)
    assert not plan.replicas
    assert plan.serving_bottleneck is None


def test_the_head_reads_no_more_than_its_limit():
    """2,000 tokens through the backbone, 512 of them through the head: 2 ms + 0.256 ms."""
    plan = size_workload(dataclasses.replace(DEMAND, freelancers=1_000_000, tokens_per_profile=2000, hours=100), RATES)
    encode = next(step for step in plan.steps if step.name == "encode")
    assert encode.hours == pytest.approx(1e6 * (0.002 + 0.000256) / 3600)


@settings(deadline=None)
@given(st.integers(1, 10**9), st.floats(0.1, 100))
def test_enough_workers_keep_the_hours_and_one_less_would_not(freelancers, hours):
    plan = size_workload(dataclasses.replace(DEMAND, freelancers=freelancers, hours=hours), RATES)
    encode = next(step for step in plan.steps if step.name == "encode")
    assert encode.hours <= hours * (1 + 1e-9)
    assert encode.units == 1 or encode.hours * encode.units / (encode.units - 1) > hours * (1 - 1e-9)


def test_a_card_without_measurement_is_estimated_and_says_by_which_formula():
    """e5-small at 48 tokens a section: 12 x (2 x (4 x 384^2 + 2 x 384 x 1536) + 4 x 48 x 384) FLOP a token."""
    flops = transformer_flops(layers=12, dim=384, ffn=1536, length=48)
    assert flops == 12 * (2 * (4 * 384**2 + 2 * 384 * 1536) + 4 * 48 * 384)
    rates = load_rates().with_given(["bf16_share=0.5", "bf16_flops=1e15"])
    rates = rates.model_copy(update={"rates": tuple(r for r in rates.rates if r.name != "backbone_tokens_per_s")})
    rate = backbone_rate(rates, "h100")
    assert rate.how == "estimated"
    assert rate.value == pytest.approx(0.5e15 / flops)
    assert "0.5 of 1e+15 FLOP/s on h100" in rate.formula


def test_an_unknown_card_is_asked_for_and_the_rest_is_planned(tmp_path):
    arguments = ["plan", "--freelancers", "1000000", "--gpu", "b900", "--report", str(tmp_path / "plan.json")]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "--rate backbone_tokens_per_s=VALUE" in " ".join(shown.output.split())
    found = json.loads((tmp_path / "plan.json").read_text())
    assert "encode" not in {step["name"] for step in found["steps"]}
    assert {size["name"] for size in found["sizes"]} >= {"Milvus disk, two releases"}
    assert any("b900" in text for text in found["missing"])


def test_the_rate_that_was_asked_for_completes_the_plan(tmp_path):
    arguments = ["plan", "--freelancers", "1000000", "--gpu", "b900", "--report", str(tmp_path / "plan.json")]
    arguments += ["--rate", "backbone_tokens_per_s=1e6", "--rate", "head_tokens_per_s=1e6"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    encode = next(step for step in found["steps"] if step["name"] == "encode")
    assert encode["hours"] == pytest.approx(1e6 * (600 + 512) / 1e6 / 3600)
    assert not any("b900" in text for text in found["missing"])
