"""One typed configuration for the command line, the jobs and Serve."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skillmatch_ray.documents import SECTION_TYPES
from skillmatch_ray.errors import ConfigError

EMBEDDED_NAME = "embedded:multilingual-e5-small"

BUILTIN = "builtin"
"""Among the sources of a glossary: the built-in vocabulary and the built-in taxonomy."""


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class BackboneSettings(Settings):
    """The frozen encoder of sections."""

    name: str = Field(EMBEDDED_NAME, description="embedded:..., a local directory or a hub name")
    max_section_tokens: int = Field(128, ge=4, le=512, description="tokens kept of one section, specials included")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on GPUs and on CPUs with AMX or AVX512-BF16, else float32"
    )
    token_budget: int | None = Field(
        None, ge=64, description="tokens of one forward pass; None: 4,096 on CPUs, 65,536 on GPUs"
    )
    project_prefix: str = "query: "
    freelancer_prefix: str = "passage: "


class ModelSettings(Settings):
    """The towers: section-type embeddings, transformer head, pooling (paper, section on the model)."""

    layers: int = Field(4, ge=0)
    heads: int | None = Field(
        None, ge=1, description="attention heads; None: one for each 32 of the backbone's dimensions"
    )
    ffn: int | None = Field(None, ge=1, description="width of the feed-forward; None: 4 x the backbone's")
    dropout: float = Field(0.0, ge=0, lt=1)
    shared_towers: bool = False
    section_types: tuple[str, ...] = Field(SECTION_TYPES, description="order is part of the model")
    max_document_tokens: int = Field(512, ge=8)
    pooling: Literal["weighted", "attention"] = "weighted"
    alpha: float = Field(1.0, ge=0, description="token weight = 1 / section length ** alpha; 0 = plain mean")
    learned_section_weights: bool = True
    projection: bool = Field(default=True, description="a learned linear map after the pooling")


class TrainingSettings(Settings):
    """The contrastive training of the head, and of layers of the backbone where wanted."""

    steps: int = Field(120, ge=1)
    projects_per_step: int = Field(32, ge=2, description="over all workers")
    positives_per_project: int = Field(2, ge=1)
    negatives_per_project: int = Field(2, ge=0, description="stated negatives drawn from the history")
    groups_per_step: int = Field(8, ge=1, description="job categories that one batch is drawn from; few = hard")
    loss: dict[str, dict[str, Any]] = Field({"infonce": {}}, description="loss name -> arguments (weight among them)")
    learning_rate: float = Field(1e-4, gt=0)
    projection_rate: float = Field(3e-4, gt=0, description="learning rate of the linear map after the pooling")
    section_weight_rate: float = Field(0.02, gt=0, description="learning rate of the weights of section types")
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.1, ge=0, le=1)
    section_dropout: float = Field(0.0, ge=0, lt=1, description="share of sections hidden from a document")
    aligned_start: bool = Field(
        default=True, description="start from token states centred by section type, without what tells languages apart"
    )
    live_states: bool = Field(
        default=False, description="compute token states in every step, instead of once into a cache on disk"
    )
    trainable_backbone_layers: int | Literal["all"] = Field(
        0, description="last layers of the backbone that learn too (their token states are live); 0: frozen"
    )
    backbone_learning_rate: float = Field(2e-5, gt=0)
    mined_negatives: Path | None = Field(None, description="file that `skillmatch mine` wrote")
    mined_per_project: int = Field(2, ge=0, description="mined negatives drawn for a project in each step")
    gradient_clip: float = Field(1.0, gt=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int = Field(1, ge=1)
    cpus_per_worker: float = Field(1.0, gt=0)
    threads_per_worker: int | None = Field(None, ge=1, description="None: the cores of the machine / workers")
    use_gpu: bool = False
    validation_share: float = Field(0.1, ge=0, lt=1, description="latest projects kept for validation")
    validate_every: int = Field(40, ge=1)
    checkpoint_every: int = Field(20, ge=1)
    stop_metric: str = Field("map", description="validation figure that picks the best state, as in later/ndcg@10")
    patience: int | None = Field(None, ge=1, description="validations without gain before stopping")

    @property
    def live(self) -> bool:
        """Whether token states are computed while training."""
        return self.live_states or self.trainable_backbone_layers != 0

    @model_validator(mode="after")
    def _layers_are_not_negative(self) -> TrainingSettings:
        if isinstance(self.trainable_backbone_layers, int) and self.trainable_backbone_layers < 0:
            raise ValueError(f"training.trainable_backbone_layers ({self.trainable_backbone_layers}) must be 0 or more")
        return self


class AdaptationSettings(Settings):
    """Contrastive steps of the backbone over phrases that are known in several languages."""

    steps: int = Field(300, ge=1)
    pairs_per_step: int = Field(96, ge=2, description="texts that find their translation among each other")
    same_language_share: float = Field(
        0.2, ge=0, le=1, description="pairs of two names in one language, which must not fall behind"
    )
    layers: int | None = Field(None, ge=1, description="last transformer layers that learn; None: every one")
    learning_rate: float = Field(4e-5, gt=0)
    temperature: float = Field(0.02, gt=0)
    held_out: int = Field(300, ge=2, description="concepts kept out to measure on; a fifth of all at most")
    checkpoint_every: int = Field(20, ge=1)


class MiningSettings(Settings):
    """Hard negatives by the current model: ranks between two shares of the pool, and a margin below the positives."""

    from_share: float = Field(0.01, ge=0, lt=1, description="share of the pool before which nothing is taken")
    to_share: float = Field(0.04, gt=0, le=1, description="share of the pool after which nothing is taken")
    most_candidates: int = Field(4096, ge=1, description="ranks looked at, whatever the shares say; bounds memory")
    relative_margin: float = Field(0.05, ge=0, lt=1, description="a negative scores below (1 - this) x its positives")
    per_project: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> MiningSettings:
        if self.from_share >= self.to_share:
            raise ValueError(f"mining.from_share ({self.from_share}) must be below mining.to_share ({self.to_share})")
        return self


class EncodeSettings(Settings):
    """Documents to vectors with Ray Data."""

    workers: int | None = Field(
        None,
        ge=1,
        description="actors; None: on CPUs one for each core, as far as memory goes (2 GB each); on GPUs 1",
    )
    max_workers: int | None = Field(None, ge=1, description="the pool grows up to this where work waits; None: fixed")
    cpus_per_worker: float = Field(1.0, gt=0)
    gpus_per_worker: float = Field(0.0, ge=0)
    threads_per_worker: int | None = Field(
        None, ge=1, description="None: cpus_per_worker from 2 on, else the CPUs of the machine / workers"
    )
    rows_per_block: int = Field(256, ge=1, description="rows that are encoded, and committed, together")

    @model_validator(mode="after")
    def _pool_fits(self) -> EncodeSettings:
        if self.workers is not None and self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(
                f"encode.max_workers ({self.max_workers}) must not be below encode.workers ({self.workers})"
            )
        return self


Fusion = Literal["rrf", "weighted"]
"""Reciprocal ranks added up (k = 60), or normalised scores, dense 0.7 and BM25 0.3."""


class MilvusSettings(Settings):
    """Where vectors are searched, and how."""

    uri: str | None = Field(None, description="None: Milvus Lite in the workspace; http://...: a server")
    token_env: str = Field("MILVUS_TOKEN", description="environment variable that holds the server's token")
    alias: str = Field(
        "skillmatch", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$", description="names the active release on a server"
    )
    exact_below_rows: int = Field(
        200_000, ge=0, description="indexes smaller than this are scanned, not navigated as a graph; servers"
    )
    m: int = Field(32, ge=2, le=2048, description="links of an HNSW node; servers")
    ef_construction: int = Field(200, ge=8, description="candidates looked at while HNSW is built; servers")
    ef: int = Field(512, ge=8, description="least number of candidates that an HNSW search looks at; servers")
    bm25: bool = Field(
        default=False, description="build indexes with a BM25 column too; Milvus Lite, servers since 2.5"
    )
    hybrid: dict[str, Fusion] = Field(
        {}, description="language of a brief -> how its dense and BM25 rankings are fused; needs milvus.bm25"
    )
    timeout_s: float = Field(10.0, gt=0, description="of one search or small write")
    build_timeout_s: float = Field(3600.0, gt=0, description="of flushing, building and loading an index")
    insert_mb: float = Field(8.0, gt=0, le=48, description="bytes of one insert; servers refuse more than 64 MB")
    gate_queries: int = Field(50, ge=1, description="queries that a new index must answer like an exact search")
    gate_recall: float = Field(0.95, ge=0, le=1, description="least recall@10 of those")
    gate_checks: bool = Field(
        default=False, description="whether the model must pass the required tests of `skillmatch check-model`"
    )
    sample_rows: int = Field(4096, ge=100, description="rows whose filter columns are kept in memory for the plan")


class RaySettings(Settings):
    """How to reach or start Ray."""

    address: str | None = Field(None, description="None: $RAY_ADDRESS, else a local Ray is started")
    num_cpus: int | None = Field(
        None, ge=1, description="logical CPUs of a local Ray; None: twice the cores, 4 at least"
    )
    object_store_mb: int = Field(512, ge=100)


class DatasetSettings(Settings):
    """How much bad data is borne."""

    max_bad_share: float = Field(0.05, ge=0, le=1, description="share of bad rows above which a job stops")
    long_text_characters: int = Field(
        5120, ge=1, description="a text longer than this is reported as cut at encoding (40 x max_section_tokens)"
    )


class SampleSettings(Settings):
    """The built-in dataset generator."""

    freelancers: int = Field(1600, ge=1)
    projects: int = Field(900, ge=1)
    label_noise: float = Field(0.03, ge=0, le=1, description="share of outcomes that contradict the skills")
    judge: Literal["held_out", "all"] = Field("held_out", description="the projects that qrels judge")
    taxonomy: Path | None = Field(None, description="directory of another taxonomy in Parquet")


class RankerSettings(Settings):
    """The last stage: an existing ranking system, asked for a score of each candidate."""

    kind: Literal["none", "http", "class"] = "none"
    url: str | None = Field(
        None, pattern=r"^https?://", description="kind http: POST project and candidates, get scores"
    )
    token_env: str = Field("SKILLMATCH_RANKER_TOKEN", description="environment variable with its bearer token")
    target: str | None = Field(None, pattern=r"^[\w.]+:\w+$", description="kind class: module:Class with rank()")
    arguments: dict[str, Any] = Field({}, description="of the class")
    candidates: int = Field(100, ge=1, le=1000, description="found by the search and handed to the ranker")
    timeout_s: float = Field(0.5, gt=0, description="after it the order of the search stands")

    @model_validator(mode="after")
    def _kind_is_whole(self) -> RankerSettings:
        if self.kind == "http" and self.url is None:
            raise ValueError("serving.ranker.kind http needs serving.ranker.url, as in http://127.0.0.1:9000/rank")
        if self.kind == "class" and self.target is None:
            raise ValueError("serving.ranker.kind class needs serving.ranker.target, as in my_package.ranking:Ranker")
        return self


class ServingSettings(Settings):
    """The HTTP service."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    deployments: Literal["auto", "one", "several"] = Field(
        "auto",
        description="one: encoder and retriever run inside the ingress' replica, no hop between them; several: a "
        "deployment each, scaled apart; auto: one where Milvus Lite is embedded and encoder_replicas is 1",
    )
    require_api_key: bool | None = Field(
        None, description="refuse to start without API keys; None: where host is beyond loopback"
    )
    max_batch_size: int = Field(16, ge=1, description="briefs encoded, or searched for, together")
    batch_tokens: int = Field(
        1024, ge=64, description="tokens of the briefs encoded together, about; more pays on GPUs only"
    )
    max_ongoing_requests: int = Field(64, ge=1)
    max_queued_requests: int = Field(128, ge=0)
    request_timeout_s: float = Field(10.0, gt=0)
    max_body_kb: int = Field(1024, ge=1)
    encoder_replicas: int = Field(1, ge=1)
    encoder_max_replicas: int | None = Field(
        None, ge=1, description="above encoder_replicas: Serve adds replicas under load; None: their number is fixed"
    )
    encoder_cpus: float = Field(0.5, ge=0, description="logical CPUs that Ray keeps for each encoder replica")
    encoder_gpus: float = Field(0.0, ge=0, description="GPUs of each encoder replica")
    retriever_max_replicas: int = Field(1, ge=1, description="above 1: autoscaled; needs a Milvus server")
    release_poll_s: float = Field(1.0, gt=0, description="how often a change of the active release is looked for")
    datasets: Path | None = Field(
        None, description="`reindex --changed --url` may read datasets below this; None: the workspace"
    )
    drain_s: float = Field(60.0, ge=0, description="a replaced release stays open until it was unused for so long")
    min_free_mb: int = Field(64, ge=0, description="profiles are refused when the workspace's disk has less")
    log_served: bool = Field(
        default=False,
        description="remember which candidates were shown (ids, scores, release), for `skillmatch feedback`",
    )
    ranker: RankerSettings = RankerSettings()

    @model_validator(mode="after")
    def _limits_fit(self) -> ServingSettings:
        if self.max_ongoing_requests < 2 * self.max_batch_size:
            raise ValueError(
                f"serving.max_ongoing_requests ({self.max_ongoing_requests}) must be at least twice "
                f"serving.max_batch_size ({self.max_batch_size}), or batches never fill"
            )
        if self.encoder_max_replicas is not None and self.encoder_max_replicas < self.encoder_replicas:
            raise ValueError(
                f"serving.encoder_max_replicas ({self.encoder_max_replicas}) must not be below "
                f"serving.encoder_replicas ({self.encoder_replicas})"
            )
        if self.deployments == "one" and self.encoder_replicas > 1:
            raise ValueError(
                f"serving.deployments one has one encoder, not serving.encoder_replicas ({self.encoder_replicas}): "
                "set serving.deployments to several"
            )
        return self


class NightlySettings(Settings):
    """How far a nightly run's new release may differ and still answer by itself, and what is cleared away."""

    probes: int = Field(200, ge=1, description="newest projects that both releases are asked for")
    sampled_freelancers: int = Field(500, ge=1, description="people whose vectors are compared")
    max_embedding_shift: float = Field(0.1, ge=0, description="1 - mean cosine of the same people's vectors")
    max_score_shift: float = Field(0.2, ge=0, le=1, description="Kolmogorov-Smirnov distance of best scores")
    max_empty_growth: float = Field(0.05, ge=0, le=1, description="more projects that find nobody, as a share")
    max_category_shift: float = Field(0.15, ge=0, le=1, description="total variation of the category mix")
    max_map_loss: float = Field(0.01, ge=0, description="MAP that a retrained model may lose on held-out projects")
    erase: bool = Field(default=True, description="erase deleted freelancers, as `skillmatch compact` does")
    keep_releases: int = Field(
        2, ge=0, description="newest releases that stay, beside the active one and the one before"
    )


class Config(Settings):
    """Everything, with its defaults."""

    seed: int = Field(0, ge=0)
    workspace: Path = Path("workspace")
    glossary: tuple[str, ...] = Field(
        (),
        description="what is known to be one thing in several languages: 'builtin', files of JSON Lines, directories "
        "of taxonomies; kept with the model",
    )
    dataset: DatasetSettings = DatasetSettings()
    sample: SampleSettings = SampleSettings()
    backbone: BackboneSettings = BackboneSettings()
    adaptation: AdaptationSettings = AdaptationSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    mining: MiningSettings = MiningSettings()
    encode: EncodeSettings = EncodeSettings()
    milvus: MilvusSettings = MilvusSettings()
    serving: ServingSettings = ServingSettings()
    ray: RaySettings = RaySettings()
    nightly: NightlySettings = NightlySettings()


def load_config(path: Path | None = None, overrides: Sequence[str] = (), base: dict[str, Any] | None = None) -> Config:
    """Defaults, then `base`, then the YAML file, then `key.path=value` overrides, last one wins.

    Raises:
        ConfigError: for a missing file, an unknown key (names the nearest known one) or a bad value.
    """
    values: dict[str, Any] = {}
    _merge(values, base or {})
    if path is not None:
        _merge(values, _read_yaml(path))
    for override in overrides:
        _merge(values, _parse_override(override))
    try:
        return Config.model_validate(values)
    except ValidationError as e:
        raise ConfigError("\n".join(_explain(error) for error in e.errors())) from e


def with_whole_paths(config: Config) -> Config:
    """What the settings name in the current directory, named in full: workers stand in another one."""
    checkpoint, mined = Path(config.backbone.name), config.training.mined_negatives
    backbone = {"name": str(checkpoint.resolve())} if checkpoint.is_dir() else {}
    training = {"mined_negatives": mined.resolve()} if mined else {}
    return config.model_copy(
        update={
            "glossary": tuple(
                source if source == BUILTIN else str(Path(source).resolve()) for source in config.glossary
            ),
            "backbone": config.backbone.model_copy(update=backbone),
            "training": config.training.model_copy(update=training),
        }
    )


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with some settings changed, given as nested keys; `training.loss` is replaced as a whole.

    Raises:
        ConfigError: for an unknown key or a bad value.

    Example:
        >>> changed(Config(), {"model": {"layers": 1}}).model.layers
        1
    """
    return load_config(base=merged(config.model_dump(mode="json"), changes))


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys and values with those of `changes` put in; neither argument is touched."""
    result: dict[str, Any] = {}
    _merge(result, dict(values))
    _merge(result, dict(changes))
    return result


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as e:
        raise ConfigError(f"configuration file {path} does not exist") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"configuration file {path} cannot be read as UTF-8 text: {e}") from e
    except yaml.YAMLError as e:
        raise ConfigError(f"configuration file {path} is not valid YAML: {e}") from e
    if not isinstance(values, dict):
        raise ConfigError(f"configuration file {path} must hold keys and values, not a {type(values).__name__}")
    return values


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} must look like section.key=value, as in training.steps=200")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"override {override!r}: {text!r} is not a valid YAML value: {e}") from e
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merge(target: dict[str, Any], source: dict[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict) and key != "loss":
            _merge(target[key], value)
        else:
            # A copy: what is merged later must not change the caller's values.
            target[key] = copy.deepcopy(value)


def _explain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{place}: {error['msg']} (given: {error['input']!r})"
    near = difflib.get_close_matches(str(error["loc"][-1]), _known_keys(error["loc"][:-1]), n=1, cutoff=0.0)
    return f"unknown key {place!r}: did you mean {'.'.join([*map(str, error['loc'][:-1]), *near])!r}?"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
