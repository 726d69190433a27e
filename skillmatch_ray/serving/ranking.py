"""The last stage: an existing ranking system scores what the search found; the search's order is the fallback."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from skillmatch_ray.config import RankerSettings
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.index.retriever import Candidate


class Ranker(Protocol):
    """What `serving.ranker.target` names: candidates in, scores out."""

    def rank(self, project: Project, candidates: Sequence[Candidate]) -> Sequence[float]:
        """A finite score for each candidate, in their order; higher is better."""


Rank = Callable[[Project, Sequence[Candidate]], Awaitable["Ranking"]]


@dataclass(frozen=True)
class Ranking:
    """What the last stage made of the candidates.

    Attributes:
        order: positions of the candidates, best first.
        scores: of the ranker, in the candidates' order; None where the search's order stands.
        fallback: why it does; None where the ranker answered.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    fallback: str | None = None

    def agreement(self, top_k: int) -> float:
        """Share of the search's best `top_k` among the ranker's best `top_k`.

        Example:
            >>> Ranking((3, 0, 1, 2)).agreement(2)
            0.5
        """
        wanted = min(top_k, len(self.order))
        return sum(place < wanted for place in self.order[:wanted]) / wanted if wanted else 1.0


class OrSearchOrder:
    """A last stage that may fail or be late: the search's order stands then, and the answer says so.

    Args:
        rank: the stage.
        timeout_s: what it may take.
    """

    def __init__(self, rank: Rank, timeout_s: float) -> None:
        self._rank = rank
        self._timeout_s = timeout_s

    async def rank(self, project: Project, candidates: Sequence[Candidate]) -> Ranking:
        """The candidates' order."""
        try:
            return await asyncio.wait_for(self._rank(project, candidates), self._timeout_s)
        except TimeoutError:
            reason = "timeout"
        except Exception as e:  # noqa: BLE001  (a foreign system may fail in any way; the match must not)
            reason = type(e).__name__
        return Ranking(tuple(range(len(candidates))), fallback=reason)


class RankerService:
    """Asks the configured ranker.

    Args:
        settings: kind, address or class, timeout.

    Raises:
        ConfigError: if the class cannot be found or made.
    """

    def __init__(self, settings: RankerSettings) -> None:
        self.settings = settings
        self._ranker = _load(settings) if settings.kind == "class" else None
        self._http = _client(settings) if settings.kind == "http" else None

    async def rank(self, project: Project, candidates: Sequence[Candidate]) -> Ranking:
        """The candidates' order by the ranker's scores.

        Raises:
            ValueError: if they are no scores. Whatever else the ranker or the way to it raises.
        """
        if not candidates:
            return Ranking(())
        ask = self._ask_http if self._http else self._ask_class
        answer = await asyncio.wait_for(ask(project, candidates), self.settings.timeout_s)
        scores = check_scores(answer, len(candidates))
        return Ranking(tuple(sorted(range(len(scores)), key=lambda at: -scores[at])), scores)

    async def _ask_class(self, project: Project, candidates: Sequence[Candidate]) -> Any:
        return await asyncio.to_thread(self._ranker.rank, project, candidates)  # type: ignore[union-attr]

    async def _ask_http(self, project: Project, candidates: Sequence[Candidate]) -> Any:
        body = {
            "project": project.model_dump(mode="json", exclude_defaults=True),
            "candidates": [
                {"freelancer_id": one.freelancer_id, "score": one.score, "profile": one.payload} for one in candidates
            ],
        }
        answer = await self._http.post(str(self.settings.url), json=body)  # type: ignore[union-attr]
        return answer.raise_for_status().json()["scores"]


def check_scores(scores: Any, wanted: int) -> tuple[float, ...]:
    """Scores of a foreign system as finite floats.

    Raises:
        ValueError: if there are not `wanted` of them, or one is not a finite number.

    Example:
        >>> check_scores([1, 0.5], 2)
        (1.0, 0.5)
    """
    values = tuple(float(score) for score in scores)
    if len(values) != wanted or not all(map(math.isfinite, values)):
        raise ValueError(f"a ranker must give {wanted} finite scores, not {len(values)}")
    return values


def _load(settings: RankerSettings) -> Ranker:
    module, _, name = str(settings.target).partition(":")
    try:
        ranker: Ranker = getattr(importlib.import_module(module), name)(**settings.arguments)
        inspect.signature(ranker.rank).bind(None, [])
    except (ImportError, AttributeError, TypeError) as e:
        raise ConfigError(
            f"serving.ranker.target {settings.target} with serving.ranker.arguments {settings.arguments} is no class "
            f"with rank(project, candidates): {e}"
        ) from e
    return ranker


def _client(settings: RankerSettings) -> httpx.AsyncClient:
    token = os.environ.get(settings.token_env)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(timeout=settings.timeout_s, headers=headers)
