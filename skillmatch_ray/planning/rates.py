"""The stored rates that `skillmatch plan` computes with: rates.yaml, read and looked up."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Sequence
from importlib import resources
from typing import Literal

import yaml
from pydantic import Field, model_validator

from skillmatch_ray.config import Settings
from skillmatch_ray.errors import ConfigError

ANY = "any"
"""Machine of a rate that does not depend on one."""


class MissingRateError(Exception):
    """A step cannot be computed: nobody has measured or estimated a rate that it needs.

    Args:
        message: names the rate and how to get it.
    """


class Quantity(Settings):
    """What a rate tells.

    Attributes:
        unit: of its value.
        about: its meaning.
        measure: the command that prints it.
    """

    unit: str
    about: str
    measure: str


class Machine(Settings):
    """Something that rates were taken on, or are estimated for.

    Attributes:
        kind: what it computes with.
        about: processor or card.
        memory_gb: of the machine, or of the card.
    """

    kind: Literal["cpu", "gpu"]
    about: str
    memory_gb: float


class Rate(Settings):
    """One figure.

    Attributes:
        name: one of the quantities.
        machine: one of the machines, or "any".
        value: in `unit`.
        unit: of the quantity.
        how: `given` comes from the command line.
        date: of the measurement.
        formula: how it was estimated; of a measured one, the run that printed it.
    """

    name: str
    machine: str = ANY
    value: float = Field(gt=0)
    unit: str
    how: Literal["measured", "estimated", "given"]
    date: dt.date | None = None
    formula: str = ""

    @model_validator(mode="after")
    def _is_accounted_for(self) -> Rate:
        if self.how == "measured" and self.date is None:
            raise ValueError(f"measured rate {self.name} ({self.machine}) must have a date")
        if self.how == "estimated" and not self.formula:
            raise ValueError(f"estimated rate {self.name} ({self.machine}) must have its formula")
        return self

    def origin(self) -> str:
        """Where it comes from, for people."""
        if self.how == "given":
            return "given"
        told = f"measured {self.date}, {self.machine}" if self.how == "measured" else "estimated"
        return f"{told}: {self.formula}" if self.formula else told


_TRUST = {"given": 0, "measured": 1, "estimated": 2}


class RateBook(Settings):
    """Everything in rates.yaml.

    Attributes:
        quantities: name -> what it tells.
        machines: name -> what it is.
        rates: in no order; a given one beats a measured one, that an estimated one.
    """

    quantities: dict[str, Quantity]
    machines: dict[str, Machine]
    rates: tuple[Rate, ...]

    @model_validator(mode="after")
    def _names_are_known(self) -> RateBook:
        for rate in self.rates:
            if rate.name not in self.quantities:
                raise ValueError(f"rate {rate.name!r} is not among the quantities")
            if rate.machine != ANY and rate.machine not in self.machines:
                raise ValueError(f"machine {rate.machine!r} of rate {rate.name} is not among the machines")
            if rate.unit != self.quantities[rate.name].unit:
                raise ValueError(
                    f"rate {rate.name} ({rate.machine}) is in {rate.unit}, not {self.quantities[rate.name].unit}"
                )
        return self

    def find(self, name: str, machine: str = ANY) -> Rate | None:
        """The most trusted rate of a machine (of whichever, where none is named), or None."""
        named = [rate for rate in self.rates if rate.name == name]
        fitting = [rate for rate in named if rate.machine == machine or ANY in {machine, rate.machine}]
        return min(fitting, key=lambda rate: (_TRUST[rate.how], rate.machine == ANY), default=None)

    def need(self, name: str, machine: str = ANY) -> Rate:
        """The most trusted rate of a machine.

        Raises:
            MissingRateError: if there is none; the message says how to get one.
        """
        found = self.find(name, machine)
        if found is None:
            quantity = self.quantities[name]
            raise MissingRateError(
                f"no rate {name} for {machine}: {quantity.measure} there, then add "
                f"--rate {name}=VALUE ({quantity.unit}: {quantity.about})"
            )
        return found

    def with_given(self, assignments: Sequence[str]) -> RateBook:
        """A book in which `NAME=VALUE` hold for every machine.

        Raises:
            ConfigError: for an unknown name (names the nearest) or a value that is no positive number.
        """
        given = tuple(self._given(assignment) for assignment in assignments)
        return self.model_copy(update={"rates": (*given, *self.rates)})

    def _given(self, assignment: str) -> Rate:
        name, _, text = assignment.partition("=")
        if name not in self.quantities:
            near = difflib.get_close_matches(name, self.quantities, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown rate {name!r} in --rate {assignment}: did you mean {near!r}?")
        try:
            return Rate(name=name, value=float(text), unit=self.quantities[name].unit, how="given")
        except ValueError as e:
            raise ConfigError(f"--rate {assignment}: {text!r} is not a positive number") from e


def load_rates() -> RateBook:
    """The rates that ship with the package.

    Raises:
        pydantic.ValidationError: if rates.yaml breaks its own rules, which a test forbids.
    """
    text = resources.files("skillmatch_ray.planning").joinpath("rates.yaml").read_text(encoding="utf-8")
    return RateBook.model_validate(yaml.safe_load(text))
