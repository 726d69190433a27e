"""The two towers: untrained pooling, invariances, explanation, save and load."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore
from skillmatch_ray.config import ModelSettings
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import ConfigError, FingerprintError, ModelError
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import Matcher, Towers, load_matcher
from skillmatch_ray.model.tower import Tower

SMALL = ModelSettings(layers=2, heads=4, max_document_tokens=96)

FREELANCERS = [
    Freelancer(freelancer_id="a", headline="React developer", skills=("React", "CSS", "go"), description="I do " * 9),
    Freelancer(
        freelancer_id="b", headline="writer", soft_skills=("calm",),
        experiences=({"title": "Editor", "skills": ["SEO", "react"]}, {"description": "the and the"}),
    ),
    Freelancer(freelancer_id="c", headline="x"),
    Freelancer(freelancer_id="d", headline="the developer", skills=("SQL",), description="long story " * 40),
]  # fmt: skip
PROJECTS = [
    Project(project_id="p", title="Need React", skills=("React", "CSS"), description="We need a developer."),
    Project(project_id="q", title="q"),
]


def shaken(backbone, settings=SMALL, seed=0):
    """A matcher whose every weight is random, as if trained: nothing is zero any more."""
    torch.manual_seed(seed)
    matcher = Matcher.untrained(backbone, settings)
    with torch.no_grad():
        for weight in matcher.towers.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return matcher


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small only lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tiny_backbone):
    return shaken(tiny_backbone)


def pooled_by_hand(backbone, prefix, document, alpha=1.0):
    """sum over sections of (sum of token states) / length ** alpha, normalised; in numpy."""
    total = np.zeros(backbone.dim)
    for section in document.sections():
        states = backbone.encode([prefix + section.text])[0].numpy().astype(np.float64)
        total += states.sum(0) / len(states) ** alpha
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pooling", ["weighted", "attention"])
@pytest.mark.parametrize("layers", [0, 2])
def test_untrained_equals_pooling_by_hand(tiny_backbone, alpha, pooling, layers):
    settings = ModelSettings(layers=layers, heads=4, alpha=alpha, pooling=pooling, max_document_tokens=4096)
    matcher = Matcher.untrained(tiny_backbone, settings)
    for found, documents, prefix in (
        (matcher.encode_freelancers(FREELANCERS), FREELANCERS, "passage: "),
        (matcher.encode_projects(PROJECTS), PROJECTS, "query: "),
    ):
        expected = [pooled_by_hand(tiny_backbone, prefix, document, alpha) for document in documents]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_learned_section_weights_by_hand(tiny_backbone):
    """A section type whose weight is log 3 counts three times."""
    settings = ModelSettings(layers=0, heads=4, section_types=("title", "skills"))
    matcher = Matcher.untrained(tiny_backbone, settings)
    with torch.no_grad():
        matcher.towers.project.section_weight[1] = np.log(3)
    title, skills = (tiny_backbone.encode([t])[0].mean(0) for t in ("query: Need React", "query: React, CSS"))
    expected = torch.nn.functional.normalize(title + 3 * skills, dim=0)
    np.testing.assert_allclose(matcher.encode_projects(PROJECTS[:1])[0], expected, atol=1e-5)


def test_vectors_have_length_one_and_float32(trained):
    vectors = trained.encode_freelancers(FREELANCERS)
    assert (vectors.dtype, vectors.shape) == (np.float32, (4, 32))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert trained.encode_projects([]).shape == (0, 32)


def test_training_would_change_every_document(trained, tiny_backbone):
    untrained = Matcher.untrained(tiny_backbone, SMALL)
    difference = np.abs(trained.encode_freelancers(FREELANCERS) - untrained.encode_freelancers(FREELANCERS))
    assert (difference.max(1) > 0.01).all()


def test_the_company_of_a_document_does_not_change_its_vector(trained):
    together = trained.encode_freelancers(FREELANCERS)
    backwards = trained.encode_freelancers(FREELANCERS[::-1])[::-1]
    alone = np.concatenate([trained.encode_freelancers([freelancer]) for freelancer in FREELANCERS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backwards, atol=1e-5)


def test_many_documents_go_through_in_several_batches(trained, monkeypatch):
    expected = trained.encode_freelancers(FREELANCERS)
    monkeypatch.setattr("skillmatch_ray.model.matcher.HEAD_TOKEN_BUDGET", 50)
    np.testing.assert_allclose(trained.encode_freelancers(FREELANCERS * 5), np.tile(expected, (5, 1)), atol=1e-5)


@pytest.mark.parametrize("layers", [0, 2])
def test_the_order_of_sections_does_not_matter(tiny_backbone, layers):
    matcher = shaken(tiny_backbone, SMALL.model_copy(update={"layers": layers}))
    documents = matcher.token_states("freelancer", FREELANCERS[:2])
    turned = [EncodedDocument(d.types[::-1], d.states[::-1]) for d in documents]
    np.testing.assert_allclose(
        matcher.towers.encode("freelancer", documents), matcher.towers.encode("freelancer", turned), atol=1e-5
    )


def test_the_type_of_a_section_matters(trained):
    one, other = (
        Freelancer(freelancer_id="x", headline="h", **{field: ("calm",)}) for field in ("skills", "soft_skills")
    )
    a, b = trained.encode_freelancers([one, other])
    assert a @ b < 0.999


def test_a_document_without_a_section_that_the_model_reads_is_a_zero_vector(tiny_backbone):
    matcher = shaken(tiny_backbone, SMALL.model_copy(update={"section_types": ("skills",)}))
    vectors = matcher.encode_freelancers(FREELANCERS)
    assert not vectors[1].any()
    assert not vectors[2].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 3]], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(matcher.encode_freelancers(FREELANCERS[2:3])[0], 0)
    found = matcher.explain(PROJECTS[0], FREELANCERS[2])
    assert (found.score, found.freelancer, found.skills) == (0.0, [], [])


def test_explanations_together_are_those_of_each_alone(trained):
    together = trained.explain_many(PROJECTS[0], FREELANCERS * 6)
    alone = [trained.explain(PROJECTS[0], freelancer) for freelancer in FREELANCERS] * 6
    for found, expected in zip(together, alone, strict=True):
        assert found.score == pytest.approx(expected.score, abs=1e-5)
        for part in ("project", "freelancer", "skills"):
            ours = sorted((c.section, c.text, c.score) for c in getattr(found, part))
            theirs = sorted((c.section, c.text, c.score) for c in getattr(expected, part))
            assert [c[:2] for c in ours] == [c[:2] for c in theirs]
            assert [c[2] for c in ours] == pytest.approx([c[2] for c in theirs], abs=1e-5)
    assert trained.explain_many(PROJECTS[0], []) == []


def test_a_document_without_tokens_gives_no_nan_gradient(tiny_backbone):
    matcher = shaken(tiny_backbone, SMALL.model_copy(update={"section_types": ("skills",)}))
    documents = matcher.token_states("freelancer", FREELANCERS)
    matcher.towers.embed("freelancer", documents).sum().backward()
    gradients = [p.grad for p in matcher.towers.freelancer.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("pooling", ["weighted", "attention"])
def test_an_explanation_adds_up_to_the_score(tiny_backbone, layers, pooling):
    matcher = shaken(tiny_backbone, SMALL.model_copy(update={"layers": layers, "pooling": pooling}))
    scores = matcher.encode_projects(PROJECTS) @ matcher.encode_freelancers(FREELANCERS).T
    for i, project in enumerate(PROJECTS):
        for j, freelancer in enumerate(FREELANCERS):
            found = matcher.explain(project, freelancer)
            assert found.score == pytest.approx(scores[i, j], abs=1e-5)
            assert sum(c.score for c in found.project) == pytest.approx(found.score, abs=1e-4)
            assert sum(c.score for c in found.freelancer) == pytest.approx(found.score, abs=1e-4)
            assert [c.text for c in found.freelancer] == [s.text for s in freelancer.sections()]


def test_skills_are_named_once_and_highest_first(trained):
    found = trained.explain(PROJECTS[0], FREELANCERS[1]).skills
    assert {c.text for c in found} == {"SEO", "react"}
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    twice = Freelancer(freelancer_id="x", headline="h", skills=("React",), experiences=({"skills": ["REACT"]},))
    shares = trained.explain(PROJECTS[0], twice)
    assert len(shares.skills) == 1


def test_skill_shares_are_those_of_their_tokens(tiny_backbone):
    """Untrained and without layers, a skill's share can be had from its tokens by hand."""
    matcher = Matcher.untrained(tiny_backbone, ModelSettings(layers=0, heads=4, section_types=("title", "skills")))
    freelancer = Freelancer(freelancer_id="x", headline="not read", skills=("React", "the", "developer"))
    project = matcher.encode_projects(PROJECTS[:1])[0]
    states = tiny_backbone.encode(["passage: React, the, developer"])[0].numpy()
    spans = tiny_backbone.token_spans("passage: React, the, developer")
    total = states.mean(0)
    shares = states @ project / len(states) / np.linalg.norm(total)
    found = {c.text: c.score for c in matcher.explain(PROJECTS[0], freelancer).skills}
    for label, (start, end) in {"React": (9, 14), "the": (16, 19), "developer": (21, 30)}.items():
        inside = [t for t, (a, b) in enumerate(spans) if a < end and b > start]
        assert found[label] == pytest.approx(shares[inside].sum(), abs=1e-5)


def test_save_and_load_give_the_same_space(trained, tiny_backbone, tmp_path):
    trained.save(tmp_path / "model", {"metrics.json": {"map": 0.5}, "README.md": "# card"})
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    for loaded in (load_matcher(tmp_path / "model", "cpu"), load_matcher(tmp_path / "model", backbone=tiny_backbone)):
        assert loaded.fingerprint == trained.fingerprint
        np.testing.assert_array_equal(loaded.encode_projects(PROJECTS), trained.encode_projects(PROJECTS))
        np.testing.assert_array_equal(loaded.encode_freelancers(FREELANCERS), trained.encode_freelancers(FREELANCERS))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["fingerprint"] == trained.fingerprint
    assert config["backbone_fingerprint"] == tiny_backbone.fingerprint


def test_cached_states_give_the_vectors_of_live_ones(trained, tiny_backbone, tmp_path):
    trained.save(tmp_path / "model")
    store = TokenStateStore(tmp_path / "states", tiny_backbone.fingerprint, tiny_backbone.dim)
    texts = ["passage: " + s.text for f in FREELANCERS[:2] for s in f.sections()]
    store.add(texts, tiny_backbone.encode(texts))
    loaded = load_matcher(tmp_path / "model", backbone=tiny_backbone, store_dir=tmp_path / "states")
    expected = trained.encode_freelancers(FREELANCERS)
    np.testing.assert_allclose(loaded.encode_freelancers(FREELANCERS), expected, atol=3e-3)
    half_cached = [FREELANCERS[2], FREELANCERS[0], FREELANCERS[3]]
    np.testing.assert_allclose(
        loaded.encode_freelancers(half_cached)[[0, 2]], trained.encode_freelancers(half_cached)[[0, 2]], atol=1e-5
    )


@pytest.mark.parametrize("pooling", ["weighted", "attention"])
def test_shared_towers_are_one_and_stored_once(tiny_backbone, tmp_path, pooling):
    settings = SMALL.model_copy(update={"shared_towers": True, "pooling": pooling})
    shared, separate = shaken(tiny_backbone, settings), shaken(tiny_backbone, SMALL)
    assert shared.towers.project is shared.towers.freelancer
    assert separate.towers.project is not separate.towers.freelancer
    shared.save(tmp_path / "shared")
    separate.save(tmp_path / "separate")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("shared", "separate")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_matcher(tmp_path / "shared", backbone=tiny_backbone)
    assert loaded.towers.project is loaded.towers.freelancer
    assert loaded.fingerprint == shared.fingerprint
    np.testing.assert_array_equal(loaded.encode_freelancers(FREELANCERS), shared.encode_freelancers(FREELANCERS))


def test_the_fingerprint_names_what_decides_a_vector(tiny_backbone, tiny_settings, trained):
    def backbone(**changes):
        return Backbone(tiny_backbone.checkpoint, tiny_settings.model_copy(update=changes), device="cpu")

    assert shaken(tiny_backbone).fingerprint == trained.fingerprint
    same = [
        shaken(backbone(token_budget=64)),
        shaken(tiny_backbone, SMALL.model_copy(update={"dropout": 0.5})),
    ]
    others = [
        shaken(tiny_backbone, seed=1),
        shaken(backbone(max_section_tokens=32)),
        shaken(backbone(project_prefix="")),
        shaken(tiny_backbone, SMALL.model_copy(update={"alpha": 0.5})),
        shaken(tiny_backbone, SMALL.model_copy(update={"max_document_tokens": 64})),
    ]
    assert {matcher.fingerprint for matcher in same} == {trained.fingerprint}
    assert len({trained.fingerprint, *(matcher.fingerprint for matcher in others)}) == 1 + len(others)


def test_one_weight_is_another_space(tiny_backbone, trained):
    other = shaken(tiny_backbone)
    with torch.no_grad():
        other.towers.freelancer.blocks[1].ffn_out.bias[3] += 1e-3
    assert other.fingerprint != trained.fingerprint


def test_models_that_cannot_be_used_are_refused(trained, tiny_backbone, tiny_settings, tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_matcher(tmp_path)
    trained.save(tmp_path / "model")
    cut = Backbone(tiny_backbone.checkpoint, tiny_settings.model_copy(update={"max_section_tokens": 32}), device="cpu")
    with pytest.raises(FingerprintError, match="was trained on backbone"):
        load_matcher(tmp_path / "model", backbone=cut)
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"model": config["model"] | {"layers": 3}}))
    with pytest.raises(ModelError, match="weights do not fit"):
        load_matcher(tmp_path / "model", backbone=tiny_backbone)
    file.write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(ModelError, match="format 99"):
        load_matcher(tmp_path / "model", backbone=tiny_backbone)


def test_configurations_that_do_not_fit_are_refused(tiny_backbone):
    with pytest.raises(ConfigError, match="names a type twice"):
        Matcher.untrained(tiny_backbone, SMALL.model_copy(update={"section_types": ("title", "title")}))
    with pytest.raises(ConfigError, match=r"model\.heads \(5\) must divide the backbone's dimension \(32\)"):
        Matcher.untrained(tiny_backbone, SMALL.model_copy(update={"heads": 5}))


def test_the_default_head_has_seven_million_parameters_per_tower():
    """Per layer 4 d^2 (attention) + 2 d x 4 d (feed-forward) = 12 d^2; 4 layers at d = 384: 7.08M weights.

    The linear map after the pooling adds d^2, all biases, norms and embeddings together less than half a percent.
    """
    towers = Towers(ModelSettings(), 384)
    matrices = sum(p.numel() for n, p in towers.project.blocks.named_parameters() if p.ndim == 2)
    assert matrices == 4 * 12 * 384**2 == 7_077_888
    every = sum(p.numel() for p in towers.project.parameters())
    assert 0 < every - matrices - 384**2 < 0.005 * matrices
    assert sum(p.numel() for p in towers.parameters()) == 2 * every
    assert towers.project.blocks[0].ffn_in.out_features == 1536


@pytest.mark.parametrize(("dim", "heads"), [(384, 12), (768, 24), (1024, 32)])
def test_the_size_of_the_head_follows_the_backbone(dim, heads):
    """Small, base and large: 12 d^2 weights a layer, and attention heads of equal width."""
    with torch.device("meta"):
        tower = Tower(ModelSettings(), dim)
    assert [block.heads for block in tower.blocks] == [heads] * 4
    assert sum(p.numel() for p in tower.blocks.parameters() if p.ndim == 2) == 4 * 12 * dim**2


def test_weights_of_sections_learn_unless_told_not_to(tiny_backbone):
    for learned in (True, False):
        settings = SMALL.model_copy(update={"learned_section_weights": learned})
        assert Towers(settings, 32).project.section_weight.requires_grad is learned


def test_section_order_in_the_configuration_is_part_of_the_model(tiny_backbone, trained):
    turned = SMALL.model_copy(update={"section_types": SMALL.section_types[::-1]})
    assert shaken(tiny_backbone, turned).fingerprint != trained.fingerprint
