"""The API over the real services of a tiny workspace, without Serve."""

from __future__ import annotations

import json
import re

import pytest
from serving_helpers import send

from skillmatch_ray.serving.admission import Admission
from skillmatch_ray.serving.api import build_api
from skillmatch_ray.serving.keys import KEYS_FILE_VARIABLE, KEYS_VARIABLE
from skillmatch_ray.serving.services import Loaded

pytestmark = pytest.mark.e2e


@pytest.fixture
def call(local):
    return lambda method, path, **options: send(build_api(local.flow()), method, path, **options)


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
    assert body["fingerprint"] == local.encoder.service.fingerprint
    assert body["plan"]["mode"] in ("exact", "fetched", "approximate")
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
        ({"project": BRIEF, "filters": {"countries": [{"a": 1}]}}, "filters.countries"),
        ({"project": BRIEF, "explain": True, "top_k": 101}, ""),
    ],
)
def test_wrong_values_are_named(call, body, field):
    answer = call("POST", "/v1/match", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("field", "").startswith(field)


def test_broken_json_is_a_problem_not_a_crash(call):
    answer = call("POST", "/v1/match", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["status"] == 422


def test_a_body_of_no_text_is_named_as_the_problem(call):
    answer = call("POST", "/v1/match", content=b'{"project": "\xe9"}', headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "UTF-8" in answer.json()["detail"]


def test_a_body_beyond_the_limit_is_413_through_the_whole_api(local):
    records = []
    api = Admission(build_api(local.flow()), limit=2, max_body=1000, deadline_s=30, log=records.append)
    body = json.dumps({"project": {"title": "x" * 2000}})

    async def pieces():
        for start in range(0, len(body), 100):
            yield body[start : start + 100].encode()

    for content in (body, pieces()):
        answer = send(api, "POST", "/v1/match", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert [(record["status"], record["problem"]) for record in records] == [(413, "Too large")] * 2
    assert api.active == 0
    small = send(api, "POST", "/v1/match", json={"project": BRIEF})
    assert small.status_code == 200


def test_release_and_readiness(call, local):
    assert call("GET", "/v1/release").json()["fingerprint"] == local.encoder.service.fingerprint
    assert call("GET", "/readyz").json()["status"] == "ready"
    assert call("GET", "/healthz").json() == {"status": "ok"}


def test_an_encoder_of_another_space_is_not_ready_and_never_searches(call, local, monkeypatch):
    other = Loaded(local.encoder.service._loaded[0].matcher, "0" * 64)
    monkeypatch.setattr(local.encoder.service, "_loaded", (other,))
    assert call("GET", "/readyz").status_code == 503
    answer = call("POST", "/v1/match", json={"project": BRIEF})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_keys_are_asked_for_where_the_environment_has_them(call, monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, "old-key, new-key")
    assert call("GET", "/v1/release").status_code == 401
    for wrong in ("wrong", "old-key, new-key", "", "old-ke", "ключ"):
        assert call("GET", "/v1/release", headers={"x-api-key": wrong.encode()}).status_code == 401, wrong
    for key in ("old-key", "new-key"):
        assert call("GET", "/v1/release", headers={"x-api-key": key}).status_code == 200
    assert call("GET", "/healthz").status_code == 200


def test_a_file_of_keys_is_rotated_without_a_restart(local, monkeypatch, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("old-key\n")
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(keys))
    api = build_api(local.flow())

    def status(key):
        return send(api, "GET", "/v1/release", headers={"x-api-key": key}).status_code

    assert (status("old-key"), status("new-key")) == (200, 401)
    keys.write_text("old-key\nnew-key\n")
    assert (status("old-key"), status("new-key")) == (200, 200)
    keys.unlink()  # in the middle of being replaced
    assert status("new-key") == 200
    keys.write_text("new-key\n")
    assert (status("old-key"), status("new-key")) == (401, 200)
    keys.write_text("")
    assert (status(""), status("new-key")) == (401, 401)


def test_a_defect_leaves_no_trace_in_the_answer_and_no_text_in_the_log(local, monkeypatch, caplog):
    detail = "a secret detail"

    def explode(_):
        raise RuntimeError(detail)

    monkeypatch.setattr(local.encoder, "encode", explode)
    api = Admission(build_api(local.flow()), limit=2, max_body=1000, deadline_s=30)
    answer = send(api, "POST", "/v1/match", json={"project": BRIEF}, headers={"x-request-id": "r-500"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text
    assert "secret" not in answer.text + caplog.text
    assert "request r-500: RuntimeError" in caplog.text
    assert "in explode" in caplog.text
    assert api.active == 0


def test_the_openapi_document_has_examples_and_problems(call):
    document = call("GET", "/openapi.json").json()
    assert "/v1/match" in document["paths"]
    assert {"422", "503", "504"} <= set(document["paths"]["/v1/match"]["post"]["responses"])
    assert "examples" in json.dumps(document["components"]["schemas"]["MatchRequest"])


def test_a_batch_answers_each_brief_as_if_it_were_alone(call):
    briefs = [{"project": {"title": title}, "top_k": 4} for title in ("Welder", "Tax adviser", "React developer")]
    together = call("POST", "/v1/match:batch", json={"requests": briefs}).json()["responses"]
    alone = [call("POST", "/v1/match", json=brief).json() for brief in briefs]
    assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]


def ids(answer):
    return [candidate["freelancer_id"] for candidate in answer["candidates"]]


def test_a_batch_has_bounds(call):
    assert call("POST", "/v1/match:batch", json={"requests": []}).status_code == 422
    assert call("POST", "/v1/match:batch", json={"requests": [{"project": BRIEF}] * 33}).status_code == 422


def test_an_explanation_has_the_score_of_the_match(call):
    (first, *_) = call("POST", "/v1/match", json={"project": BRIEF, "top_k": 1}).json()["candidates"]
    body = {"project": BRIEF, "freelancer_ids": [first["freelancer_id"]]}
    (explained,) = call("POST", "/v1/explain", json=body).json()["explanations"]
    assert explained["freelancer_id"] == first["freelancer_id"]
    assert explained["explanation"]["score"] == pytest.approx(first["score"], abs=1e-3)


def test_unknown_freelancers_are_404(call):
    answer = call("POST", "/v1/explain", json={"project": BRIEF, "freelancer_ids": ["nobody"]})
    assert answer.status_code == 404
    assert "nobody" in answer.json()["detail"]
    assert call("GET", "/v1/freelancers/nobody/similar").status_code == 404


def test_similar_freelancers_do_not_include_the_one(call):
    (who,) = ids(call("POST", "/v1/match", json={"project": BRIEF, "top_k": 1}).json())
    found = call("GET", f"/v1/freelancers/{who}/similar", params={"top_k": 7}).json()
    assert len(found["candidates"]) == 7
    assert who not in ids(found)


def test_unknown_query_parameters_are_refused_like_unknown_fields(call):
    answer = call("GET", "/v1/freelancers/nobody/similar", params={"topk": 7})
    assert answer.status_code == 422
    assert "topk" in answer.json()["detail"]
    assert "top_k" in answer.json()["detail"]
    assert call("POST", "/v1/match", params={"explain": "1"}, json={"project": BRIEF}).status_code == 422


def test_a_profile_is_found_at_once_and_gone_after_its_deletion(call):
    # The same words as the brief, so that the tiny untuned encoder puts it near; the filter makes it the only one.
    profile = {"headline": "React developer", "skills": ["React"], "country": "IS", "language": "is"}
    answer = call("PUT", "/v1/freelancers/new-one", json=profile)
    assert answer.status_code == 200, answer.text
    wanted = {"project": BRIEF, "filters": {"countries": ["IS"]}, "top_k": 5, "explain": True}
    found = call("POST", "/v1/match", json=wanted).json()
    assert ids(found) == ["new-one"]
    assert found["candidates"][0]["explanation"]["freelancer"][0]["text"] == "React developer"
    call("PUT", "/v1/freelancers/new-one", json={**profile, "headline": "Beekeeper"})
    assert call("POST", "/v1/match", json=wanted).json()["candidates"][0]["profile"]["headline"] == "Beekeeper"
    assert call("DELETE", "/v1/freelancers/new-one").status_code == 204
    assert ids(call("POST", "/v1/match", json=wanted).json()) == []
    assert call("DELETE", "/v1/freelancers/new-one").status_code == 204


@pytest.mark.parametrize(
    ("path", "profile", "told"),
    [
        ("f1", {"headline": "x", "salary": 3}, "salary"),
        ("f1", {"headline": "x", "experiences": [{"titel": "y"}]}, "experiences.0.titel"),
        ("f1", {"headline": ""}, "headline"),
        ("f1", {"headline": "x", "freelancer_id": "f2"}, "freelancer_id"),
        ("f1", {"headline": "x", "daily_rate_eur": -1}, "daily_rate_eur"),
        ("x" * 300, {"headline": "x"}, "freelancer_id"),
        ("%20", {"headline": "x"}, "freelancer_id"),
    ],
)
def test_wrong_profiles_are_refused(call, path, profile, told):
    answer = call("PUT", f"/v1/freelancers/{path}", json=profile)
    assert answer.status_code == 422, answer.text
    assert told in answer.json()["detail"]


def test_a_body_must_say_that_it_is_json(call):
    text = json.dumps({"project": BRIEF})
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = call("POST", "/v1/match", content=text, headers={"content-type": kind})
        assert answer.status_code == 415, kind
    kind = {"content-type": "application/json; charset=utf-8"}
    assert call("POST", "/v1/match", content=text, headers=kind).status_code == 200


def test_the_page_is_self_contained(call):
    page = call("GET", "/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert not re.search(r"<style|<script(?! src)| style=| on[a-z]+=", page.text)
    for path in re.findall(r'(?:src|href)="(/[^"]*)"', page.text):
        assert call("GET", path).status_code == 200, path


def test_metrics_tell_hops_and_empty_results(call, local):
    local.told.clear()
    assert call("POST", "/v1/match", json={"project": BRIEF, "filters": {"countries": ["AQ"]}}).status_code == 200
    told = local.told
    assert {tags["hop"] for name, _, tags in told if name == "hop_ms"} == {"encode", "search"}
    assert ("empty_results", 1, {}) in told
    candidates = {tags["stage"]: value for name, value, tags in told if name == "candidates"}
    assert candidates["before_filters"] > 100
    assert candidates["after_filters"] == candidates["looked_at"] == candidates["returned"] == 0
    assert {tags["batch"] for name, _, tags in told if name == "batch_items"} == {"encode", "search"}


def test_operations_on_releases_are_refused_where_anybody_could_send_them(local):
    api = build_api(local.flow(), operator=False)
    assert send(api, "POST", "/v1/operations", json={"do": "rollback"}).status_code == 403
    assert send(api, "GET", "/v1/releases").status_code == 200
