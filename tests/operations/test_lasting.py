"""What a job would write into its own upload is refused: Ray deletes it some day."""

from __future__ import annotations

import pytest

from skillmatch_ray.cli.options import lasting, settings
from skillmatch_ray.errors import ConfigError


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """The current directory is where Ray unpacks the working directory of a job."""
    directory = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    directory.mkdir(parents=True)
    monkeypatch.chdir(directory)
    return directory


@pytest.mark.usefixtures("upload")
def test_relative_places_are_refused_in_a_job(tmp_path):
    with pytest.raises(ConfigError, match="workspace would lie in the job's own upload"):
        settings(None, None, workspace=None)
    with pytest.raises(ConfigError, match="out would lie in the job's own upload"):
        lasting(tmp_path.cwd() / "out")
    assert settings(None, None, workspace=tmp_path / "w").workspace == tmp_path / "w"
    assert lasting(None) is None


@pytest.mark.usefixtures("upload")
def test_a_verb_that_writes_into_no_workspace_does_not_care():
    assert not settings(None, None).workspace.is_absolute()


def test_outside_a_job_relative_places_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not settings(None, None, workspace=None).workspace.is_absolute()
