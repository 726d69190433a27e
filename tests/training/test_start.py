"""Where training starts: centred section types, no language directions, damped strong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from skillmatch_ray.dataset import Dataset
from skillmatch_ray.training.setup import build_model, read_history, state_source
from skillmatch_ray.training.start import DAMPED_FROM, set_start, start_projection, without_languages


def shifted(rows, shifts, seed=0):
    """Vectors of two languages that differ by a shift, and their languages."""
    rng = np.random.default_rng(seed)
    vectors = torch.from_numpy(rng.normal(size=(rows, 6)).astype(np.float32))
    languages = ["de" if i % 2 else "en" for i in range(rows)]
    for i, language in enumerate(languages):
        vectors[i] += torch.tensor(shifts[language])
    return vectors, languages


def test_the_direction_between_two_languages_is_gone_and_nothing_else():
    vectors, languages = shifted(4000, {"en": [3.0, 0, 0, 0, 0, 0], "de": [-3.0, 0, 0, 0, 0, 0]})
    weight = start_projection(vectors, languages)
    moved = vectors @ weight.T
    english = torch.tensor([language == "en" for language in languages])
    assert (moved[english].mean(0) - moved[~english].mean(0)).abs().max() < 1e-3
    assert torch.linalg.matrix_rank(weight, atol=1e-3) == 5
    across = torch.eye(6)[1:] @ weight.T
    assert across.norm(dim=1).min() > 0.9, "directions that are no language's keep their length"


@pytest.mark.parametrize("languages", [["en"] * 40, [""] * 40, ["en"] * 37 + ["fr"] * 3])
def test_one_language_or_too_few_of_another_take_nothing_out(languages):
    assert torch.equal(without_languages(torch.randn(40, 5).double(), np.array(languages)), torch.eye(5).double())


def test_a_strong_direction_is_damped_by_hand():
    """D = 50, variances 1 and once 100: mean m = 149 / 50; scale 1 / sqrt(1 + variance / (10 m))."""
    rng = np.random.default_rng(0)
    spread = np.ones(50)
    spread[0] = 10.0
    vectors = torch.from_numpy((rng.normal(size=(20_000, 50)) * spread).astype(np.float32))
    weight = start_projection(vectors, [""] * len(vectors))
    mean = 149 / 50
    strong, usual = (1 / np.sqrt(1 + variance / (DAMPED_FROM * mean)) for variance in (100.0, 1.0))
    assert weight[0, 0].item() == pytest.approx(strong, rel=0.02)
    assert weight[7, 7].item() == pytest.approx(usual, rel=0.02)


@pytest.mark.parametrize("shared", [False, True])
def test_section_types_are_centred_and_blocks_still_add_nothing(tiny_config, tiny_dataset, tiny_store, shared):
    model_settings = tiny_config.model.model_copy(update={"shared_towers": shared, "dropout": 0.0})
    config = tiny_config.model_copy(update={"model": model_settings})
    source, dim = state_source(config, tiny_store)
    history = read_history(Dataset(Path(tiny_dataset)), config)
    model = build_model(config, dim)
    set_start(model, history, source)
    projects = [history.projects[p] for p in sorted(history.split.train)]
    people = [history.freelancers[f] for f in sorted(history.freelancers)]
    place = {name: i for i, name in enumerate(config.model.section_types)}
    for tower, documents, kind in (
        (model.towers.project, projects, "title"),
        (model.towers.freelancer, people, "headline"),
    ):
        means = [d.states[d.types.index(place[kind])].float().mean(0) for d in source(documents)]
        centre = torch.stack(means).mean(0) + tower.type_embedding.weight[place[kind]]
        assert centre.abs().max() < 1e-4
    assert torch.equal(model.towers.project.projection.weight, model.towers.freelancer.projection.weight)
    for block in model.towers.project.blocks:
        assert not block.attention_out.weight.any()


def test_a_model_without_projection_is_only_centred(tiny_config, tiny_dataset, tiny_store):
    config = tiny_config.model_copy(update={"model": tiny_config.model.model_copy(update={"projection": False})})
    source, dim = state_source(config, tiny_store)
    model = build_model(config, dim)
    set_start(model, read_history(Dataset(Path(tiny_dataset)), config), source)
    assert model.towers.project.projection is None
    assert model.towers.project.type_embedding.weight.any()


def test_the_start_is_a_pure_function_of_the_data(tiny_config, tiny_dataset, tiny_store):
    source, dim = state_source(tiny_config, tiny_store)
    history = read_history(Dataset(Path(tiny_dataset)), tiny_config)
    one, other = build_model(tiny_config, dim), build_model(tiny_config, dim)
    set_start(one, history, source)
    set_start(other, history, source)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
