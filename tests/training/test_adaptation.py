"""Adapting the backbone to translated names, on a tiny real BertModel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.cli import app
from skillmatch_ray.config import BackboneSettings, Config
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.losses.infonce import InfoNCE
from skillmatch_ray.sample.taxonomy import LANGUAGES
from skillmatch_ray.sample.vocabulary import builtin_vocabulary
from skillmatch_ray.training import adaptation
from skillmatch_ray.training.adaptation import STATE_FILE, Adaptation, adapt, hold_out
from skillmatch_ray.training.card import model_card
from skillmatch_ray.training.translations import TranslationPairs

CONCEPTS = builtin_vocabulary()[:60]


@pytest.fixture(scope="module")
def config(tiny_settings: BackboneSettings) -> Config:
    steps = {"steps": 12, "pairs_per_step": 16, "learning_rate": 1e-3, "checkpoint_every": 3, "temperature": 0.05}
    return Config.model_validate({"backbone": tiny_settings.model_dump(), "adaptation": steps})


@pytest.fixture(scope="module")
def adapted(config: Config, tmp_path_factory: pytest.TempPathFactory) -> adaptation.AdaptationReport:
    return adapt(config, CONCEPTS, tmp_path_factory.mktemp("adapted") / "backbone", device="cpu")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def test_transformer_layers_move_and_embeddings_stay(
    adapted: adaptation.AdaptationReport, tiny_checkpoint: Path
) -> None:
    before, after = weights(tiny_checkpoint), weights(adapted.checkpoint)
    assert before.keys() >= after.keys()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("encoder.layer.") for name in moved)


def test_the_new_checkpoint_is_a_backbone_like_any_other(adapted: adaptation.AdaptationReport, config: Config) -> None:
    base = Backbone.load(config.backbone, "cpu")
    new = Backbone.load(config.backbone.model_copy(update={"name": str(adapted.checkpoint)}), "cpu")
    assert new.fingerprint != base.fingerprint
    assert not torch.allclose(new.encode(["query: invoice"])[0], base.encode(["query: invoice"])[0])


def test_the_loss_falls(config: Config, tmp_path: Path) -> None:
    longer = config.adaptation.model_copy(update={"steps": 150, "learning_rate": 3e-3})
    pairs_of_few = TranslationPairs(CONCEPTS[:12], longer, config.seed)
    run = Adaptation(Backbone.load(config.backbone, "cpu"), pairs_of_few, tmp_path, "key")
    before = run.advance()
    while run.step < longer.steps:
        run.advance()
    run.step = 0  # the same texts once more
    assert run.advance() < 0.8 * before


def pairs(config: Config) -> TranslationPairs:
    return TranslationPairs(CONCEPTS, config.adaptation, config.seed)


def test_the_first_loss_is_infonce_over_the_means_of_the_frozen_backbone(config: Config, tmp_path: Path) -> None:
    base, drawn = Backbone.load(config.backbone, "cpu"), pairs(config).draw(0)
    texts = ["query: " + text for text in drawn.left] + ["passage: " + text for text in drawn.right]
    states = base.encode(texts)
    means = torch.nn.functional.normalize(torch.stack([states[i].float().mean(0) for i in range(len(texts))]), dim=1)
    left, right = means.split(len(drawn.left))
    signs = torch.eye(len(left), dtype=torch.int8)
    assert (drawn.signs() == signs.numpy()).all()
    expected = InfoNCE(0.05).from_embeddings(left, right, signs, signs == 9)
    assert Adaptation(base, pairs(config), tmp_path, "key").advance() == pytest.approx(expected.item(), rel=1e-4)


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(
    adapted: adaptation.AdaptationReport, config: Config, tmp_path: Path
) -> None:
    def cut(done: float, *_: object) -> None:
        if done == 8:
            raise KeyboardInterrupt

    out = tmp_path / "backbone"
    with pytest.raises(KeyboardInterrupt):
        adapt(config, CONCEPTS, out, device="cpu", progress=cut)
    assert not out.exists()
    steps: list[float] = []
    resumed = adapt(config, CONCEPTS, out, device="cpu", progress=lambda done, *_: steps.append(done))
    assert steps[0] == 7  # the state of step 6 was kept
    after, whole = weights(out), weights(adapted.checkpoint)
    assert after.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
    assert (resumed.key, resumed.after) == (adapted.key, adapted.after)
    assert not out.with_name(".backbone.adapting").exists()


def test_a_run_that_was_cut_off_after_its_last_step_is_only_written(config: Config, tmp_path: Path) -> None:
    base = Backbone.load(config.backbone, "cpu")
    run = Adaptation(base, pairs(config), tmp_path, "one")
    run.finish(lambda *_: None)
    again = Adaptation(base, pairs(config), tmp_path, "one")
    assert (again.step, again.last_loss) == (12, run.last_loss)
    again.finish(refuse)


def refuse(*_: object) -> None:
    """The progress of a run that must not take a step."""
    raise AssertionError


def test_a_state_of_another_run_is_left_aside(config: Config, tmp_path: Path) -> None:
    base = Backbone.load(config.backbone, "cpu")
    first = Adaptation(base, pairs(config), tmp_path, "one")
    first.advance()
    first._save()
    assert (tmp_path / STATE_FILE).is_file()
    assert Adaptation(base, pairs(config), tmp_path, "one").step == 1
    assert Adaptation(base, pairs(config), tmp_path, "another").step == 0


def test_what_is_done_is_not_done_again_and_nothing_is_overwritten(
    adapted: adaptation.AdaptationReport, config: Config
) -> None:
    again = adapt(config, CONCEPTS, adapted.checkpoint, device="cpu", progress=refuse)
    assert (again.before, again.after, again.loss, again.seconds) == (adapted.before, adapted.after, adapted.loss, 0)
    other = config.model_copy(update={"seed": 1})
    written_otherwise = config.model_copy(
        update={"backbone": config.backbone.model_copy(update={"project_prefix": "brief: "})}
    )
    for changed in (other, written_otherwise):
        with pytest.raises(ConfigError, match="something else"):
            adapt(changed, CONCEPTS, adapted.checkpoint, device="cpu", progress=refuse)


def test_the_card_of_a_model_tells_that_its_backbone_was_adapted(
    adapted: adaptation.AdaptationReport, config: Config
) -> None:
    metrics = {"fingerprint": "f" * 64, "steps": 7, "loss": 1.25, "seconds": 3.2, "validation": {}}
    base = config.backbone.model_copy(update={"name": str(adapted.checkpoint)})
    assert "(adapted to 48 translated concepts, then frozen)" in model_card(
        config.model_copy(update={"backbone": base}), metrics
    )


def test_concepts_that_are_measured_on_are_not_learned_from() -> None:
    learned, held = hold_out(CONCEPTS, 10, seed=0)
    assert len(held) == 10
    assert len(learned) == 50
    assert not [one for one in held if one in learned]
    assert len(hold_out(CONCEPTS, 1000, seed=0)[1]) == 12  # a fifth


def test_those_measured_on_are_named_in_the_commonest_languages() -> None:
    some = [{**labels, "pl": ("x",)} if i % 3 == 0 else labels for i, labels in enumerate(CONCEPTS)]
    learned, held = hold_out(some, 10, seed=0)
    assert all(one.keys() == set(LANGUAGES) for one in held)
    assert sum("pl" in one for one in learned) == 20


def test_too_few_concepts_are_refused() -> None:
    with pytest.raises(ConfigError, match="9 concepts: at least 10"):
        hold_out(CONCEPTS[:9], 10, seed=0)


def test_the_verb_writes_a_checkpoint_and_its_report(config: Config, tmp_path: Path) -> None:
    names, out = tmp_path / "names.jsonl", tmp_path / "backbone"
    names.write_text("\n".join(json.dumps(dict(one)) for one in CONCEPTS), encoding="utf-8")
    options = [
        "--concepts",
        str(names),
        "--set",
        f"backbone.name={config.backbone.name}",
        "--set",
        "adaptation.steps=2",
    ]
    done = CliRunner().invoke(app, ["adapt", "--out", str(out), *options, "--report", str(tmp_path / "report.json")])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (told["steps"], told["held_out"]) == (2, 300)
    assert told["concepts"] == len(builtin_vocabulary()) + len(CONCEPTS) - 300
    assert np.isfinite(told["loss"])
    assert json.loads((out / "adaptation.json").read_text(encoding="utf-8"))["key"] == told["key"]
