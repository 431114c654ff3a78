import dataclasses
import json
import re
import shutil

import huggingface_hub
import jax
import msgspec
import numpy as np
import pytest
from flax import nnx

import r2l_jax
from r2l_jax.apps.share.cards import MARK, model_card
from r2l_jax.cli.flags import replace
from r2l_jax.data.sets.folder import center_crop
from r2l_jax.errors import InputError
from r2l_jax.results import result, store
from r2l_jax.results.result import DROP, SCORE, Column, Result, Table
from r2l_jax.training.record import training_id
from r2l_jax.training.run import Run

TEST = {"name": "accuracy", "value": 0.625, "low": 0.5071, "high": 0.7429, "samples": 40, "groups": 20, "seeds": 1}


def envelope(model):
    limits = {"exposure": {"low": -1, "high": 0.3, "unit": "stops", "neutral": 0, "distribution": "uniform"}}
    about = {"tolerance": 0.02, "fraction": 0.953, "holds": True, "confidence": 0.95, "models": [model.identity]}
    about |= {"measured": "test samples"}
    return json.dumps({"limits": limits, **about})


def drops(training):
    columns = [Column("test"), Column("drop", "points", DROP), Column("accuracy", "points", SCORE)]
    table = Table("Drops", columns, [["exposure=-1", (0.123, 0.01, 0.236), 0.502]])
    metadata = {"measured": "test samples", "notes": ["40 of them"], "training": {"fold_0": training}}
    return Result(metadata, {"drops": table})


@pytest.fixture
def run(one_epoch, tmp_path):
    """A copy of a run, as if it had been tested."""
    folder = tmp_path / "runs" / "cells"
    shutil.copytree(one_epoch.run_dir, folder)
    (folder / "test.json").write_text(json.dumps(TEST))
    model = r2l_jax.load(folder)
    (folder / "envelope").mkdir()
    (folder / "envelope" / "envelope.json").write_text(envelope(model))
    result.write(folder / "evaluation", drops(training_id(model.about)), store.identity({}, [], []))
    return folder


def test_a_card_says_what_is_recorded_and_asks_for_the_rest(one_epoch):
    card = r2l_jax.load(one_epoch.run_dir).generate_model_card(authors="Jane Doe")
    assert card.data.to_dict() == {
        "library_name": "r2l_jax",
        "pipeline_tag": "image-classification",
        "tags": ["jax", "raw-images", "camera-drift", "simulated-data"],
        "metrics": ["accuracy"],
    }
    for words in (
        "- Authors: Jane Doe\n",
        "- License: [to be filled in by the authors: license of the model]",
        "Not for: [to be filled in by the authors:",
        "> **Simulated data.** The embedded data set renders blood cells",
        "- Classes: BAS, EOS, LYT, MON, NGS\n",
        "- Samples of 32x32 pixels: 32 to train, 8 to validate, none to test\n",
        "| pattern | RGGB |",
        "| white balance | [1.9, 1.0, 1.6] |",
        "  --synthetic_images=40",
        "| 8 validation samples, which also chose the epoch | 25.0 | |",
        "No scores under drift were recorded.",
        "No operating envelope was measured",
        "- No samples were set aside to test. Expect lower scores than the validation score.",
    ):
        assert words in card.text, words
    # Its example predicts the middle of a larger raw image.
    raw, places = np.arange(65.0 * 98).reshape(65, 98), {}
    (line,) = (line for line in card.text.splitlines() if line.startswith("top, left = "))
    exec(line, {"raw": raw}, places)
    cropped = raw[places["top"] : places["top"] + 32, places["left"] : places["left"] + 32]
    np.testing.assert_array_equal(cropped, center_crop(raw, 32, 32, "RGGB"))
    assert "test samples" not in card.text
    assert not re.search(r"\n\n\n\n|  +\|| +\n", card.text), card.text


def test_scores_and_drops_are_of_test_samples_with_their_intervals(run):
    text = model_card(r2l_jax.load(run)).text
    for words in (
        "| 40 test samples of 20 groups | 62.5 | 50.7 to 74.3 |",
        "on the test samples; 40 of them. A positive drop is a loss:",
        "| test | drop, points | accuracy, points |\n| --- | --- | --- |\n",
        "\n| exposure=-1 | 12.3 (1.0 to 23.6) | 50.2 |\n",
        "With 95% confidence, the score drops by at most 2.0 points, on images like the test samples, with at",
        "within these limits: exposure -1 to 0.3 stops.",
        "- The test score holds for images like the test samples.\n- Raw",
    ):
        assert words in text, words
    (run / "test.json").write_text(json.dumps({**TEST, "groups": 40}))
    assert "takes the test samples as independent" in model_card(r2l_jax.load(run)).text


def test_an_adapted_model_has_no_score_on_test_samples(run):
    (fold,) = r2l_jax.load(run)
    split = {"valid_indices": fold.about.valid_indices[:4], "test_indices": fold.about.valid_indices[4:]}
    for adapted, said in ((None, "samples is known.\n"), ({"by": "8 images"}, "is known: it was adapted after its tr")):
        about = msgspec.structs.replace(fold.about, **split, adapted=adapted)
        (run / "test.json").unlink(missing_ok=True)
        text = model_card(Run([dataclasses.replace(fold, about=about)])).text
        assert said in text


def test_what_belongs_to_other_models_is_not_said(run, capsys):
    model = r2l_jax.load(run)
    result.write(run / "evaluation", drops("of an earlier training"), store.identity({}, [], []))
    (run / "envelope" / "envelope.json").write_text(envelope(model).replace(model.identity, "another"))
    (run / "test.json").write_text(json.dumps({**TEST, "seeds": 6}))
    text = model_card(model).text
    for words in ("No scores under drift", "No operating envelope", "No samples were set aside"):
        assert words in text
    assert "is left out: it belongs to other models" in capsys.readouterr().err
    (run / "test.json").write_text(json.dumps(TEST))
    adapted = Run([fold.adapted(fold.model, {"by": "hand"}) for fold in model])
    assert "62.5" not in model_card(adapted).text
    result.write(run / "evaluation", drops(model.folds[0].training), store.identity({}, [], []))
    assert "exposure=-1" in model_card(model).text
    assert "exposure=-1" not in model_card(adapted).text
    assert "was adapted to other images" in model_card(adapted).text


@pytest.mark.shows("share.hub keys: measured, models, notes")
def test_scores_and_the_envelope_travel_marked(run, tmp_path):
    r2l_jax.load(run).save_pretrained(tmp_path / "shared")
    about = json.loads((tmp_path / "shared" / "config.json").read_text())
    assert about["test"] == TEST
    assert about["score"]["samples"] == "validation"
    again = r2l_jax.load(tmp_path / "shared")
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["test"] == TEST
    text = huggingface_hub.ModelCard.load(tmp_path / "again" / "README.md").text
    assert "| 62.5 | 50.7 to 74.3 |" in text
    assert "exposure -1 to 0.3 stops" in text
    assert "| exposure=-1 | 12.3 (1.0 to 23.6) | 50.2 |" in text
    assert "on the test samples; 40 of them. A positive drop is a loss:" in text
    other = nnx.clone(again.folds[0].model)
    nnx.update(other, jax.tree.map(lambda leaf: leaf + 1, nnx.state(other, nnx.Param)))
    assert "exposure=-1" not in model_card(Run([again.folds[0].adapted(other, {"by": "hand"})])).text
    # The file alone lies in a folder that may belong to another run.
    lone = tmp_path / "runs" / "cells" / "elsewhere" / "model.safetensors"
    lone.parent.mkdir()
    shutil.copy(tmp_path / "shared" / "model.safetensors", lone)
    assert "62.5" not in model_card(r2l_jax.load(lone)).text


def test_a_card_takes_what_is_said_later_until_somebody_edits_it(run, tmp_path, capsys):
    model, card = r2l_jax.load(run), tmp_path / "README.md"
    model.save_pretrained(tmp_path)
    assert "- License: [to be filled in" in card.read_text()
    model.save_pretrained(tmp_path, model_card_kwargs={"license": "mit"})
    said = card.read_text()
    assert "- License: mit" in said
    model.save_pretrained(tmp_path)
    assert card.read_text() == said
    with pytest.raises(InputError, match="no field email and no licence: it has repository, license"):
        model.save_pretrained(tmp_path, model_card_kwargs={"licence": "mit", "email": "jane@example.org"})
    card.write_text(said.replace(MARK, "").replace("mit", "bsd-3-clause"))
    model.save_pretrained(tmp_path, model_card_kwargs={"license": "cc0-1.0"})
    assert "- License: bsd-3-clause" in card.read_text()
    assert "README.md has been edited, and stays as it is" in capsys.readouterr().err


def test_the_score_of_a_group_is_of_its_ensemble_alone(run, tmp_path):
    for seed in (0, 1):
        shutil.copytree(run / "fold_0", tmp_path / "group" / f"seed_{seed}" / "fold_0")
    (tmp_path / "group" / "test.json").write_text(json.dumps({**TEST, "seeds": 2}))
    model = r2l_jax.load(tmp_path / "group")
    assert "| 40 test samples of 20 groups; mean of the members | 62.5 | 50.7 to 74.3 |" in model_card(model).text
    assert "This is an ensemble of 2 models" in model_card(model).text
    model.save_pretrained(tmp_path / "shared")
    about = json.loads((tmp_path / "shared" / "config.json").read_text())
    assert ["test" in member for member in about["members"]] == [False, False]
    assert "mean of the members" in model_card(r2l_jax.load(tmp_path / "shared")).text
    assert "No samples were set aside" in model_card(r2l_jax.load(tmp_path / "group" / "seed_1")).text


def test_the_validation_score_of_several_models_is_their_mean(one_epoch):
    (fold,) = r2l_jax.load(one_epoch.run_dir)
    better = [{**row, "val_accuracy": 0.625} for row in fold.about.history]
    other = dataclasses.replace(fold, about=msgspec.structs.replace(fold.about, history=better))
    assert "| 8 validation samples, which also chose the epoch | 43.8 | |" in model_card(Run([fold, other])).text


def test_a_damaged_score_and_unknown_fields_are_one_line(run):
    (run / "test.json").write_text('{"score": 1}')
    with pytest.raises(InputError, match=r"test\.json: "):
        model_card(r2l_jax.load(run))
    with pytest.raises(InputError, match=r"^a model card has no field licence: it has repository, license, authors"):
        model_card(r2l_jax.load(run), licence="mit")


def changed(model, **flags):
    """The model as if it had been trained with other settings."""
    (fold,) = model.folds
    about = msgspec.structs.replace(fold.about, flags={**fold.about.flags, **flags})
    return Run([dataclasses.replace(fold, about=about, config=replace(fold.config, **flags))])


def test_raw_images_made_of_pictures_are_called_simulated(one_epoch, tmp_path, monkeypatch):
    model = changed(r2l_jax.load(one_epoch.run_dir), dataset="Folder", data_dir=str(tmp_path), synthetic_images=600)
    assert "imulated data" not in model_card(model).text
    (tmp_path / "croissant.json").write_text('{"rai:dataLimitations": ["Simulated, not photographed: from pictures."]}')
    # What lies in the current folder is of another data set.
    monkeypatch.chdir(tmp_path)
    assert "imulated data" not in model_card(changed(model, data_dir=None)).text
    card = model_card(model)
    assert "> **Simulated data.** from pictures." in card.text
    assert "simulated-data" in card.data.tags
    assert f"--data_dir={tmp_path.name}\n" in card.text.replace(" \\", "")


def test_a_custom_pipeline_is_named_without_its_folder(one_epoch, tmp_path):
    (tmp_path / "my_isp.py").write_text("import isp\n\n\ndef make(camera):\n    return isp.parametrized(camera)\n")
    model = changed(r2l_jax.load(one_epoch.run_dir), pipeline=f"{tmp_path}/my_isp.py:make")
    card = model_card(model).text
    assert "an image signal processor (`pipeline=my_isp.py:make`)" in card
    assert str(tmp_path) not in card
