"""Peers: real sentence-transformers models and our own model directories, beside the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.config import BackboneSettings, ModelSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import ConfigError, ModelError
from skillmatch_ray.evaluation.encoders import TowerEncoder
from skillmatch_ray.evaluation.evaluate import evaluate
from skillmatch_ray.evaluation.peers import with_peers
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary
from skillmatch_ray.model.matcher import Matcher


@pytest.fixture(scope="module")
def sentence_model(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint as a sentence-transformers directory with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    source = tmp_path_factory.mktemp("peer")
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json")),
        pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>",
    ).save_pretrained(source)  # fmt: skip
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes((tiny_checkpoint / name).read_bytes())
    transformer = Transformer(str(source))
    path = tmp_path_factory.mktemp("saved") / "tiny-e5"
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(path))
    return path


def main_encoder(backbone, name="model", **settings):
    return TowerEncoder(backbone, {name: Matcher.untrained(backbone, ModelSettings(layers=0, **settings)).towers})


def test_a_sentence_model_reads_each_document_as_one_text(tiny_backbone, tiny_dataset, sentence_model):
    """Against the backbone itself: prompt + lines, mean over all tokens. The name says e5, so that its prompts come."""
    _, peer = with_peers(main_encoder(tiny_backbone), [str(sentence_model)])
    documents = Dataset(tiny_dataset).freelancers()[:6]
    found = peer.encode("freelancer", documents)[str(sentence_model)]
    texts = ["passage: " + "\n".join(section.text for section in document.sections()) for document in documents]
    wide = Backbone.load(BackboneSettings(name=tiny_backbone.settings.name, max_section_tokens=512, dtype="float32"))
    states = wide.encode(texts)
    expected = np.stack([states[i].mean(0).cpu().numpy() for i in range(len(texts))])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_our_model_on_the_same_backbone_shares_its_pass(tiny_backbone, tmp_path):
    Matcher.untrained(tiny_backbone, ModelSettings(layers=0, alpha=0.0)).save(tmp_path / "other")
    encoders = with_peers(main_encoder(tiny_backbone), [str(tmp_path / "other")])
    assert [list(encoder.names) for encoder in encoders] == [["model", str(tmp_path / "other")]]


def test_our_model_on_another_backbone_brings_its_own(tiny_backbone, tiny_settings, tmp_path):
    longer = Backbone.load(tiny_settings.model_copy(update={"max_section_tokens": 32}), device="cpu")
    Matcher.untrained(longer, ModelSettings(layers=0)).save(tmp_path / "other")
    main, other = with_peers(main_encoder(tiny_backbone), [str(tmp_path / "other")])
    assert (list(main.names), list(other.names)) == (["model"], [str(tmp_path / "other")])


def test_our_model_with_another_glossary_reads_its_own(tiny_backbone, tmp_path):
    glossary = Glossary(({"en": ("react",), "fr": ("réagir",)},))
    settings = ModelSettings(layers=0)
    Matcher.untrained(tiny_backbone, settings, glossary).save(tmp_path / "other")
    plain = main_encoder(tiny_backbone)
    main, other = with_peers(plain, [str(tmp_path / "other")])
    assert (main.glossary, other.glossary) == (NO_GLOSSARY, glossary)
    people = [Freelancer(freelancer_id="a", headline="React", language="en")]
    (found,) = other.encode("freelancer", people).values()
    expected = Matcher.untrained(tiny_backbone, settings, glossary).encode_freelancers(people)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    shared = with_peers(replace(plain, glossary=glossary), [str(tmp_path / "other")])
    assert len(shared) == 1


def test_peers_are_reported_and_compared(tiny_backbone, tiny_dataset, sentence_model, tmp_path):
    """A peer that is the model itself has its figures, no difference and p 1."""
    matcher = Matcher.untrained(tiny_backbone, ModelSettings(layers=0))
    matcher.save(tmp_path / "twin")
    peers = [str(sentence_model), str(tmp_path / "twin")]
    found = evaluate(Dataset(tiny_dataset), tiny_backbone, {"model": matcher.towers}, peers=peers).as_dict()
    assert set(found["peers"]) == set(peers)
    assert found["peers"][peers[1]] == found["model"]
    assert found["comparisons"][peers[1]]["p"] == 1
    assert set(found["comparisons"]) == {*found["baselines"], *peers}
    assert len(found["baselines"]) == 5


def test_a_peer_that_is_no_model_is_refused_with_its_name(tiny_backbone, tmp_path):
    with pytest.raises(ModelError, match="nothing-here"):
        with_peers(main_encoder(tiny_backbone), [str(tmp_path / "nothing-here")])


def test_a_peer_named_twice_is_refused(tiny_backbone, tmp_path):
    Matcher.untrained(tiny_backbone, ModelSettings(layers=0)).save(tmp_path / "other")
    with pytest.raises(ConfigError, match="taken"):
        with_peers(main_encoder(tiny_backbone), [str(tmp_path / "other")] * 2)
