"""The loop of one worker: resume, determinism, the golden curve, and that it learns."""

from __future__ import annotations

import pytest
import torch

from skillmatch_ray.training.loop import learning_rate

GOLDEN = [
    2.03031,
    2.03077,
    2.44481,
    2.12387,
    2.42003,
    2.02454,
    1.91131,
    1.80433,
    1.8576,
    1.99314,
    2.20474,
    1.69966,
    1.91821,
    2.1148,
    2.35442,
    2.20216,
    1.75198,
    2.17659,
    1.88875,
    1.95643,
]


def losses(loop, until):
    seen = []
    loop.run(until, lambda report: seen.append(report.loss))
    return seen


def assert_same_weights(one, other, tolerance=0.0):
    for (name, a), (_, b) in zip(one.core.state_dict().items(), other.core.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=name)


def test_two_runs_of_one_seed_are_equal(make_loop):
    one, other = make_loop(), make_loop()
    assert losses(one, 4) == losses(other, 4)
    assert_same_weights(one, other)


@pytest.mark.parametrize("cut", [1, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(make_loop, tmp_path, cut):
    whole, first, second = make_loop(), make_loop(), make_loop()
    expected = losses(whole, 8)
    head = losses(first, cut)
    torch.save(first.state(), tmp_path / "state.pt")
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert head + losses(second, 8) == pytest.approx(expected, abs=1e-6)
    assert_same_weights(whole, second, 1e-6)


def test_the_loss_goes_down(make_loop):
    seen = losses(make_loop(steps=40, learning_rate=3e-3, section_dropout=0.0), 40)
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])


def test_only_the_weights_that_should_move_do(make_loop):
    loop = make_loop(model={"learned_section_weights": False})
    before = {name: value.clone() for name, value in loop.core.state_dict().items()}
    loop.run(2)
    moved = {name for name, value in loop.core.state_dict().items() if not torch.equal(value, before[name])}
    still = {name for name in before if "section_weight" in name or "log_temperature" in name}
    assert still.isdisjoint(moved)
    assert {"towers.project.blocks.0.ffn_out.weight", "towers.freelancer.type_embedding.weight"} <= moved


def test_a_learned_temperature_moves_and_is_kept_in_the_state(make_loop):
    loop = make_loop(loss={"infonce": {"temperature": 0.05, "learn_temperature": True}})
    loop.run(2)
    state = loop.state()["model"]["loss.parts.infonce.log_temperature"]
    assert state.exp().item() != pytest.approx(0.05, abs=1e-6)


def test_learning_rate_by_hand(make_loop):
    """10 steps, warm-up 2: half, full, then cosine from full at step 2 to a tenth at the end."""
    settings = make_loop(steps=10, warmup_share=0.2, learning_rate=1.0).settings
    rates = [learning_rate(step, settings) for step in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])


def test_golden_curve_of_20_steps(make_loop):
    """To take a new golden curve after an intended change: print `seen` and paste it.

    The types are named: one more would take the random numbers that the head's weights are made of.
    """
    types = ("title", "headline", "skills", "description", "soft_skills", "experience")
    seen = losses(make_loop({"section_types": types}, steps=20), 20)
    assert seen == pytest.approx(GOLDEN, abs=1e-4)
