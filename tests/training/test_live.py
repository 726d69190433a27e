"""Live token states, and layers of the backbone that learn too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.trainable import TrainableBackbone
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import BackboneError, ConfigError, FingerprintError
from skillmatch_ray.model.matcher import load_matcher, load_towers
from skillmatch_ray.training.loop import BACKBONE


def losses(loop, until):
    seen = []
    loop.run(until, lambda report: seen.append(report.loss))
    return seen


def test_live_states_give_the_loss_of_cached_ones(make_loop):
    assert losses(make_loop(live_states=True), 4) == pytest.approx(losses(make_loop(), 4), abs=2e-3)


def test_unfrozen_layers_change_nothing_before_they_learn(make_loop):
    """With a rate of next to nothing k layers equal none, dropout of the backbone included."""
    trained = make_loop(trainable_backbone_layers=2, backbone_learning_rate=1e-12)
    assert losses(trained, 4) == pytest.approx(losses(make_loop(live_states=True), 4), abs=2e-3)


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [(1, {"encoder.layer.1."}), (2, {"encoder.layer.0.", "encoder.layer.1."}), ("all", {"encoder.", "embeddings."})],
)
def test_gradients_reach_exactly_the_layers_that_learn(make_loop, layers, wanted):
    loop = make_loop(trainable_backbone_layers=layers)
    before = {name: value.clone() for name, value in loop.core.backbone.model.named_parameters()}
    loop.run(2)
    moved = {n for n, value in loop.core.backbone.model.named_parameters() if not torch.equal(value, before[n])}
    expected = {n for n in before if n.startswith(tuple(wanted))}
    # Keys have no influence on a softmax through their bias: it gets no gradient beyond rounding.
    assert {n for n in expected if ".key.bias" not in n} <= moved <= expected
    assert {n.removeprefix(BACKBONE) for n in loop.core.tuned()} == expected


def test_a_checkpoint_holds_only_what_learns_and_resumes(make_loop, tmp_path):
    whole, first, second = (make_loop(trainable_backbone_layers=1) for _ in range(3))
    expected = losses(whole, 5)
    head = losses(first, 2)
    torch.save(first.state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    names = {name for name in state["model"] if name.startswith(BACKBONE)}
    assert names
    assert all(name.startswith(BACKBONE + "encoder.layer.1.") for name in names)
    second.load_state(state)
    assert head + losses(second, 5) == pytest.approx(expected, abs=1e-5)


def test_more_layers_than_there_are_is_an_error(make_loop):
    with pytest.raises(ConfigError, match=r"trainable_backbone_layers \(3\) is more than the 2 layers"):
        make_loop(trainable_backbone_layers=3)


def test_states_of_the_trainable_backbone_are_those_of_the_frozen_one(tiny_backbone, tiny_checkpoint):
    texts = ["query: React developer", "passage: the and", "query: a much longer text about tax law and audits"]
    ids = tiny_backbone.tokenize(texts)
    trainable = TrainableBackbone(tiny_checkpoint, 1, token_budget=40).train()
    expected = tiny_backbone.encode(texts)
    for i, states in enumerate(trainable(ids)):
        torch.testing.assert_close(states, expected[i], rtol=1e-4, atol=1e-5)
        assert states.requires_grad


@pytest.mark.ray_local
def test_a_fine_tuned_model_is_saved_whole_and_is_a_space_of_its_own(run, tiny_dataset, tiny_backbone, tiny_store):
    report, model, _ = run("tuned", steps=3, validate_every=3, trainable_backbone_layers=1, backbone_learning_rate=1e-2)
    weights = load_file(model / "model.safetensors")
    tuned = {name for name in weights if name.startswith("backbone.")}
    assert tuned
    assert all(name.startswith("backbone.encoder.layer.1.") for name in tuned)
    matcher = load_matcher(model, "cpu", store_dir=tiny_store)
    assert matcher.fingerprint == report.fingerprint
    assert matcher.store is None, "states of the frozen backbone are not those of the tuned one"
    assert matcher.backbone.fingerprint != tiny_backbone.fingerprint
    projects = Dataset(Path(tiny_dataset)).projects()[:4]
    vectors = matcher.encode_projects(projects)
    frozen = load_matcher(model, backbone=tiny_backbone)
    np.testing.assert_allclose(frozen.encode_projects(projects), vectors, atol=1e-6)
    again = load_matcher(model, backbone=matcher.backbone)
    assert again.backbone is matcher.backbone
    assert again.fingerprint == report.fingerprint
    with pytest.raises(FingerprintError):
        load_towers(model, tiny_backbone.fingerprint)
    matcher.save(model.parent / "copy")
    np.testing.assert_array_equal(load_matcher(model.parent / "copy", "cpu").encode_projects(projects), vectors)
    untuned = matcher.towers.encode("project", frozen_states(tiny_backbone, matcher, projects))
    assert np.abs(untuned - vectors).max() > 1e-3


def frozen_states(backbone, matcher, projects):
    from skillmatch_ray.model.matcher import Matcher

    return Matcher(backbone, matcher.towers).token_states("project", projects)


def test_weights_that_do_not_fit_the_backbone_are_refused(tiny_backbone):
    with pytest.raises(BackboneError, match="the fine-tuned one is"):
        tiny_backbone.with_tuned({"encoder.layer.1.output.dense.bias": torch.zeros(tiny_backbone.dim + 1)})
    with pytest.raises(BackboneError, match="lacks tensor"):
        tiny_backbone.with_tuned({"encoder.layer.9.output.dense.bias": torch.zeros(tiny_backbone.dim)})
    assert isinstance(tiny_backbone.with_tuned({}), Backbone)
