"""--auto: metering before the pipeline, in training, evaluation and rendering."""

import dataclasses

import by_hand
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from r2l_jax.config import ProcessingSettings
from r2l_jax.drift import cases
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.model.processors import metered_as
from r2l_jax.pipelines import find_pipeline
from r2l_jax.programs.process import RenderConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train
from r2l_jax.training.run import open_runs

BOTH = ("exposure", "white_balance")
OTHER = "bilinear.unsharp_masking.median_denoising"


@pytest.fixture(scope="module")
def fold(base):
    config = replace(base, run_name="metered", epochs=1, save_locally=True, auto=BOTH)
    train.run(replace(config, freeze_processor=True))
    ((fold,),) = open_runs([str(config.run_dir)])
    return fold


def darker(raws, camera, light):
    black = np.asarray(isp.cfa.black_levels(np.array(camera.black_level), camera.pattern, *raws.shape[-2:]))
    return (black + light * (raws - black)).astype(np.float32)


def test_a_run_meters_by_the_level_and_the_color_of_its_training_images(fold):
    camera, raws = fold.dataset.camera, fold.dataset.samples(fold.train_indices)[0]
    expected = isp.metered(isp.parametrized(camera), camera, like=raws)
    found = fold.model.processor
    assert found.stage_names == ("auto_white_balance", "auto_exposure", *isp.parametrized(camera).stage_names)
    for name, value in expected.parameters().items():
        np.testing.assert_allclose(found.parameters()[name], value, rtol=1e-5, err_msg=name)
    # Not the gray card of a pipeline without training images.
    assert abs(found.exposure_target[...] / isp.stages.auto_exposure(camera).parameters["exposure_target"].value) > 1.5


def test_less_light_leaves_a_metering_model_as_it_is(fold):
    raws = fold.dataset.samples(fold.valid_indices)[0]
    model, half = fold.model, jnp.asarray(darker(raws, fold.dataset.camera, 0.5))
    np.testing.assert_allclose(model(half), model(jnp.asarray(raws)), atol=1e-3)
    plain = isp.parametrized(fold.dataset.camera)
    assert abs(plain(half) - plain(raws)).mean() > 0.1


def test_another_pipeline_meters_as_each_model_does(fold):
    brighter = fold.model.processor.with_values({"exposure_target": 0.2})
    model = type(fold.model)(brighter, fold.model.normalizer, fold.model.head)
    other = dataclasses.replace(fold, load_model=lambda: model)
    static = isp.static(fold.dataset.camera, *OTHER.split("."))
    first, second, _ = Evaluator(8).evaluate([fold, other], fold.dataset, cases.pipelines([OTHER]))
    for each, of in ((first, fold), (second, other)):
        loss, confusion = by_hand.evaluate(of, isp.metered_like(static, of.model.processor))
        assert each[OTHER]["loss"] == pytest.approx(loss, rel=1e-4)
        np.testing.assert_array_equal(each[OTHER]["confusion"], confusion)
    assert first[OTHER]["loss"] != pytest.approx(second[OTHER]["loss"], rel=1e-2)
    assert metered_as(brighter, static).stage_names[:2] == ("auto_white_balance", "auto_exposure")


def test_processing_without_a_place_for_it_refuses():
    with pytest.raises(InputError, match="--auto meters before a pipeline: --processing_mode=none has none"):
        ProcessingSettings(auto=BOTH, processing_mode="none")
    with pytest.raises(InputError, match=r"--auto must be .* exposure, white_balance, got 'focus'"):
        ProcessingSettings(auto=("focus",))


def test_a_rendering_exposes_gray_cards_to_18_percent():
    camera = isp.CAMERAS["drone"]
    rendered = find_pipeline("parametrized").metered(("exposure",))(camera)
    assert rendered.stage_names[:2] == ("auto_exposure", "demosaic")
    # Pictures of other settings are not mixed in one folder.
    assert find_pipeline("parametrized").metered(("exposure",)) != find_pipeline("parametrized")
    assert find_pipeline("parametrized").metered(())(camera).stage_names[0] == "demosaic"
    with pytest.raises(InputError, match="--run=runs/a is the processing: leave --auto out"):
        RenderConfig(input=("a",), output="b", run="runs/a", auto=BOTH)
