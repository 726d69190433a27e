"""The matcher: a frozen backbone and two towers that put projects and freelancers into one space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skillmatch_ray.backbone.encoder import Backbone, hash_tensors, token_budget_batches
from skillmatch_ray.backbone.store import TokenStateStore, section_states
from skillmatch_ray.config import BackboneSettings, ModelSettings
from skillmatch_ray.documents import Document, DocumentKind, Freelancer, Project, Section
from skillmatch_ray.errors import ConfigError, FingerprintError, ModelError
from skillmatch_ray.files import atomic_directory, hash_json, read_json, write_json
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary, concepts_in
from skillmatch_ray.model.batch import DocumentBatch, EncodedDocument, collate, section_caps
from skillmatch_ray.model.tower import Pooled, Tower

Vectors = NDArray[np.float32]

HEAD_TOKEN_BUDGET = 8_192
"""Padded tokens that a head sees at once."""
GPU_HEAD_TOKEN_BUDGET = 65_536
"""The same on a GPU when it encodes without gradients; chosen, not measured."""

_EXPLAINED_AT_ONCE = 16

BACKBONE_PREFIX = "backbone."
"""Of the names of fine-tuned backbone weights in model.safetensors."""

GLOSSARY_FILE = "glossary.jsonl"
"""In the directory of a model that has one."""

FORMAT_VERSION = 2


class Towers(nn.Module):
    """The trainable part: one tower for each kind of document, or one for both.

    Args:
        settings: the model's configuration.
        dim: D of the backbone.
    """

    def __init__(self, settings: ModelSettings, dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.dim = dim
        self.project = Tower(settings, dim)
        self.freelancer = self.project if settings.shared_towers else Tower(settings, dim)

    def tower(self, kind: DocumentKind) -> Tower:
        """The tower of one kind of document."""
        return self.project if kind == "project" else self.freelancer

    def section_type_ids(self, sections: Iterable[Section]) -> list[int | None]:
        """Position of each section's type in `settings.section_types`; None for a type the model leaves out."""
        place = {name: i for i, name in enumerate(self.settings.section_types)}
        return [place.get(section.type) for section in sections]

    def collate(self, documents: Sequence[EncodedDocument]) -> DocumentBatch:
        """Pad documents for `tower`."""
        return collate(documents, self.dim, self.settings.max_document_tokens)

    def embed(
        self, kind: DocumentKind, documents: Sequence[EncodedDocument], budget: int = HEAD_TOKEN_BUDGET
    ) -> Tensor:
        """(B, D) float32 vectors of documents, in their order, with gradients.

        Documents of like length go through the head together, so that little of it is padding.
        """
        lengths = np.array([min(d.tokens, self.settings.max_document_tokens) for d in documents], dtype=np.int64)
        batches = list(token_budget_batches(lengths, budget))
        parts = [self.tower(kind)(self.collate([documents[i] for i in rows])) for rows in batches]
        order = np.argsort(np.concatenate(batches))
        return torch.cat(parts)[torch.from_numpy(order)]

    def forward(
        self, projects: Sequence[EncodedDocument], freelancers: Sequence[EncodedDocument]
    ) -> tuple[Tensor, Tensor]:
        """(P, D) and (F, D) vectors: one call for both towers, as data-parallel training wants."""
        return self.embed("project", projects), self.embed("freelancer", freelancers)

    @torch.no_grad()
    def encode(self, kind: DocumentKind, documents: Sequence[EncodedDocument]) -> Vectors:
        """(B, D) float32 vectors of documents, in their order."""
        if not documents:
            return np.zeros((0, self.dim), dtype=np.float32)
        device = next(self.parameters()).device
        budget = GPU_HEAD_TOKEN_BUDGET if device.type == "cuda" else HEAD_TOKEN_BUDGET
        vectors: Vectors = self.embed(kind, documents, budget).cpu().numpy()
        return vectors


@dataclass(frozen=True)
class Contribution:
    """The share of one section (or of one skill) of one document in a score.

    Attributes:
        kind: which document it belongs to.
        section: position of the section in the document.
        type: its section type.
        text: the section's text, or the skill's label.
        score: its additive share of the score.
    """

    kind: DocumentKind
    section: int
    type: str
    text: str
    score: float


@dataclass(frozen=True)
class Explanation:
    """Why a project and a freelancer have their score.

    Attributes:
        score: cosine of the two document vectors.
        project: one entry for each section; they add up to `score`.
        freelancer: one entry for each section; they add up to `score`.
        skills: the freelancer's listed skills and concepts, highest share first.
    """

    score: float
    project: list[Contribution]
    freelancer: list[Contribution]
    skills: list[Contribution]


class Matcher:
    """Encodes documents to vectors whose dot product is their match.

    Args:
        backbone: the frozen encoder.
        towers: the trainable part.
        store: token states that need not be computed again.
        glossary: finds the concepts that documents name.
    """

    def __init__(
        self,
        backbone: Backbone,
        towers: Towers,
        store: TokenStateStore | None = None,
        glossary: Glossary = NO_GLOSSARY,
    ) -> None:
        self.backbone = backbone
        self.store = store
        self.glossary = glossary
        self.towers = towers.to(backbone.device).eval()

    @classmethod
    def untrained(cls, backbone: Backbone, settings: ModelSettings, glossary: Glossary = NO_GLOSSARY) -> Matcher:
        """A matcher that equals weighted pooling of the backbone's tokens.

        Raises:
            ConfigError: if a section type is named twice or a value does not fit the backbone.
        """
        if len(set(settings.section_types)) < len(settings.section_types):
            raise ConfigError(f"model.section_types names a type twice: {list(settings.section_types)}")
        return cls(backbone, Towers(settings, backbone.dim), glossary=glossary)

    @property
    def fingerprint(self) -> str:
        """Names the embedding space: backbone, tokenisation, configuration, weights and glossary."""
        space = space_fingerprint(self.backbone.fingerprint, self.backbone.settings, self.towers)
        return hash_json([space, self.glossary.fingerprint]) if self.glossary else space

    def encode_projects(self, projects: Sequence[Project]) -> Vectors:
        """(n, D) float32 vectors, L2-normalised."""
        return self.encode("project", projects)

    def encode_freelancers(self, freelancers: Sequence[Freelancer]) -> Vectors:
        """(n, D) float32 vectors, L2-normalised."""
        return self.encode("freelancer", freelancers)

    def encode(self, kind: DocumentKind, documents: Sequence[Document]) -> Vectors:
        """(n, D) float32 vectors of documents of one kind, in their order."""
        return self.towers.encode(kind, self.token_states(kind, documents))

    def token_states(self, kind: DocumentKind, documents: Sequence[Document]) -> list[EncodedDocument]:
        """Backbone output of the sections that the model reads, document by document."""
        types, texts = self.sections(kind, documents)
        return assemble(types, section_states(self.backbone, texts, self.store))

    def sections(self, kind: DocumentKind, documents: Sequence[Document]) -> tuple[list[list[int]], list[str]]:
        """`model_sections` of documents of one kind, with the concepts that they name."""
        read = [self.glossary.read(document) for document in documents]
        return model_sections(read, self.backbone.settings, self.towers.settings, kind)

    def prefix(self, kind: DocumentKind) -> str:
        """What E5 wants before a text of this kind."""
        return section_prefix(kind, self.backbone.settings)

    def explain(self, project: Project, freelancer: Freelancer) -> Explanation:
        """Split the score into shares of sections, exactly: pooling is linear in the tokens.

        For both documents the shares add up to the score (to float32 rounding).
        """
        return self.explain_many(project, [freelancer])[0]

    def explain_many(self, project: Project, freelancers: Sequence[Freelancer]) -> list[Explanation]:
        """`explain` for several freelancers: the project is encoded once, the freelancers together."""
        project, freelancers = self.glossary.read(project), [self.glossary.read(one) for one in freelancers]
        asked = self._pool("project", [project])
        explanations = []
        for start in range(0, len(freelancers), _EXPLAINED_AT_ONCE):
            some = freelancers[start : start + _EXPLAINED_AT_ONCE]
            pooled = self._pool("freelancer", some)
            explanations += [
                self._explanation(project, freelancer, asked, pooled, row) for row, freelancer in enumerate(some)
            ]
        return explanations

    def _explanation(
        self, project: Project, freelancer: Freelancer, asked: Pooled, pooled: Pooled, row: int
    ) -> Explanation:
        tokens_f = _token_scores(pooled, row, asked.vectors[0])
        return Explanation(
            score=float(asked.vectors[0] @ pooled.vectors[row]),
            project=self._section_shares("project", project, _token_scores(asked, 0, pooled.vectors[row])),
            freelancer=self._section_shares("freelancer", freelancer, tokens_f),
            skills=self._skill_shares(freelancer, tokens_f),
        )

    @torch.no_grad()
    def _pool(self, kind: DocumentKind, documents: Sequence[Document]) -> Pooled:
        batch = self.towers.collate(self.token_states(kind, documents))
        return self.towers.tower(kind).pool(batch, contributions=True)

    def _section_bounds(self, kind: DocumentKind, document: Document) -> list[tuple[int, Section, int, int]]:
        """(position, section, first token, end) of each section that the model reads, as collated."""
        kept = [(i, s) for i, s in enumerate(document.sections()) if s.type in self.towers.settings.section_types]
        texts = [self.prefix(kind) + section.text for _, section in kept]
        lengths = [len(ids) for ids in self.backbone.tokenize(texts)]
        caps = section_caps(lengths, self.towers.settings.max_document_tokens)
        ends = np.cumsum(caps).tolist()
        return [(i, s, end - cap, end) for (i, s), cap, end in zip(kept, caps, ends, strict=True)]

    def _section_shares(
        self, kind: DocumentKind, document: Document, tokens: NDArray[np.float32]
    ) -> list[Contribution]:
        return [
            Contribution(kind, i, section.type, section.text, float(tokens[start:end].sum()))
            for i, section, start, end in self._section_bounds(kind, document)
        ]

    def _skill_shares(self, freelancer: Freelancer, tokens: NDArray[np.float32]) -> list[Contribution]:
        shares: dict[str, Contribution] = {}
        for i, section, start, end in self._section_bounds("freelancer", freelancer):
            if section.type not in ("skills", "experience", "concepts"):
                continue
            for label, score in self._label_scores(section, tokens[start:end]):
                known = shares.get(label.casefold())
                total = score + (known.score if known else 0.0)
                shares[label.casefold()] = Contribution("freelancer", i, section.type, label, total)
        return sorted(shares.values(), key=lambda c: -c.score)

    def _label_scores(self, section: Section, tokens: NDArray[np.float32]) -> list[tuple[str, float]]:
        """Share of each listed label of a section: the sum over the tokens inside its characters."""
        prefix = self.prefix("freelancer")
        spans = self.backbone.token_spans(prefix + section.text)[: len(tokens)]
        result, at = [], len(prefix) + max(0, section.text.rfind(", ".join(section.labels)))
        for label in section.labels:
            end = at + len(label)
            inside = [t for t, (a, b) in enumerate(spans) if b > a and a < end and b > at]
            result.append((label, float(tokens[inside].sum())))
            at = end + 2
        return result

    def save(self, path: Path, extra: dict[str, Any] | None = None) -> None:
        """Write the model directory: config.json and model.safetensors, atomically.

        `extra` maps further file names to JSON values or texts (metrics.json, README.md).
        """
        with atomic_directory(path) as temporary:
            tuned = {BACKBONE_PREFIX + name: value for name, value in self.backbone.tuned.items()}
            weights = {k: v.contiguous().cpu() for k, v in (unshared_state(self.towers) | tuned).items()}
            save_file(weights, temporary / "model.safetensors")
            write_json(temporary / "config.json", self.describe())
            if self.glossary:
                self.glossary.save(temporary / GLOSSARY_FILE)
            for name, value in (extra or {}).items():
                if name.endswith(".json"):
                    write_json(temporary / name, value)
                else:
                    (temporary / name).write_text(value, encoding="utf-8")

    def describe(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "format": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "dim": self.towers.dim,
            "backbone_fingerprint": self.backbone.fingerprint,
            "backbone": self.backbone.settings.model_dump(mode="json"),
            "model": self.towers.settings.model_dump(mode="json"),
        }


def load_matcher(
    path: Path | str,
    device: str = "auto",
    *,
    backbone: Backbone | None = None,
    store_dir: Path | None = None,
) -> Matcher:
    """Load a model directory.

    Args:
        path: the directory that `Matcher.save` wrote.
        device: where to run it.
        backbone: one that is loaded already; must be the very one that the model was trained on.
        store_dir: a `TokenStateStore` of that backbone, to spare computing; not read where the model has
            fine-tuned layers of the backbone, which give other states.

    Raises:
        ModelError: if the directory is not a model.
        FingerprintError: if the backbone found is not the one that the model was trained on.
    """
    path = Path(path)
    config = read_model_config(path)
    backbone = backbone or Backbone.load(BackboneSettings(**config["backbone"]), device)
    if backbone.fingerprint != config["backbone_fingerprint"]:
        tuned = _tuned_backbone(path)
        backbone, store_dir = (backbone.with_tuned(tuned), None) if tuned else (backbone, store_dir)
    towers = load_towers(path, backbone.fingerprint)
    store = TokenStateStore(store_dir, backbone.fingerprint, backbone.dim) if store_dir else None
    return Matcher(backbone, towers, store, glossary_of(path))


def glossary_of(path: Path) -> Glossary:
    """The glossary in a model directory; one without concepts where there is none.

    Raises:
        ConfigError: if the file there cannot be read.
    """
    file = path / GLOSSARY_FILE
    return Glossary(tuple(concepts_in(file))) if file.is_file() else NO_GLOSSARY


def _tuned_backbone(path: Path) -> dict[str, Tensor]:
    """Fine-tuned weights of the backbone in a model directory; none where it was frozen."""
    weights = load_file(path / "model.safetensors")
    return {k.removeprefix(BACKBONE_PREFIX): v for k, v in weights.items() if k.startswith(BACKBONE_PREFIX)}


def load_towers(path: Path, backbone_fingerprint: str) -> Towers:
    """The trained part of a model directory, for those who have token states and need no backbone.

    Args:
        path: the directory that `Matcher.save` wrote.
        backbone_fingerprint: of the backbone whose states they will read.

    Raises:
        ModelError: if the directory is not a model.
        FingerprintError: if that backbone is not the one that the model was trained on.
    """
    config = read_model_config(path)
    if backbone_fingerprint != config["backbone_fingerprint"]:
        raise FingerprintError(
            f"{path} was trained on backbone {config['backbone_fingerprint'][:12]}, but what "
            f"{config['backbone']['name']} stands for here is {backbone_fingerprint[:12]}: use the original weights, "
            "or train again"
        )
    towers = Towers(ModelSettings(**config["model"]), config["dim"])
    load_unshared_state(towers, load_file(path / "model.safetensors"))
    return towers


def read_model_config(path: Path) -> dict[str, Any]:
    """The content of a model directory's config.json.

    Raises:
        ModelError: if the directory is not a model, or of another format.
    """
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is not a model directory: config.json is missing")
    config: dict[str, Any] = read_json(path / "config.json")
    if config.get("format") != FORMAT_VERSION:
        raise ModelError(f"{path}: format {config.get('format')} is not the known format {FORMAT_VERSION}")
    return config


def unshared_state(towers: Towers) -> dict[str, torch.Tensor]:
    """The weights, each once: a shared tower is stored under "project" only."""
    skip = "freelancer." if towers.settings.shared_towers else "\0"
    return {name: value for name, value in towers.state_dict().items() if not name.startswith(skip)}


def load_unshared_state(towers: Towers, state: dict[str, torch.Tensor]) -> None:
    """The inverse of `unshared_state`; weights of the backbone are passed over.

    Raises:
        ModelError: if names or shapes do not fit the configuration.
    """
    state = {name: value for name, value in state.items() if not name.startswith(BACKBONE_PREFIX)}
    if towers.settings.shared_towers:
        state = state | {"freelancer." + k.removeprefix("project."): v for k, v in state.items()}
    try:
        towers.load_state_dict(state)
    except RuntimeError as e:
        raise ModelError(f"weights do not fit the model's configuration: {e}") from e


def space_fingerprint(backbone_fingerprint: str, backbone: BackboneSettings, towers: Towers) -> str:
    """SHA-256 (hex) over everything that decides a document vector."""
    prefixes = [backbone.project_prefix, backbone.freelancer_prefix]
    settings = towers.settings.model_dump(mode="json", exclude={"dropout"})
    return hash_json([backbone_fingerprint, prefixes, settings, hash_tensors(unshared_state(towers))])


def section_prefix(kind: DocumentKind, settings: BackboneSettings) -> str:
    """The E5 prefix of the sections of one kind of document."""
    return settings.project_prefix if kind == "project" else settings.freelancer_prefix


def assemble(types: Sequence[Sequence[int]], states: Sequence[Tensor]) -> list[EncodedDocument]:
    """Group the states of consecutive sections into documents."""
    documents, at = [], 0
    for document in types:
        documents.append(EncodedDocument(tuple(document), tuple(states[at : at + len(document)])))
        at += len(document)
    return documents


def model_sections(
    documents: Sequence[Document],
    backbone: BackboneSettings,
    model: ModelSettings,
    kind: DocumentKind | None = None,
) -> tuple[list[list[int]], list[str]]:
    """Section-type ids of each document and the texts, prefix included, of all sections that the model reads.

    Args:
        documents: in order.
        backbone: its prefixes.
        model: its section types.
        kind: whose prefix to use; None: of each document's own kind.
    """
    place = {name: i for i, name in enumerate(model.section_types)}
    types, texts = [], []
    for document in documents:
        kept = [section for section in document.sections() if section.type in place]
        prefix = section_prefix(kind or document.kind, backbone)
        types.append([place[section.type] for section in kept])
        texts += [prefix + section.text for section in kept]
    return types, texts


def _token_scores(pooled: Pooled, row: int, other: Tensor) -> NDArray[np.float32]:
    """(T,) share of each token of one document in its dot product with the vector `other`."""
    if pooled.contributions is None:
        raise ValueError("pool(contributions=True) is needed for an explanation")
    scores: NDArray[np.float32] = (pooled.contributions[row] @ other).cpu().numpy()
    return scores
