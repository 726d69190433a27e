"""kill -9 of the driver, of an actor and of a node at random moments: nothing lost, nothing doubled.

pytest tests/pipeline/test_kills.py -m "slow or not slow" --trials 20 kills each of them twenty times.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from pipeline_helpers import assert_same_vectors, profiles, vectors_by_id, write_freelancers
from waiting import wait_for

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.files import read_json
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.pipeline.encode import encode_freelancers

ROWS = 600
BLOCK = 4
MakeConfig = Callable[..., Config]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("trial", range(metafunc.config.getoption("--trials")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(write_freelancers(tmp_path_factory.mktemp("data"), profiles(ROWS)))


@pytest.fixture(scope="module")
def expected(dataset: Dataset, model_dir: Path) -> dict[str, np.ndarray]:
    """What an uninterrupted plain loop computes."""
    people = dataset.freelancers()
    vectors = load_matcher(model_dir, "cpu").encode_freelancers(people)
    return dict(zip([person.id for person in people], vectors, strict=True))


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def random_moment(trial: int) -> int:
    """Parts that are there when the kill comes: somewhere in the middle of the run."""
    return random.Random(trial).randrange(1, ROWS // BLOCK * 2 // 3)


def end(processes: list[psutil.Process]) -> None:
    """The killed driver's own Ray goes down by itself, or is ended."""
    _, alive = psutil.wait_procs(processes, timeout=3)
    for process in alive:
        process.kill()


def driver_environment(trial: int) -> dict[str, str]:
    """The first driver starts a Ray of its own, which dies with it; the others use the session's, which lives on."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return environment if trial == 0 else environment | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.mark.ray_local
@pytest.mark.usefixtures("ray_session")
def test_a_killed_driver_is_continued(
    tmp_path: Path,
    trial: int,
    dataset: Dataset,
    model_dir: Path,
    make_config: MakeConfig,
    expected: dict[str, np.ndarray],
) -> None:
    out, config = tmp_path / "out", make_config(workers=2, rows_per_block=BLOCK)
    (tmp_path / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    script = Path(__file__).with_name("drive_encode.py")
    places = [str(place) for place in (tmp_path / "config.json", dataset.root, model_dir, out)]
    with subprocess.Popen([sys.executable, str(script), *places], env=driver_environment(trial)) as driver:
        wait_for(lambda: parts(out) >= random_moment(trial) or driver.poll() is not None, "a part")
        assert driver.poll() is None, "the run ended before it could be killed"
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    end(family)
    assert not (out / "manifest.parquet").exists()
    report = encode_freelancers(make_config(rows_per_block=BLOCK), dataset, model_dir, out)
    assert report.reused >= random_moment(trial) * BLOCK
    assert report.encoded + report.reused == report.rows_out == ROWS
    assert_same_vectors(vectors_by_id(out), expected, atol=1e-3)
    assert not list(out.glob(".*.tmp"))


def actors() -> Iterator[int]:
    """Process ids of the encoding actors of this session's Ray."""
    for process in psutil.Process().children(recursive=True):
        command = process.cmdline()
        if command and "DocumentEncoder" in command[0]:
            yield process.pid


@pytest.mark.ray_local
@pytest.mark.usefixtures("ray_session")
def test_a_killed_actor_costs_no_row(
    tmp_path: Path,
    trial: int,
    dataset: Dataset,
    model_dir: Path,
    make_config: MakeConfig,
    expected: dict[str, np.ndarray],
) -> None:
    out, killed = tmp_path / "out", []

    def kill() -> None:
        wait_for(lambda: parts(out) >= random_moment(trial), "a part")
        victim = random.Random(trial).choice(sorted(actors()))
        os.kill(victim, 9)
        killed.append(victim)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    report = encode_freelancers(make_config(workers=2, rows_per_block=BLOCK), dataset, model_dir, out)
    killer.join(5)
    assert killed
    assert report.encoded == report.rows_out == ROWS
    assert_same_vectors(vectors_by_id(out), expected, atol=1e-3)


@pytest.mark.slow
def test_a_lost_node_costs_no_row(
    tmp_path: Path,
    trial: int,
    dataset: Dataset,
    model_dir: Path,
    make_config: MakeConfig,
    expected: dict[str, np.ndarray],
) -> None:
    """Each of the two nodes has room for one of the two actors."""
    config = make_config(workers=2, rows_per_block=BLOCK, cpus_per_worker=1.5)
    (tmp_path / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    script = Path(__file__).with_name("drive_cluster.py")
    places = [str(place) for place in (tmp_path / "config.json", dataset.root, model_dir, tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, str(script), *places, str(random_moment(trial))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_json(tmp_path / "out" / "result.json") == {"removed": True, "encoded": ROWS, "rows": ROWS}
    assert_same_vectors(vectors_by_id(tmp_path / "out"), expected, atol=1e-3)
