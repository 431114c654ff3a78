"""--auto: metering before the pipeline, in training, evaluation and rendering."""

import dataclasses

import by_hand
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from r2l_jax.cli.flags import replace
from r2l_jax.drift import cases
from r2l_jax.drift.forensics.attack import Attack
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.errors import InputError
from r2l_jax.pipelines import find_pipeline
from r2l_jax.programs.process import RenderConfig
from r2l_jax.training import train
from r2l_jax.training.plan import Plan
from r2l_jax.training.run import load
from r2l_jax.training.steps import GradientDescent

BOTH = ("exposure", "white_balance")
OTHER = "bilinear.unsharp_masking.median_denoising"


@pytest.fixture(scope="module")
def fold(base):
    config = replace(base, run_name="metered", epochs=1, save_locally=True, auto=BOTH)
    train.run(replace(config, freeze_processor=True))
    (fold,) = load(str(config.run_dir))
    return fold


def test_a_run_meters_by_the_level_and_the_color_of_its_training_images(fold):
    camera, raws = fold.dataset.camera, fold.dataset.samples(fold.split.train)[0]
    expected = isp.metered(isp.parametrized(camera), camera, like=raws)
    found = fold.model.processor
    assert found.stage_names == ("auto_white_balance", "auto_exposure", *isp.parametrized(camera).stage_names)
    for name, value in expected.parameters().items():
        np.testing.assert_allclose(found.parameters()[name], value, rtol=1e-5, err_msg=name)
    # Not the gray card of a pipeline without training images.
    assert abs(found.exposure_target[...] / isp.stages.auto_exposure(camera).parameters["exposure_target"].value) > 1.5


OWN_ISP = """
import isp

def make(camera):
    return isp.metered(isp.parametrized(camera), camera, exposure=False)
"""


@pytest.mark.shows("train --auto")
@pytest.mark.parametrize(
    ("settings", "expected", "augments"),
    [
        ({}, BOTH, True),
        ({"camera_augmentation": ()}, BOTH, False),
        ({"auto": ()}, (), False),
        ({"auto": ("exposure",)}, ("exposure",), True),
        ({"processing_mode": "none"}, (), False),
        ({"epochs": 0, "classifier_uri": "metered"}, BOTH, False),
        ({"freeze_classifier": True, "classifier_uri": "plain"}, (), False),
        ({"freeze_classifier": True, "classifier_uri": "metered"}, BOTH, False),
        ({"freeze_classifier": True, "classifier_uri": "metered", "auto": ("exposure",)}, ("exposure",), False),
        ({"freeze_classifier": True, "classifier_uri": "metered", "pipeline": "my_isp.py:make"}, (), False),
        ({"adv_training": True, "classifier_uri": "plain"}, (), False),
        ({"processor_uri": "metered"}, BOTH, True),
        ({"processor_uri": "plain"}, (), False),
        ({"pipeline": "my_isp.py:make"}, (), True),
    ],
)
def test_a_training_meters_and_sees_other_exposures_unless_its_network_or_pipeline_is_given(
    base, one_epoch, fold, tmp_path, settings, expected, augments
):
    runs = {"metered": str(fold.folder.parent), "plain": str(one_epoch.run_dir)}
    (tmp_path / "my_isp.py").write_text(OWN_ISP)
    places = {**runs, "my_isp.py:make": f"{tmp_path}/my_isp.py:make"}
    given = {name: places.get(value, value) if isinstance(value, str) else value for name, value in settings.items()}
    config = replace(base, **{"run_name": "default", "auto": None, "camera_augmentation": None, **given})
    plan = Plan(config, Attack if config.attack.adv_training else GradientDescent)
    assert plan.steps.architecture.processing.auto == expected
    assert plan.described["flags"]["auto"] == list(expected)
    assert plan.steps.camera_augmentation == (("exposure",) if augments else ())
    assert plan.described["flags"]["camera_augmentation"] == list(plan.steps.camera_augmentation)


def test_the_processor_of_another_run_keeps_its_metering(base, one_epoch, fold):
    metered, plain = str(fold.folder.parent), str(one_epoch.run_dir)
    for uri, auto, has in ((metered, (), "exposure,white_balance"), (plain, BOTH, "none")):
        config = replace(base, run_name="taken", processor_uri=uri, auto=auto)
        with pytest.raises(InputError, match=f"^`auto` must be {has}, as in `processor_uri={uri}`, got"):
            Plan(config)
    # A run that has begun knows it, also when the other run is gone.
    config = replace(base, run_name="begun", processor_uri="gone", auto=None)
    (config.run_dir / "fold_0").mkdir(parents=True)
    (config.run_dir / "fold_0/metrics.json").write_bytes((fold.folder / "metrics.json").read_bytes())
    assert Plan(config).steps.architecture.processing.auto == BOTH


def test_another_pipeline_meters_as_each_model_does(fold, tmp_path):
    brighter = fold.model.processor.with_values({"exposure_target": 0.2})
    model = type(fold.model)(brighter, fold.model.normalizer, fold.model.head)
    models, samples = {"first": Model(fold.model), "second": Model(model)}, Samples.of(fold, 8)
    static = isp.static(fold.dataset.camera, *OTHER.split("."))
    found = measure(models, cases.pipelines([OTHER]), samples)
    for name, processor in (("first", fold.model.processor), ("second", brighter)):
        loss, confusion = by_hand.evaluate(fold, isp.metered_like(static, processor))
        assert found.loss_of(name, OTHER) == pytest.approx(loss, rel=1e-4)
        assert found.score(name, OTHER) == pytest.approx(np.trace(confusion) / confusion.sum())
    assert found.loss_of("first", OTHER) != pytest.approx(found.loss_of("second", OTHER), rel=1e-2)
    # A pipeline of a file is made once for a camera, but not with the metering of another model.
    (tmp_path / "plain.py").write_text("import isp\n\nmake = isp.parametrized\n")
    named = find_pipeline(f"{tmp_path}/plain.py:make")
    for processor in (fold.model.processor, brighter):
        target = named.metered_as(processor)(fold.dataset.camera).parameters()["exposure_target"]
        assert target == processor.exposure_target[...]


def test_an_adapted_model_of_another_pipeline_meters_as_before(fold, tmp_path):
    model = fold.model
    unset = dataclasses.replace(fold, config=replace(fold.config, auto=()), model=model)
    other = find_pipeline(OTHER)
    processor = other.metered_as(model.processor)(fold.dataset.camera)
    adapted = type(model)(processor, model.normalizer, model.head)
    unset.adapted(adapted, {}, other).write_fold(tmp_path / "fold_0")
    raws = jnp.asarray(fold.dataset.samples(fold.split.valid)[0])
    (found,) = load(str(tmp_path))
    np.testing.assert_allclose(found.model(raws), adapted(raws), atol=1e-5)


def test_a_rendering_exposes_gray_cards_to_18_percent():
    camera = isp.CAMERAS["drone"]
    rendered = find_pipeline("parametrized").metered(("exposure",))(camera)
    assert rendered.stage_names[:2] == ("auto_exposure", "demosaic")
    # Pictures of other settings are not mixed in one folder.
    assert find_pipeline("parametrized").metered(("exposure",)) != find_pipeline("parametrized")
    assert find_pipeline("parametrized").metered(())(camera).stage_names[0] == "demosaic"
    with pytest.raises(InputError, match="`run=runs/a` sets the processing: leave `auto` out"):
        RenderConfig(input=("a",), output="b", run="runs/a", auto=BOTH)
