"""A server that goes away and comes back while an index is open there."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from index_helpers import FINGERPRINT, clustered, make_world, random_rows
from milvus_server import RestartableServer, lite_server
from waiting import free_port

from skillmatch_ray.config import MilvusSettings
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import MilvusError
from skillmatch_ray.index.filters import Filters
from skillmatch_ray.index.retriever import Retriever, SearchResult

TIMEOUT_S = 3.0
RECOVERY_S = 300.0
QUERY = clustered(1, seed=3)[0]


def test_a_server_that_went_is_told_in_bounded_time_and_found_again(tmp_path: Path) -> None:
    port = free_port()
    patient = MilvusSettings(uri=f"http://127.0.0.1:{port}", timeout_s=60)
    world = make_world(tmp_path / "w", random_rows(60), clustered(60), patient)
    newcomer = Freelancer(freelancer_id="new", headline="n")
    with lite_server(tmp_path, port):
        world.release()
        retriever = Retriever(world.config)
        before = retriever.search(QUERY, fingerprint=FINGERPRINT)
    retriever.backend.settings = patient.model_copy(update={"timeout_s": TIMEOUT_S})
    with pytest.raises(MilvusError, match=rf"127.0.0.1:{port}"):
        retriever.search(QUERY, fingerprint=FINGERPRINT)
    started = time.monotonic()
    with pytest.raises(MilvusError):
        retriever.search(QUERY, Filters(countries=("FR",)), fingerprint=FINGERPRINT)
    assert time.monotonic() - started < 10 * TIMEOUT_S  # two attempts, and the journal's; a busy machine
    with pytest.raises(MilvusError):  # accepted by the journal all the same
        retriever.upsert(newcomer, QUERY, fingerprint=FINGERPRINT)
    retriever.backend.settings = patient
    with lite_server(tmp_path, port):
        after = retriever.search(QUERY, fingerprint=FINGERPRINT)
        assert after.candidates[0].freelancer_id == "new"
        assert after.candidates[1:] == before.candidates[:-1]
        retriever.close()


@pytest.mark.slow
def test_milvus_itself_is_killed_and_found_again(server: RestartableServer, tmp_path: Path) -> None:
    """The server of its package, killed like a machine that loses power to its process; the same Retriever goes on."""
    patient = MilvusSettings(uri=server.uri, timeout_s=60, alias="faults")
    world = make_world(tmp_path / "w", random_rows(60), clustered(60), patient)
    world.release()
    with Retriever(world.config) as retriever:
        before = retriever.search(QUERY, fingerprint=FINGERPRINT)
        server.kill()
        try:
            retriever.backend.settings = patient.model_copy(update={"timeout_s": TIMEOUT_S})
            started = time.monotonic()
            with pytest.raises(MilvusError, match=re.escape(server.uri)):
                retriever.search(QUERY, fingerprint=FINGERPRINT)
            assert time.monotonic() - started < 10 * TIMEOUT_S
        finally:
            server.start()
        retriever.backend.settings = patient
        assert until_it_answers(retriever) == before


def until_it_answers(retriever: Retriever) -> SearchResult:
    """A server that has started still takes a while to find its segments again."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        try:
            return retriever.search(QUERY, fingerprint=FINGERPRINT)
        except MilvusError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
