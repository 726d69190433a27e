"""The model card tells the run: configuration, figures, what learned."""

from __future__ import annotations

import pytest

from skillmatch_ray.training.card import model_card


def metrics(**changes):
    figures = {"map": 0.54321, "later/map": 0.4}
    return {"fingerprint": "f" * 64, "steps": 7, "loss": 1.25, "seconds": 3.2, "validation": figures} | changes


def test_a_card_holds_every_figure_of_the_run(tiny_config):
    card = model_card(tiny_config, metrics())
    for told in ("f" * 64, "trained for 7 steps", "last loss 1.2500", "| map | 0.5432 |", "| later/map | 0.4000 |"):
        assert told in card
    assert "infonce (arXiv:1807.03748)" in card
    assert f"projects_per_step: {tiny_config.training.projects_per_step}" in card


@pytest.mark.parametrize(
    ("layers", "told"), [(0, "(frozen)"), (2, "(last 2 layers fine-tuned)"), ("all", "(every weight fine-tuned)")]
)
def test_a_card_tells_what_learned(tiny_config, layers, told):
    training = tiny_config.training.model_copy(update={"trainable_backbone_layers": layers})
    assert told in model_card(tiny_config.model_copy(update={"training": training}), metrics())


def test_without_validation_the_card_says_so(tiny_config):
    assert "No projects were kept for validation" in model_card(tiny_config, metrics(validation={}))
