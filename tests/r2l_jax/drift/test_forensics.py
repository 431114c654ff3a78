import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from r2l_jax import train
from r2l_jax.drift import forensics
from r2l_jax.drift.forensics import ForensicsConfig
from r2l_jax.errors import InputError


@pytest.fixture(scope="module")
def config(one_epoch, tmp_path_factory):
    return ForensicsConfig(
        run=str(one_epoch.run_dir),
        output=str(tmp_path_factory.mktemp("forensics")),
        adv_parameters=("all", "gamma_correct", "additive_layer"),
        adv_aux_weight=(0.0, 1e6),
        adv_noise_layer=True,
        adv_track_differences=True,
        steps=6,
        lr=0.03,
        batch_size=8,
        track_n_images=2,
    )


@pytest.fixture(scope="module")
def result(config):
    return forensics.run(config)[0]


def test_a_row_for_each_group_and_weight(config, result):
    assert [(row["group"], row["aux_weight"]) for row in result["rows"]] == [
        (group, weight) for group in config.adv_parameters for weight in config.adv_aux_weight
    ]
    for row in result["rows"]:
        assert row["drop"] == pytest.approx(result["default"]["score"] - row["score"])
        assert set(row["parameters"]) >= {"gamma_correct", "additive_layer", "debayer"}
        if row["group"] == "gamma_correct":
            assert not np.any(row["parameters"]["additive_layer"])


def test_a_heavy_penalty_keeps_the_default(result):
    by_key = {(row["group"], row["aux_weight"]): row for row in result["rows"]}
    assert by_key["gamma_correct", 0.0]["ssim"] < by_key["gamma_correct", 1e6]["ssim"]
    assert by_key["gamma_correct", 0.0]["loss"] > result["default"]["loss"]


def test_files_hold_what_was_returned(config, result):
    folder = config.output_dir / "fold_0"
    assert json.loads((folder / "forensics.json").read_text())["rows"] == result["rows"]
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == ["additive_layer.png", "all.png", "curves.png", "gamma_correct.png"]
    for name in names:
        with Image.open(folder / name) as picture:
            assert np.asarray(picture).std() > 0
    assert list(folder.glob("events.*"))


def test_a_finished_fold_is_not_searched_again(config, one_epoch, result, monkeypatch):
    def search(*arguments):
        raise AssertionError

    monkeypatch.setattr(forensics, "_search_fold", search)
    assert forensics.run(config)[0]["rows"] == result["rows"]
    with pytest.raises(AssertionError):
        forensics.run(dataclasses.replace(config, seed=1))
    # Another training, as --overwrite leaves it.
    file = one_epoch.run_dir / "fold_0/metrics.json"
    written = file.read_text()
    file.write_text(json.dumps(json.loads(written) | {"seed": 7}))
    with pytest.raises(AssertionError):
        forensics.run(config)
    file.write_text(written)


def test_several_processes_are_refused(config, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="a search runs on the devices of one process, got 2 processes"):
        forensics.run(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adv_parameters": ("hue",)}, "--adv_parameters must be of all, black_level, .* got 'hue'"),
        ({"adv_noise_layer": False}, "got 'additive_layer'; give --adv_noise_layer, too"),
        ({"run": "nowhere"}, "--run=nowhere is no run's folder: not found"),
        ({"steps": 0}, "--steps must be positive, got 0"),
        ({"adv_aux_loss": "lpips"}, "--adv_aux_loss must be one of ssim, l2, got 'lpips'"),
        ({"adv_aux_weight": (-1.0,)}, r"--adv_aux_weight must be numbers of at least 0, got \[-1.0\]"),
    ],
)
def test_refuses(config, change, message):
    with pytest.raises(InputError, match=message):
        forensics.run(dataclasses.replace(config, **change))


def test_a_run_without_processing_parameters_is_refused(base, config):
    trained = dataclasses.replace(base, run_name="none", processing_mode="none", epochs=1)
    train.run(trained)
    with pytest.raises(InputError, match=r"--processing_mode=none, which has no processing parameters to search over"):
        forensics.run(dataclasses.replace(config, run=str(trained.run_dir)))
