"""Losses against arithmetic done by hand, finite differences and each other."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.losses.a_triplet import ATriplet
from skillmatch_ray.losses.base import Loss
from skillmatch_ray.losses.dual_a_triplet import DualATriplet
from skillmatch_ray.losses.infonce import InfoNCE
from skillmatch_ray.losses.triplet import Triplet
from skillmatch_ray.losses.weighted_sum import build_loss

P = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
FR = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
# cosines: p0 -> 1.0, 0.6, 0.0; p1 -> 0.0, 0.8, 1.0
SIGNS = torch.tensor([[1, -1, 0], [0, 1, 1]], dtype=torch.int8)
WEAK = torch.tensor([[False, False, True], [True, False, False]])

ALL_LOSSES = [
    InfoNCE(0.5),
    InfoNCE(0.5, weak_weight=0.3, unknown_weight=0.0),
    InfoNCE(0.5, learn_temperature=True, direction="freelancer"),
    Triplet(0.7),
    ATriplet(0.7, weak_weight=0.5),
    DualATriplet(0.7),
    build_loss({"infonce": {"weight": 0.5}, "a_triplet": {"margin": 0.4}}),
]


def value(loss: Loss, signs: torch.Tensor = SIGNS, weak: torch.Tensor = WEAK) -> float:
    return loss.from_embeddings(P, FR, signs, weak).item()


def test_infonce_project_direction_by_hand():
    """tau = 1. p0: positive f0 (1.0), negatives f1 (0.6), f2 (0.0). p1: positives f1, f2, negative f0 (0.0)."""
    p0 = math.log(1 + (math.exp(0.6) + math.exp(0.0)) / math.exp(1.0))
    p1_f1 = math.log(1 + math.exp(0.0) / math.exp(0.8))
    p1_f2 = math.log(1 + math.exp(0.0) / math.exp(1.0))
    assert value(InfoNCE(1.0, direction="project")) == pytest.approx((p0 + p1_f1 + p1_f2) / 3, abs=1e-6)


def test_infonce_weights_by_hand():
    """Weak pairs at 0.5: p0 keeps f1 at 1 and f2 at 0.5; p1 has only the weak f0."""
    p0 = math.log(1 + (math.exp(0.6) + 0.5 * math.exp(0.0)) / math.exp(1.0))
    p1 = [math.log(1 + 0.5 / math.exp(s)) for s in (0.8, 1.0)]
    loss = InfoNCE(1.0, direction="project", weak_weight=0.5)
    assert value(loss) == pytest.approx((p0 + sum(p1)) / 3, abs=1e-6)


def test_infonce_both_is_the_mean_of_both_directions():
    both, one, other = (value(InfoNCE(0.3, direction=d)) for d in ("both", "project", "freelancer"))
    assert both == pytest.approx((one + other) / 2, abs=1e-6)


def test_infonce_equals_cross_entropy_for_one_positive_each():
    torch.manual_seed(0)
    p, f = F.normalize(torch.randn(6, 8), dim=1), F.normalize(torch.randn(6, 8), dim=1)
    eye = torch.eye(6, dtype=torch.int8)
    expected = F.cross_entropy(p @ f.T / 0.1, torch.arange(6))
    loss = InfoNCE(0.1, direction="project").from_embeddings(p, f, eye, eye > 1)
    torch.testing.assert_close(loss, expected)


def test_a_known_positive_is_never_pushed_away():
    """Turning another freelancer into a known positive removes the force between it and the anchor's other positive."""
    p, f = P[:1].clone().requires_grad_(), FR[:2].clone().requires_grad_()
    signs = torch.tensor([[1, 1]], dtype=torch.int8)
    loss = InfoNCE(0.1, direction="project").from_embeddings(p, f, signs, signs > 1)
    loss.backward()
    assert loss.item() == 0
    assert f.grad is not None
    assert torch.isfinite(f.grad).all()
    assert f.grad.abs().max() == 0


def test_triplet_by_hand():
    """Only p0 has a stated negative: max(0, 0.7 - 1.0 + 0.6) = 0.3."""
    assert value(Triplet(0.7)) == pytest.approx(0.3, abs=1e-6)


def test_a_triplet_by_hand():
    """Margin 1, all weights 1.

    Rows: p0/f0 against f1: 1-1+.6=.6, f2: 1-1+0=0; p1/f1 against f0: 1-.8+0=.2; p1/f2 against f0: 0. Mean of 4: .2
    Columns: f0/p0 against p1: 1-1+0=0; f1/p1 against p0: 1-.8+.6=.8; f2/p1 against p0: 0. Mean of 3: .8/3
    """
    assert value(ATriplet(1.0)) == pytest.approx((0.2 + 0.8 / 3) / 2, abs=1e-6)


def test_a_triplet_with_stated_negatives_only_is_the_triplet_over_rows_and_columns():
    """Columns: f1's positive p1 against p0: 0.7 - 0.8 + 0.6 = 0.5; with the row's 0.3 the mean is 0.4."""
    assert value(ATriplet(0.7, weak_weight=0, unknown_weight=0)) == pytest.approx(0.4, abs=1e-6)


def test_dual_part_by_hand():
    """f1+f2 go together (p1); f0 and f1 are apart (p0). cos(f1,f2)=.8, cos(f0,f1)=.6, margin 1.

    f1's positive f2 against f0: 1 - .8 + .6 = .8; f2 has no negative; f0 no positive. Mean .8
    """
    base, dual = value(ATriplet(1.0)), value(DualATriplet(1.0, dual_weight=0.5))
    assert dual - base == pytest.approx(0.5 * 0.8, abs=1e-6)


def test_dual_weight_zero_is_a_triplet():
    assert value(DualATriplet(0.6, dual_weight=0)) == pytest.approx(value(ATriplet(0.6)))


def test_weighted_sum():
    total = value(build_loss({"infonce": {"weight": 0.5, "temperature": 0.5}, "triplet": {"margin": 0.7}}))
    assert total == pytest.approx(0.5 * value(InfoNCE(0.5)) + value(Triplet(0.7)), abs=1e-6)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradients_match_finite_differences(loss):
    torch.manual_seed(1)
    p = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    f = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    signs = torch.tensor([[1, -1, 0, 0, 1], [0, 1, -1, 1, 0], [0, 0, 1, 0, -1]], dtype=torch.int8)
    weak = torch.zeros(3, 5, dtype=torch.bool)
    weak[0, 2] = weak[2, 1] = True
    loss = loss.double()

    def function(p: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return loss.from_embeddings(F.normalize(p, dim=1), F.normalize(f, dim=1), signs, weak)

    assert torch.autograd.gradcheck(function, (p, f), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=lambda loss: type(loss).__name__)
def test_without_positives_the_loss_is_zero_with_a_finite_gradient(loss):
    p, f = P.clone().requires_grad_(), FR.clone().requires_grad_()
    nothing = torch.zeros(2, 3, dtype=torch.int8)
    result = loss.float().from_embeddings(p, f, nothing, nothing > 0)
    result.backward()
    assert result.item() == 0
    assert p.grad is None or torch.isfinite(p.grad).all()


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=lambda loss: type(loss).__name__)
def test_the_order_of_the_batch_does_not_matter(loss):
    rows, columns = torch.tensor([1, 0]), torch.tensor([2, 0, 1])
    shuffled = loss.float().from_embeddings(P[rows], FR[columns], SIGNS[rows][:, columns], WEAK[rows][:, columns])
    torch.testing.assert_close(shuffled.item(), value(loss.float()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"infonce": {"temperature": 0}}, "temperature"),
        ({"infonze": {}}, "infonce"),
        ({"triplet": {"margin": -1}}, "margin"),
        ({"triplet": {"marjin": 1}}, "marjin"),
        ({"a_triplet": {"weak_weight": -0.5}}, "-0.5"),
        ({"dual_a_triplet": {"dual_weight": -2}}, "-2"),
        ({"infonce": {"weight": 0}}, "weight"),
        ({}, "names no loss"),
    ],
)
def test_bad_settings_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(config)


@pytest.mark.parametrize("name", ["infonce", "triplet", "a_triplet", "dual_a_triplet"])
def test_config_dict_rebuilds_the_loss(name):
    loss = build_loss({name: {"weight": 2.0}})
    assert value(build_loss(loss.config_dict())) == pytest.approx(value(loss))
