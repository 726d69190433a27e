"""One configuration: defaults, file, overrides; errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from skillmatch_ray.config import Config, load_config, with_whole_paths
from skillmatch_ray.errors import ConfigError


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_valid_and_frozen():
    config = load_config()
    assert config == Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_the_last_one_wins(yaml_file):
    file = yaml_file("seed: 2\ntraining: {steps: 20, learning_rate: 1e-3}\n")
    config = load_config(file, ["training.steps=30", "training.steps=40"], {"seed": 1, "model": {"layers": 2}})
    assert (config.seed, config.model.layers, config.training.steps) == (2, 2, 40)
    assert config.training.learning_rate == pytest.approx(1e-3)
    assert config.training.warmup_share == Config().training.warmup_share


def test_what_is_merged_stays_as_the_caller_gave_it():
    base = {"training": {"steps": 10}}
    assert load_config(None, ["training.steps=20", "training.patience=3"], base).training.steps == 20
    assert base == {"training": {"steps": 10}}


def test_a_loss_replaces_the_default_loss():
    config = load_config(None, ["training.loss={triplet: {margin: 0.2}}"])
    assert config.training.loss == {"triplet": {"margin": 0.2}}


def test_the_resolved_configuration_reads_back_as_itself(yaml_file):
    config = load_config(None, ["model.layers=2", "workspace=elsewhere", "training.patience=2"])
    assert load_config(yaml_file(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainng.steps=3", "unknown key 'trainng': did you mean 'training'"),
        ("training.step=3", "unknown key 'training.step': did you mean 'training.steps'"),
        ("model.poolin=attention", "did you mean 'model.pooling'"),
        ("training.steps=0", r"training\.steps: .*greater than or equal to 1 \(given: 0\)"),
        ("training.steps=many", r"training\.steps: .*integer.*given: 'many'"),
        ("model.pooling=max", r"model\.pooling: .*'weighted' or 'attention'"),
        ("training.steps", "must look like section.key=value"),
        ("=3", "must look like section.key=value"),
        ("training.steps=[1", r"override 'training.steps=\[1'.*not a valid YAML value"),
        ("training=3", "training: "),
        ("serving.max_ongoing_requests=4", "twice"),
    ],
)
def test_errors_name_the_key_the_value_and_the_way_out(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_all_errors_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["seed=-1", "training.steps=0", "colour=red"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "just words"])
def test_a_file_that_is_no_mapping_is_named(yaml_file, text):
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load_config(yaml_file(text))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.yaml does not exist"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin1.yaml").write_bytes(b"workspace: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin1\.yaml"):
        load_config(tmp_path / "latin1.yaml")


def test_what_is_named_in_the_current_directory_is_named_in_full(tmp_path, monkeypatch):
    (tmp_path / "backbone").mkdir()
    monkeypatch.chdir(tmp_path)
    overrides = ["backbone.name=backbone", "training.mined_negatives=n.parquet", "glossary=[builtin, names.jsonl]"]
    found = with_whole_paths(load_config(overrides=overrides))
    assert found.backbone.name == str(tmp_path / "backbone")
    assert found.training.mined_negatives == tmp_path / "n.parquet"
    assert found.glossary == ("builtin", str(tmp_path / "names.jsonl"))
    hub = load_config(overrides=["backbone.name=intfloat/multilingual-e5-base"])
    assert with_whole_paths(hub) == hub
    assert with_whole_paths(Config()) == Config()
