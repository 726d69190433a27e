"""A tiny workspace: the generated sample through the tiny backbone."""

from __future__ import annotations

import pytest
from study_helpers import TINY

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import BackboneSettings, Config, SampleSettings, load_config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.model.matcher import Matcher, section_prefix
from skillmatch_ray.sample.generator import write_sample
from skillmatch_ray.studies.material import Material, read_material
from skillmatch_ray.studies.study import Places


@pytest.fixture(scope="session")
def tiny_sample(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 freelancers and 40 projects of the built-in taxonomy, later and new occupations held out."""
    root = tmp_path_factory.mktemp("studies") / "dataset"
    write_sample(root, SampleSettings(freelancers=60, projects=40), seed=0)
    return Dataset(root)


@pytest.fixture(scope="session")
def tiny_places(tiny_sample: Dataset, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """The sample, its token states, an untrained model, and a directory for results."""
    root = tmp_path_factory.mktemp("study_places")
    store = TokenStateStore(root / "token_states", tiny_backbone.fingerprint, tiny_backbone.dim)
    documents = [*tiny_sample.projects(), *tiny_sample.freelancers()]
    prefixes = {d.kind: section_prefix(d.kind, tiny_backbone.settings) for d in documents}
    texts = list(dict.fromkeys(prefixes[d.kind] + s.text for d in documents for s in d.sections()))
    store.add(texts, tiny_backbone.encode(texts))
    config = load_config(base=TINY)
    Matcher.untrained(tiny_backbone, config.model).save(root / "model")
    return Places(tiny_sample.root, store.root, root / "model", root / "out")


@pytest.fixture(scope="session")
def tiny_config(tiny_settings: BackboneSettings) -> Config:
    """Two steps of a head of a few thousand weights."""
    return load_config(base={**TINY, "backbone": tiny_settings.model_dump(mode="json")})


@pytest.fixture(scope="session")
def tiny_material(tiny_sample: Dataset, tiny_config: Config) -> Material:
    """The sample, read."""
    return read_material(tiny_sample, tiny_config)
