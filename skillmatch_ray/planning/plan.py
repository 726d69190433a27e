"""`skillmatch plan`: workers, hours, memory, disk and replicas for a number of freelancers and requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table

from skillmatch_ray.config import ModelSettings
from skillmatch_ray.planning.flops import transformer_flops
from skillmatch_ray.planning.rates import MissingRateError, Rate, RateBook

E5_SMALL: Final = {"layers": 12, "dim": 384, "ffn": 1536}
"""Shape of the embedded backbone, which the rates are for."""
SECTION_TOKENS: Final = 48
"""Length of a section that attention is reckoned with; at 384 dimensions it hardly matters."""
HOUR: Final = 3600.0
GIGABYTE: Final = 1e9


@dataclass(frozen=True)
class Demand:
    """What is asked for.

    Attributes:
        freelancers: in the index.
        tokens_per_profile: of all sections of a freelancer.
        qps: briefs a second at the peak.
        gpu: card that encodes; None = CPUs.
        cpu: machine of everything else.
        hours: in which all freelancers shall be encoded; it decides the number of workers.
        tokens_per_brief: of a project.
    """

    freelancers: int
    tokens_per_profile: int = 600
    qps: float = 0.0
    gpu: str | None = None
    cpu: str = "epyc-2"
    hours: float = 8.0
    tokens_per_brief: int = 350

    @property
    def tokens(self) -> float:
        """Of all freelancers."""
        return float(self.freelancers) * self.tokens_per_profile

    @property
    def encoder(self) -> str:
        """The machine that runs the backbone."""
        return self.gpu or self.cpu


@dataclass(frozen=True)
class Step:
    """One step of making an index.

    Attributes:
        name: for people.
        units: how many work side by side.
        unit: what they are.
        hours: that they take.
        rates: that it was computed from.
    """

    name: str
    units: int
    unit: str
    hours: float
    rates: tuple[Rate, ...]


@dataclass(frozen=True)
class Size:
    """An amount of memory, disk or replicas.

    Attributes:
        name: for people.
        amount: in `unit`.
        unit: "GB" or what is counted.
        rates: that it was computed from.
    """

    name: str
    amount: float
    unit: str
    rates: tuple[Rate, ...]


@dataclass
class Plan:
    """The answer.

    Attributes:
        demand: what was asked for.
        steps: of one full build, one after the other.
        sizes: memory and disk.
        replicas: of the service.
        missing: what could not be computed, and how to get the rate.
        machines: those that the plan speaks of -> what they are.
    """

    demand: Demand
    steps: list[Step] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    replicas: list[Size] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    machines: dict[str, str] = field(default_factory=dict)

    @property
    def bottleneck(self) -> Step | None:
        """The step that takes longest with the workers planned; None where none could be computed."""
        return max(self.steps, key=lambda step: step.hours, default=None)

    @property
    def serving_bottleneck(self) -> Size | None:
        """What needs most replicas; None where none could be computed."""
        return max(self.replicas, key=lambda size: size.amount, default=None)

    @property
    def hours(self) -> float:
        """Of all steps that could be computed."""
        return sum(step.hours for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        bottleneck = self.bottleneck.name if self.bottleneck else None
        serving = self.serving_bottleneck.name if self.serving_bottleneck else None
        return asdict(self) | {"bottleneck": bottleneck, "serving_bottleneck": serving, "hours": self.hours}

    def render(self) -> Group:
        """For people: steps, sizes, where the rates come from, what is missing."""
        parts: list[RenderableType] = [self._steps(), self._sizes(), self._conclusion(), *self._origins()]
        return Group(*parts)

    def _steps(self) -> Table:
        demand = self.demand
        table = Table(
            "step", "side by side", "hours",
            title=f"{demand.freelancers:,} freelancers x {demand.tokens_per_profile} tokens", title_justify="left",
        )  # fmt: skip
        for step in self.steps:
            table.add_row(step.name, f"{step.units} {step.unit}", f"{step.hours:,.2f}")
        return table

    def _sizes(self) -> Table:
        table = Table("memory, disk, replicas", "amount", title_justify="left")
        for size in (*self.sizes, *self.replicas):
            table.add_row(size.name, f"{size.amount:,.4g} {size.unit}")
        return table

    def _conclusion(self) -> str:
        if self.bottleneck is None:
            return "no step has all the rates that it needs"
        share = self.bottleneck.hours / self.hours
        scope = "the steps that have rates" if self.missing else "all"
        text = f"{self.hours:,.1f} h in {scope}; the bottleneck is: {self.bottleneck.name} ({share:.0%})"
        serving = self.serving_bottleneck
        return f"{text}; of serving: {serving.name} ({serving.amount:.0f})" if serving else text

    def _origins(self) -> list[str]:
        parts: list[Step | Size] = [*self.steps, *self.sizes, *self.replicas]
        used = {rate.name: rate for part in parts for rate in part.rates}
        lines = [f"  {rate.name} = {rate.value:,.4g} {rate.unit} ({rate.origin()})" for rate in used.values()]
        machines = [f"  {name}: {about}" for name, about in self.machines.items()]
        missing = [f"missing: {text}" for text in self.missing]
        return [*(["rates:"] if lines else []), *machines, *lines, *missing]


def size_workload(demand: Demand, book: RateBook) -> Plan:
    """Compute every step and size that the book has rates for, and name the rates that it lacks."""
    known = {name: book.machines[name] for name in (demand.cpu, demand.gpu) if name in book.machines}
    plan = Plan(demand, machines={name: f"{one.about}, {one.memory_gb:g} GB" for name, one in known.items()})
    for compute in (_survey, _encode, _index):
        _try(plan, lambda compute=compute: plan.steps.append(compute(demand, book)))  # type: ignore[misc]
    for measure in (_worker_rate, _feeding, _worker_memory, _driver_memory, _vectors, _index_disk, _index_memory):
        _try(plan, lambda measure=measure: plan.sizes.append(measure(demand, book)))  # type: ignore[misc]
    if demand.qps:
        for count in (_encoder_replicas, _retriever_replicas, _ingress_replicas):
            _try(plan, lambda count=count: plan.replicas.append(count(demand, book)))  # type: ignore[misc]
    return plan


def _try(plan: Plan, compute: Callable[[], None]) -> None:
    try:
        compute()
    except MissingRateError as e:
        if str(e) not in plan.missing:
            plan.missing.append(str(e))


def backbone_rate(book: RateBook, machine: str) -> Rate:
    """Tokens per second of one worker's backbone."""
    return _computed_rate(book, "backbone_tokens_per_s", machine, transformer_flops(**E5_SMALL, length=SECTION_TOKENS))


def head_rate(book: RateBook, machine: str) -> Rate:
    """Tokens per second of one worker's head, over whole documents."""
    head, dim = ModelSettings(), E5_SMALL["dim"]
    flops = transformer_flops(
        layers=head.layers, dim=dim, ffn=head.ffn or 4 * dim, length=head.max_document_tokens
    )  # fmt: skip
    return _computed_rate(book, "head_tokens_per_s", machine, flops)


def _computed_rate(book: RateBook, name: str, machine: str, flops: float) -> Rate:
    """The stored rate, or else the share of the machine's matrix-product rate that such work reaches.

    Raises:
        MissingRateError: if there is neither.
    """
    peak, share = book.find("bf16_flops", machine), book.find("bf16_share", machine)
    if book.find(name, machine) or not (peak and share):
        return book.need(name, machine)
    formula = f"{share.value:g} of {peak.value:.3g} FLOP/s on {machine} / {flops:.3g} FLOP a token"
    unit = book.quantities[name].unit
    return Rate(
        name=name, machine=machine, value=share.value * peak.value / flops, unit=unit, how="estimated", formula=formula
    )


def _survey(demand: Demand, book: RateBook) -> Step:
    """The driver reads, checks and hashes every row, alone."""
    rate = book.need("survey_rows_per_s", demand.cpu)
    return Step("read and check rows", 1, "driver", demand.freelancers / rate.value / HOUR, (rate,))


def _seconds_per_profile(demand: Demand, book: RateBook) -> tuple[float, tuple[Rate, ...]]:
    """Of one worker whose tokeniser keeps up; backbone and head share its card."""
    backbone, head = backbone_rate(book, demand.encoder), head_rate(book, demand.encoder)
    kept = min(demand.tokens_per_profile, ModelSettings().max_document_tokens)
    return demand.tokens_per_profile / backbone.value + kept / head.value, (backbone, head)


def _encode(demand: Demand, book: RateBook) -> Step:
    """As many workers as finish in the hours given."""
    seconds, rates = _seconds_per_profile(demand, book)
    alone = demand.freelancers * seconds / HOUR
    workers = max(1, math.ceil(alone / demand.hours))
    return Step("encode", workers, demand.encoder, alone / workers, rates)


def _index(demand: Demand, book: RateBook) -> Step:
    rate = book.need("index_rows_per_s", demand.cpu)
    hours = demand.freelancers / rate.value / HOUR
    return Step("insert, build the HNSW graph, check", 1, f"index node ({demand.cpu})", hours, (rate,))


def _worker_rate(demand: Demand, book: RateBook) -> Size:
    seconds, rates = _seconds_per_profile(demand, book)
    return Size("freelancers that each worker encodes a second", 1 / seconds, demand.encoder, rates)


def _feeding(demand: Demand, book: RateBook) -> Size:
    """CPU cores that tokenise for one worker while its backbone computes."""
    seconds, _ = _seconds_per_profile(demand, book)
    rate = book.need("tokenise_tokens_per_s", demand.cpu)
    cores = demand.tokens_per_profile / rate.value / seconds
    return Size("cores that tokenise for each worker", math.ceil(10 * cores) / 10, "cores", (rate,))


def _worker_memory(demand: Demand, book: RateBook) -> Size:
    rate = book.need("worker_memory_bytes", demand.cpu)
    return Size("memory of each worker", rate.value / GIGABYTE, "GB", (rate,))


def _driver_memory(demand: Demand, book: RateBook) -> Size:
    rate = book.need("driver_bytes_per_row")
    return Size("memory of the driver", demand.freelancers * rate.value / GIGABYTE, "GB", (rate,))


def _vectors(demand: Demand, book: RateBook) -> Size:
    vectors, spool = book.need("vector_bytes_per_row"), book.need("spool_bytes_per_token")
    amount = demand.freelancers * vectors.value + demand.tokens * spool.value
    return Size("shared disk: vectors, and texts while encoding", amount / GIGABYTE, "GB", (vectors, spool))


def _index_disk(demand: Demand, book: RateBook) -> Size:
    """Two releases: the active one and the one before."""
    rate = book.need("index_disk_bytes_per_row")
    return Size("Milvus disk, two releases", 2 * demand.freelancers * rate.value / GIGABYTE, "GB", (rate,))


def _index_memory(demand: Demand, book: RateBook) -> Size:
    """Both are loaded at the moment of the switch."""
    rate = book.need("index_memory_bytes_per_row")
    return Size(
        "Milvus memory, two releases at the switch", 2 * demand.freelancers * rate.value / GIGABYTE, "GB", (rate,)
    )


def _replicas(name: str, qps: float, per_s: Rate, book: RateBook, unit: str) -> Size:
    """Replicas that are busy for no more than the planned share of the time."""
    busy = book.need("planned_utilisation")
    return Size(name, math.ceil(qps / (per_s.value * busy.value)), unit, (per_s, busy))


def _encoder_replicas(demand: Demand, book: RateBook) -> Size:
    """Briefs are encoded where profiles are."""
    backbone = backbone_rate(book, demand.encoder)
    value = backbone.value / demand.tokens_per_brief
    formula = f"backbone_tokens_per_s on {demand.encoder} / {demand.tokens_per_brief} tokens a brief"
    derived = Rate(
        name="brief_encodings_per_s", machine=demand.encoder, value=value, unit="1/s", how="estimated", formula=formula
    )
    rate = book.find("brief_encodings_per_s", demand.encoder) or derived
    return _replicas("ProjectEncoder replicas", demand.qps, rate, book, demand.encoder)


def _retriever_replicas(demand: Demand, book: RateBook) -> Size:
    rate = book.need("searches_per_s", demand.cpu)
    return _replicas("Milvus query nodes", demand.qps, rate, book, demand.cpu)


def _ingress_replicas(demand: Demand, book: RateBook) -> Size:
    rate = book.need("ingress_requests_per_s", demand.cpu)
    return _replicas("Ingress replicas", demand.qps, rate, book, "replicas")
