"""A run whose processing adapts to each image, in the programs that take finished runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2l_jax
from r2l_jax.apps.export import onnx_files, stablehlo
from r2l_jax.apps.export.export import LIMIT
from r2l_jax.apps.export.parts import parts_of
from r2l_jax.apps.lab.frames import Frame, prepare
from r2l_jax.apps.report import processing, runs
from r2l_jax.apps.report.pictures import Detail
from r2l_jax.config import TrainConfig
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.model.adaptive import AdaptivePipeline
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training import train
from r2l_jax.training.run import open_run


@pytest.fixture(scope="module")
def config(base):
    config = replace(base, run_name="adaptive", processing_mode="adaptive", lr=6e-3, save_locally=True)
    train.run(config)
    return config


@pytest.fixture(scope="module")
def run(config):
    return open_run(str(config.run_dir), ["0"], "last", None, None)


@pytest.fixture(scope="module")
def raws(run):
    return run.folds[0].dataset.samples(np.arange(4))[0]


def linear(pipeline, raw):
    """Processes mosaics without the tone curve, which is steep near black and enlarges the rounding there."""
    return np.asarray(pipeline.trace(raw)[1]["clipped"])


def test_records_the_values_of_the_validation_images(config, run):
    fold = run.folds[0]
    found = json.loads((config.run_dir / "fold_0" / "metrics.json").read_text())["own_values"]
    raws, _ = fold.dataset.samples(fold.valid_indices)
    values = run.pipeline.own_values(raws)
    np.testing.assert_allclose(
        found["white_balance.blue"], np.percentile(values["white_balance"][:, 2], (5, 50, 95)), rtol=1e-4
    )
    assert np.ptp(found["gamma_correct"]) > 1e-4
    strength = 1 + run.pipeline.moves(raws)["sharpening_filter"].ravel()
    np.testing.assert_allclose(found["sharpening_filter"], np.percentile(strength, (5, 50, 95)), rtol=1e-4)


def test_the_report_shows_these_values(config):
    record = runs.read_runs([str(config.run_dir)])[0]
    text = repr(processing.make([record], Detail(width=64, epochs=2)))
    assert "Parameters as adapted to each validation image" in text
    assert "sharpening_filter" in text


def test_a_loaded_model_adapts(config, raws):
    loaded = r2l_jax.load(config.run_dir / "fold_0" / "model.safetensors")
    assert isinstance(loaded.pipeline, AdaptivePipeline)
    alone = np.stack([linear(loaded.pipeline.adapted(raw), raw) for raw in raws])
    np.testing.assert_allclose(loaded.trace(raws)["clipped"], alone, atol=1e-5)


def test_searches_move_the_own_values_of_each_image(run, raws):
    fold = run.folds[0]
    frozen = Frozen(fold.model, fold.task)
    moved = {**frozen.default, "gamma_correct": 1.2 * frozen.default["gamma_correct"]}
    own = run.pipeline.own_values(raws)["gamma_correct"]
    pipeline = frozen.pipeline(moved)
    np.testing.assert_allclose(pipeline.own_values(raws)["gamma_correct"], 1.2 * own, rtol=1e-5)
    darker = frozen.pipeline({**frozen.default, "white_balance": 0.5 * frozen.default["white_balance"]})
    for raw, image in zip(raws, linear(darker, raws), strict=True):
        adapted = run.pipeline.adapted(raw)
        expected = linear(adapted.with_values({"white_balance": 0.5 * adapted.white_balance[...]}), raw)
        np.testing.assert_allclose(image, expected, atol=1e-5)


def test_measures_what_the_model_predicts(run):
    fold = run.folds[0]
    indices = fold.valid_indices
    raws, targets = fold.dataset.samples(indices)
    frozen = Frozen(fold.model, fold.task)
    (found,) = Measurer(frozen).measure_samples([frozen.default], fold.dataset, indices, 4)
    logits = fold.model(jnp.asarray(raws))
    expected = -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(targets)), targets].mean()
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4)


def test_sliders_start_at_the_values_of_the_part_that_is_shown(run, raws):
    view = prepare(Frame("sample", raws[1], run.camera), run.named_pipeline, run, False, (0.5, 0.5))
    np.testing.assert_allclose(
        view.engine.values(view.engine.start)["white_balance"],
        run.pipeline.own_values(raws)["white_balance"][1],
        rtol=1e-5,
    )
    np.testing.assert_allclose(view.before.image, 255 * run.render(raws[1]).clip(0, 1), atol=0.51)


def test_an_exported_processing_adapts(run, raws, tmp_path):
    part = parts_of(run.model, raws.shape[1:])["isp"]
    stablehlo.write(part, tmp_path / "isp.stablehlo", gradient=True)
    np.testing.assert_allclose(stablehlo.run(part, tmp_path / "isp.stablehlo", raws), run.render(raws), atol=LIMIT)


@pytest.mark.slow
def test_an_exported_processing_adapts_in_onnx(run, raws, tmp_path):
    pytest.importorskip("jax2onnx")
    part = parts_of(run.model, raws.shape[1:])["isp"]
    onnx_files.write(part, tmp_path / "isp.onnx")
    np.testing.assert_allclose(onnx_files.run(part, tmp_path / "isp.onnx", raws), run.render(raws), atol=LIMIT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"adv_training": True}, "--adv_training moves parameters of all images together; --processing_mode=adaptive"),
        ({"sp_debayer": "bilinear"}, "--sp_debayer is for --processing_mode=static, got --processing_mode=adaptive"),
    ],
)
def test_refuses(flags, message):
    with pytest.raises(InputError, match=f"^{message}"):
        build(TrainConfig, processing_mode="adaptive", **flags)


def test_adapts_any_pipeline():
    config = build(TrainConfig, processing_mode="adaptive", pipeline="full")
    assert config.processing.flag == "--processing_mode=adaptive --pipeline=full"
    assert config.processing.learns_pipeline
    assert config.processing.named_pipeline.name == "full"
    with pytest.raises(InputError, match=r"^--pipeline=full is the processing: leave --processing_mode out"):
        build(TrainConfig, processing_mode="static", pipeline="full")
