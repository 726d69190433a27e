"""Another glossary for a trained model, and how much of a dataset a glossary knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from skillmatch_ray.documents import Document
from skillmatch_ray.errors import ConfigError, ModelError
from skillmatch_ray.files import read_json
from skillmatch_ray.glossary import Glossary
from skillmatch_ray.model.matcher import Matcher, load_matcher

SHOWN_UNKNOWN: Final = 10
METRICS_FILE: Final = "metrics.json"
CARD_FILE: Final = "README.md"


def link(model_dir: Path, glossary: Glossary, out: Path) -> Matcher:
    """Write a copy of a model that reads documents with another glossary; nothing is trained.

    The copy is another embedding space: vectors are computed anew.

    Args:
        model_dir: of the trained model.
        glossary: the new one, which may be empty.
        out: directory to write.

    Raises:
        ConfigError: if `out` holds something else.
        ModelError: if `model_dir` is no model, or the model leaves concepts out.
    """
    trained = load_matcher(model_dir, "cpu")
    if "concepts" not in trained.towers.settings.section_types:
        raise ModelError(
            f"{model_dir} does not read sections of the type 'concepts': train a model whose model.section_types "
            "names it, as it does by default"
        )
    linked = Matcher(trained.backbone, trained.towers, glossary=glossary)
    if out.exists() and _fingerprint(out) != linked.fingerprint:
        raise ConfigError(f"--out {out} holds something else already: name another directory, or remove it")
    told = {name: value for name, value in _metrics(model_dir).items() if name != "training_key"}
    metrics = {**told, "fingerprint": linked.fingerprint, "linked_from": trained.fingerprint}
    linked.save(out, {METRICS_FILE: metrics, CARD_FILE: _card(model_dir, linked, trained)})
    return linked


def _fingerprint(directory: Path) -> str | None:
    config = directory / "config.json"
    found: str | None = read_json(config).get("fingerprint") if config.is_file() else None
    return found


def _metrics(model_dir: Path) -> dict[str, Any]:
    file = model_dir / METRICS_FILE
    return dict(read_json(file)) if file.is_file() else {}


def _card(model_dir: Path, linked: Matcher, trained: Matcher) -> str:
    file = model_dir / CARD_FILE
    card = file.read_text(encoding="utf-8") if file.is_file() else ""
    return (
        f"{card}\n## Glossary\n\nThis copy, fingerprint `{linked.fingerprint}`, has another glossary than "
        f"`{trained.fingerprint}`, which is described above: {len(linked.glossary.concepts):,} concepts.\n"
    )


def some(glossary: Glossary, share: float, seed: int) -> Glossary:
    """A random share of the concepts, in their order: what a glossary with gaps has."""
    count = len(glossary.concepts)
    kept = np.sort(np.random.default_rng(seed).permutation(count)[: round(share * count)])
    return Glossary(tuple(glossary.concepts[i] for i in kept))


@dataclass(frozen=True)
class Coverage:
    """How many of the skills that documents list a glossary knows.

    Attributes:
        listed: language -> names listed, as often as they are.
        known: language -> of these, those that are names of a concept as a whole.
        unknown: the commonest of the others with their numbers, commonest first.
    """

    listed: dict[str, int]
    known: dict[str, int]
    unknown: list[tuple[str, int]]

    @classmethod
    def of(cls, glossary: Glossary, documents: Iterable[Document]) -> Coverage:
        """Look through all documents once."""
        listed, known, unknown = Counter[str](), Counter[str](), Counter[str]()
        for document in documents:
            language = document.language or "?"
            for skill in document.skills:
                listed[language] += 1
                if glossary.knows(skill, document.language):
                    known[language] += 1
                else:
                    unknown[skill] += 1
        names = sorted(listed)
        return cls({n: listed[n] for n in names}, {n: known[n] for n in names}, unknown.most_common(SHOWN_UNKNOWN))

    @property
    def share(self) -> float:
        """Of all listed skills; 0 where there are none."""
        return sum(self.known.values()) / max(1, sum(self.listed.values()))

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "share": round(self.share, 4)}

    def render(self) -> Group:
        """A row for each language; above the share of all, below the commonest unknown names."""
        table = Table()
        for column in ("language", "listed", "known"):
            table.add_column(column, justify="left" if column == "language" else "right")
        for language, count in self.listed.items():
            table.add_row(language, f"{count:,}", f"{self.known[language] / count:.1%}")
        names = ", ".join(f"{name} ({count:,})" for name, count in self.unknown)
        unknown = [Text(f"commonest unknown: {names}")] if names else []
        return Group(Text(f"{self.share:.1%} of the listed skills are in the glossary"), table, *unknown)
