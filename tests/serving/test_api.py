"""The API over the real services of a tiny workspace, without Serve."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from skillmatch_ray.config import load_config
from skillmatch_ray.serving.api import API_KEYS_VARIABLE, build_api
from skillmatch_ray.serving.services import EncoderService, RetrieverService

pytestmark = pytest.mark.e2e


class Local:
    """Encoder and searcher of this process, as the API wants them."""

    def __init__(self, config) -> None:
        self.index = RetrieverService(config)
        self.encoder = EncoderService(self.index.retriever.release.model_dir, threads=1)

    async def encode(self, project):
        return self.encoder.encode([project])[0], self.encoder.fingerprint

    async def explain(self, project, freelancers):
        return self.encoder.explain(project, freelancers)

    async def fingerprint(self):
        return self.encoder.fingerprint

    async def search(self, *arguments):
        return self.index.search(*arguments)

    async def profiles(self, ids):
        return self.index.profiles(ids)

    async def release(self):
        return self.index.release


@pytest.fixture(scope="module")
def local(tiny_workspace):
    services = Local(load_config(tiny_workspace.config, [f"workspace={tiny_workspace.root}"]))
    yield services
    services.index.retriever.close()


@pytest.fixture
def call(local):
    def send(method, path, **options):
        async def run():
            transport = httpx.ASGITransport(build_api(local, local), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.request(method, path, **options)

        return asyncio.run(run())

    return send


BRIEF = {"title": "React developer", "skills": ["React"], "description": "We rebuild our shop."}


def test_match_returns_ranked_candidates_with_reasons_that_add_up(call, local):
    answer = call("POST", "/v1/match", json={"project": BRIEF, "top_k": 5, "explain": True, "plan": True})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert len(body["candidates"]) == 5
    scores = [c["score"] for c in body["candidates"]]
    assert scores == sorted(scores, reverse=True)
    for candidate in body["candidates"]:
        reasons = candidate["explanation"]
        for side in ("project", "freelancer"):
            assert sum(part["score"] for part in reasons[side]) == pytest.approx(candidate["score"], abs=1e-3)
    assert body["fingerprint"] == local.encoder.fingerprint
    assert body["plan"]["mode"] in ("exact", "approximate")
    assert set(body["milliseconds"]) == {"encode", "search", "explain"}


def test_filters_hold_and_exhaustion_is_told(call):
    wanted = {"countries": ["FR"], "max_daily_rate_eur": 500}
    body = call("POST", "/v1/match", json={"project": BRIEF, "filters": wanted, "top_k": 300}).json()
    assert body["exhausted"] is True
    assert 0 < len(body["candidates"]) < 300
    for candidate in body["candidates"]:
        assert candidate["profile"]["country"] == "FR"
        assert candidate["profile"]["daily_rate_eur"] <= 500


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"project": {"titel": "x"}}, "project.title"),
        ({"project": BRIEF, "top_k": 0}, "top_k"),
        ({"project": BRIEF, "top_k": 10**6}, "top_k"),
        ({"project": {**BRIEF, "colour": "red"}}, "project.colour"),
        ({"project": BRIEF, "filters": {"countrys": ["FR"]}}, "filters.countrys"),
        ({"project": {**BRIEF, "latitude": 100, "longitude": 0}}, "project.latitude"),
        ({}, "project"),
    ],
)
def test_wrong_values_are_named(call, body, field):
    answer = call("POST", "/v1/match", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"].startswith(field)


def test_broken_json_is_a_problem_not_a_crash(call):
    answer = call("POST", "/v1/match", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["status"] == 422


def test_release_and_readiness(call, local):
    assert call("GET", "/v1/release").json()["fingerprint"] == local.encoder.fingerprint
    assert call("GET", "/readyz").json()["status"] == "ready"
    assert call("GET", "/healthz").json() == {"status": "ok"}


def test_an_encoder_of_another_space_is_not_ready_and_never_searches(call, local, monkeypatch):
    monkeypatch.setattr(local.encoder, "fingerprint", "0" * 64)
    assert call("GET", "/readyz").status_code == 503
    answer = call("POST", "/v1/match", json={"project": BRIEF})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_keys_are_asked_for_where_the_environment_has_them(call, monkeypatch):
    monkeypatch.setenv(API_KEYS_VARIABLE, "old-key, new-key")
    assert call("GET", "/v1/release").status_code == 401
    assert call("GET", "/v1/release", headers={"x-api-key": "wrong"}).status_code == 401
    for key in ("old-key", "new-key"):
        assert call("GET", "/v1/release", headers={"x-api-key": key}).status_code == 200
    assert call("GET", "/healthz").status_code == 200


def test_a_defect_leaves_no_trace_in_the_answer(call, local, monkeypatch):
    def explode(_):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(local.encoder, "encode", explode)
    answer = call("POST", "/v1/match", json={"project": BRIEF})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_the_openapi_document_has_examples_and_problems(call):
    document = call("GET", "/openapi.json").json()
    assert "/v1/match" in document["paths"]
    assert {"422", "503", "504"} <= set(document["paths"]["/v1/match"]["post"]["responses"])
    assert "examples" in json.dumps(document["components"]["schemas"]["MatchRequest"])
