"""The stored rates: complete, accounted for, and looked up by trust."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.planning.rates import MissingRateError, Rate, RateBook, load_rates

QUANTITIES = {"speed": {"unit": "1/s", "about": "things done", "measure": "run it"}}
MACHINES = {"big": {"kind": "gpu", "memory_gb": 80, "about": "a card"}}


def book(*rates: dict) -> RateBook:
    return RateBook.model_validate({"quantities": QUANTITIES, "machines": MACHINES, "rates": rates})


def measured(**more):
    return {
        "name": "speed",
        "unit": "1/s",
        "value": 5,
        "how": "measured",
        "date": "2026-11-01",
        "machine": "big",
    } | more


def estimated(**more):
    return {"name": "speed", "unit": "1/s", "value": 9, "how": "estimated", "formula": "3 x 3"} | more


def test_the_shipped_file_keeps_its_own_rules():
    rates = load_rates()
    assert {rate.how for rate in rates.rates} <= {"measured", "estimated"}
    assert {"h100", "l4"} <= set(rates.machines)


def test_a_given_rate_beats_a_measured_one_and_that_an_estimated_one():
    rates = book(estimated(), measured())
    assert rates.need("speed", "big").value == 5
    assert rates.need("speed", "other").value == 9
    assert rates.with_given(["speed=7"]).need("speed", "big").value == 7


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (measured(date=None), "must have a date"),
        (estimated(formula=""), "must have its formula"),
        (measured(name="sped"), "'sped' is not among the quantities"),
        (measured(machine="small"), "'small'"),
        (measured(unit="s"), "in s, not 1/s"),
        (measured(value=0), "greater than 0"),
    ],
)
def test_a_rate_that_nobody_can_account_for_is_refused(rate, words):
    with pytest.raises(ValidationError, match=words):
        book(rate)


def test_a_missing_rate_says_how_to_get_it():
    with pytest.raises(MissingRateError, match="no rate speed for big: run it there, then add --rate speed=VALUE"):
        book().need("speed", "big")


@pytest.mark.parametrize(
    ("given", "words"), [("sped=3", "did you mean 'speed'"), ("speed=fast", "'fast' is not"), ("speed=-1", "'-1'")]
)
def test_a_wrong_rate_on_the_command_line_is_explained(given, words):
    with pytest.raises(ConfigError, match=words):
        book().with_given([given])


def test_the_origin_of_a_rate_is_told():
    assert Rate(**measured(formula="a run")).origin() == "measured 2026-11-01, big: a run"
    assert Rate(**estimated()).origin() == "estimated: 3 x 3"
