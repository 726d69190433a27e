"""The service keeps to its own OpenAPI document, whatever is sent: generated requests, valid and not."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_helpers import send

from skillmatch_ray.index.journal import Journal
from skillmatch_ray.serving.api import build_api

pytestmark = pytest.mark.e2e

OPERATIONS = (
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("post", "/v1/match"),
    ("post", "/v1/match:batch"),
    ("post", "/v1/explain"),
    ("get", "/v1/freelancers/{freelancer_id}/similar"),
    ("put", "/v1/freelancers/{freelancer_id}"),
    ("delete", "/v1/freelancers/{freelancer_id}"),
    ("get", "/v1/release"),
    ("get", "/v1/releases"),
    ("get", "/v1/releases/status"),
    ("post", "/v1/operations"),
    ("get", "/v1/operations/{operation_id}"),
)
EXAMPLES = 8


@pytest.fixture(scope="module")
def api(local):
    yield build_api(local.flow())
    for change in Journal(local.config.workspace / "vectors" / "journal.jsonl").state().values():
        if change.op == "upsert":  # of a made-up freelancer, whom no other test must find
            local.index.service.delete(change.freelancer_id)


@pytest.fixture(scope="module")
def document(api):
    return schemathesis.openapi.from_asgi("/openapi.json", api)


def never_fails(_: CheckContext, response: Response, __: schemathesis.Case) -> None:
    """500, 503 and 504 are documented, but a service that is well has no reason for them."""
    assert response.status_code < 500, f"{response.status_code}: {response.text[:500]}"


CHECKS = [never_fails, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_documented(document, method, path, mode):
    operation = document[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        return  # nothing can be wrong about a request that carries nothing

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        case.call_and_validate(checks=CHECKS)

    check()


def test_every_endpoint_of_the_service_is_documented_with_an_example(api):
    document = send(api, "GET", "/openapi.json").json()
    operations = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert operations == set(OPERATIONS)
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Request", "Response")) and name != "HTTPValidationError":
            assert schema.get("examples"), name


def test_the_examples_of_the_document_are_accepted(api):
    document = send(api, "GET", "/openapi.json").json()
    examples = {name: one["examples"] for name, one in document["components"]["schemas"].items() if "examples" in one}
    for name, path in (("MatchRequest", "/v1/match"), ("BatchRequest", "/v1/match:batch")):
        for example in examples[name]:
            assert send(api, "POST", path, json=example).status_code == 200
    for example in examples["FreelancerInput"]:
        assert send(api, "PUT", "/v1/freelancers/example", json=example).status_code == 200
    assert send(api, "DELETE", "/v1/freelancers/example").status_code == 204
