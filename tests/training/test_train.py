"""Training through Ray Train: a whole run, its artefacts, and a worker that dies on the way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import ConfigError, DatasetError
from skillmatch_ray.model.matcher import load_matcher
from skillmatch_ray.pipeline.token_states import section_texts
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.training import train as train_module
from skillmatch_ray.training.setup import read_history

pytestmark = pytest.mark.ray_local


def weights(model: Path) -> dict[str, torch.Tensor]:
    return dict(load_matcher(model, "cpu").towers.state_dict())


def test_a_run_writes_a_model_that_loads_and_is_not_repeated(whole, tiny_dataset):
    report, model = whole.report, whole.model
    assert [line["step"] for line in whole.lines if "loss" in line] == list(range(1, 9))
    assert report.steps == 8
    assert not report.reused
    matcher = load_matcher(model, "cpu")
    assert matcher.fingerprint == report.fingerprint
    vectors = matcher.encode_projects(Dataset(Path(tiny_dataset)).projects()[:3])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert report.fingerprint in (model / "README.md").read_text()
    again, _, _ = whole.runs("whole", **whole.settings)
    assert again.reused
    assert again.fingerprint == report.fingerprint


def test_a_glossary_is_read_with_the_history_and_kept_with_the_model(run, tiny_backbone, tiny_dataset, tmp_path):
    """Named as a file in the current directory, which is not that of the workers."""
    (tmp_path / "names.jsonl").write_text('{"en": ["code"], "xx": ["react"]}\n{"en": ["law"], "xx": ["tax law"]}\n')
    config = run.config.model_copy(update={"glossary": (os.path.relpath(tmp_path / "names.jsonl"),)})
    glossary = read_glossary(config.glossary)
    plain, told = (read_history(Dataset(tiny_dataset), one) for one in (run.config, config))
    assert told.freelancers == {key: glossary.read(one) for key, one in plain.freelancers.items()} != plain.freelancers
    texts = dict.fromkeys(section_texts(Dataset(tiny_dataset), config.backbone, glossary))
    store = TokenStateStore(tmp_path / "states", tiny_backbone.fingerprint, tiny_backbone.dim)
    store.add(list(texts), tiny_backbone.encode(list(texts)))
    runs = type(run)(config, run.dataset, store.root, tmp_path)
    report, model, _ = runs("told", steps=2)
    matcher = load_matcher(model, "cpu")
    assert matcher.glossary == glossary
    assert matcher.fingerprint == report.fingerprint
    assert runs("told", steps=2)[0].reused
    assert train_module.training_key(config, Dataset(tiny_dataset)) != train_module.training_key(
        run.config, Dataset(tiny_dataset)
    )


def test_metrics_go_to_tensorboard_too(whole):
    lines = whole.lines
    events = list(read_events(whole.runs.directory / "run-whole" / "tensorboard"))
    losses = {step: value for step, tag, value in events if tag == "train/loss"}
    assert losses == pytest.approx({line["step"]: line["loss"] for line in lines if "loss" in line}, abs=1e-5)
    figures = {(step, tag): value for step, tag, value in events if tag.startswith("validation/")}
    told = {
        (line["step"], f"validation/{name.replace('@', '_')}"): value
        for line in lines
        if "validation" in line
        for name, value in line["validation"].items()
    }
    assert figures == pytest.approx(told, abs=1e-5)
    assert {step for step, _ in figures} == {4, 8}
    assert {tag for _, tag, _ in events} >= {"train/tokens_per_s", "train/learning_rate", "train/negatives_per_anchor"}


def read_events(directory: Path):
    """(step, tag, value) of the event files: records of length (8 bytes), check (4), message, check (4)."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(directory.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_two_workers_train_on_the_batches_of_one_and_stop_together(run, whole):
    """A rate of next to nothing gains nothing: the second and third validation are stale, and the third ends it.

    The first loss comes before any step, so that it is that of one worker but for dropout, which differs by worker.
    """
    report, _, lines = run(
        "stop",
        workers=2,
        steps=12,
        validate_every=2,
        checkpoint_every=2,
        patience=2,
        stop_metric="ndcg@10",
        learning_rate=1e-12,
        projection_rate=1e-12,
        section_weight_rate=1e-12,
    )
    assert report.steps == 6
    assert report.validation["ndcg@10"] == max(line["validation"]["ndcg@10"] for line in lines if "validation" in line)
    ours, alone = (next(line for line in found if "loss" in line) for found in (lines, whole.lines))
    assert ours["documents"] == alone["documents"]
    assert ours["negatives_per_anchor"] == alone["negatives_per_anchor"]
    assert ours["loss"] == pytest.approx(alone["loss"], abs=0.05)


def test_a_wrong_stop_metric_is_refused_before_anything_runs(run):
    with pytest.raises(ConfigError, match="did you mean 'ndcg@10'"):
        run("wrong", stop_metric="ndgc@10")


def test_a_worker_killed_in_mid_run_ends_with_the_weights_of_an_uninterrupted_run(run, whole, tmp_path, monkeypatch):
    flag = tmp_path / "died"
    monkeypatch.setattr(train_module, "train_worker", _dying_worker(str(flag)))
    _, killed, lines = run("killed", **whole.settings)
    assert flag.exists()
    steps = [line["step"] for line in lines if "loss" in line]
    assert len(steps) > 8, "the worker went on without having been killed"
    expected, found = weights(whole.model), weights(killed)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)


def _dying_worker(flag: str):
    """The real worker, which kills its own process once, after step 5."""

    def worker(payload):
        from skillmatch_ray.training import train as module
        from skillmatch_ray.training.metrics_log import MetricsLog

        log = MetricsLog.step

        def fatal_step(self, report):
            log(self, report)
            if report.step == 5 and not Path(flag).exists():
                Path(flag).touch()
                os._exit(13)

        MetricsLog.step = fatal_step
        module.train_worker(payload)

    return worker


def test_held_out_projects_never_reach_training(tiny_config, tiny_dataset):
    dataset = Dataset(Path(tiny_dataset))
    history = read_history(dataset, tiny_config)
    latest = sorted(dataset.projects(), key=lambda p: (p.created_at, p.id))[-4:]
    assert history.split.test == {p.id for p in latest}
    assert history.split.test.isdisjoint(history.projects)
    assert history.split.test.isdisjoint(history.relations.signs)
    assert history.split.train.isdisjoint(history.split.validation)


def test_missing_token_states_are_named(ray_session, tiny_config, tiny_dataset, tiny_backbone, tmp_path):
    from skillmatch_ray.backbone.store import TokenStateStore
    from skillmatch_ray.training.setup import state_source

    TokenStateStore(tmp_path / "empty", tiny_backbone.fingerprint, tiny_backbone.dim)
    source, _ = state_source(tiny_config, tmp_path / "empty")
    project = Dataset(Path(tiny_dataset)).projects()[0]
    with pytest.raises(DatasetError, match=project.id):
        source([project])
