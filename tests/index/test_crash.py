"""kill -9 at random moments: the active release always answers, and the same command then completes."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
import time
from pathlib import Path

import crash_child
import pytest
from index_helpers import FINGERPRINT, World, clustered, make_world, random_rows

from skillmatch_ray.config import MilvusSettings
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.index.release import ReleaseStore
from skillmatch_ray.index.releases import activate, active_release, list_releases, prune
from skillmatch_ray.index.retriever import Retriever

ROWS = 600


def kill_during(work: str, world: World, delay_s: float) -> list[str]:
    """Lines that the child got out before it was killed, or ended by itself."""
    # A server that has done the slow imports and nothing else forks each child.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crash_child"])
    lines, theirs = context.Pipe(duplex=False)
    child = context.Process(target=crash_child.run, args=(work, world.workspace.root, theirs))
    child.start()
    theirs.close()
    assert lines.recv() == "go"
    time.sleep(delay_s)
    child.kill()
    child.join()
    found = []
    with contextlib.suppress(EOFError):
        while True:
            found.append(lines.recv())
    assert child.exitcode in (0, -signal.SIGKILL)
    return found


def answers(world: World) -> bool:
    """Whether the active release gives the exact answers."""
    with Retriever(world.config) as retriever:
        for query in clustered(3, seed=11):
            found = retriever.search(query, top_k=10, fingerprint=FINGERPRINT)
            exact = {row.id for row, _ in best(world, query)}
            ours = [c.freelancer_id for c in found.candidates if not c.freelancer_id.startswith("online")]
            if not set(ours) <= exact or len(found.candidates) < 10:
                return False
    return True


def best(world: World, query: object) -> list[tuple[Freelancer, float]]:
    scores = world.vectors @ query
    return [(world.rows[i], float(scores[i])) for i in (-scores).argsort()[:10]]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two releases on Milvus Lite, the second active."""
    # Small inserts, in the children too: many places to be killed at.
    settings = MilvusSettings(insert_mb=crash_child.INSERT_MB)
    world = make_world(tmp_path_factory.mktemp("crash") / "w", random_rows(ROWS), clustered(ROWS), settings)
    world.release()
    world.release()
    return world


def trials(default: int = 3, thorough: int = 20) -> list[object]:
    """A few in every run, all when slow tests run."""
    return [*range(default), *(pytest.param(i, marks=pytest.mark.slow) for i in range(default, thorough))]


@pytest.fixture(scope="module")
def build_s(indexed: World) -> float:
    """How long a build takes here, so that kills fall into it."""
    started = time.monotonic()
    indexed.build()
    taken = time.monotonic() - started
    prune(indexed.workspace, indexed.config, keep=0)
    return taken


@pytest.mark.parametrize("trial", trials())
def test_killed_in_mid_build(indexed: World, build_s: float, trial: int) -> None:
    before = active_release(indexed.workspace)
    delay_s = random.Random(trial).uniform(0.02, 0.8) * build_s
    while kill_during("build", indexed, delay_s):  # the machine is faster than when it was measured: it had finished
        delay_s /= 2
    assert active_release(indexed.workspace) == before
    assert answers(indexed)
    release = indexed.build()  # the same command again
    assert release.rows == ROWS
    store = ReleaseStore(indexed.workspace)
    assert {directory.name for directory in store.indexes.glob("*/")} == set(store.names())  # nothing left behind
    prune(indexed.workspace, indexed.config, keep=0)


@pytest.mark.parametrize("trial", trials())
def test_killed_in_mid_switch(indexed: World, trial: int) -> None:
    kill_during("switch", indexed, random.Random(100 + trial).uniform(0.05, 1.5))
    assert active_release(indexed.workspace).name in [release.name for release in list_releases(indexed.workspace)]
    assert answers(indexed)
    first = list_releases(indexed.workspace)[0]
    assert activate(indexed.workspace, first.name, indexed.config).name == first.name
    assert active_release(indexed.workspace).name == first.name


@pytest.mark.parametrize("trial", trials())
def test_killed_in_mid_upsert(indexed: World, trial: int) -> None:
    lines = kill_during("upsert", indexed, random.Random(200 + trial).uniform(0.4, 1.5))
    last = {line.split()[1]: line.split() for line in lines}
    assert answers(indexed)
    with Retriever(indexed.config) as retriever:
        interrupted = 0
        for name, (what, _, *headline) in last.items():
            found = retriever.get(name)
            right = found is None if what == "deleted" else found is not None and [found[1]["headline"]] == headline
            interrupted += not right
        # The one change that was under way when the kill came may be there too, over an accepted one.
        assert interrupted <= 1
        for name in last:
            retriever.delete(name)


def test_killed_at_every_file_that_a_build_writes(
    indexed: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not random: stop before each atomic write of a build, in turn."""
    from skillmatch_ray import files

    store = ReleaseStore(indexed.workspace)
    before = active_release(indexed.workspace)
    writes = 0
    real = files.atomic_file
    while True:
        allowed = writes

        def stopping(path: Path, left: list[int] = [allowed]) -> object:  # noqa: B006
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(path)

        with monkeypatch.context() as patched:
            patched.setattr("skillmatch_ray.files.atomic_file", stopping)
            patched.setattr("skillmatch_ray.index.build.atomic_file", stopping)
            patched.setattr("skillmatch_ray.index.build.clear_unfinished", lambda *_: None)  # as a kill would
            try:
                release = indexed.build()
            except KeyboardInterrupt:
                assert active_release(indexed.workspace) == before
                writes += 1
                continue
        break
    assert writes == 3  # what is begun, the sample, the manifest
    assert release.name in store.names()
    indexed.build()
    assert {directory.name for directory in store.indexes.glob("*/")} == set(store.names())
