import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import isp
from isp import sensor_drift
from r2l_jax.drift import cases, sensor
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.corruptions import CORRUPTIONS
from r2l_jax.drift.renderer import Processor, Renderer, Rendering
from r2l_jax.names import SENSOR

CAMERA = isp.CAMERAS["drone"]
RAWS = np.random.default_rng(0).uniform(0.2, 0.6, (3, 16, 16)).astype(np.float32)
INDICES = np.int32([4, 0, 7])

(PIPELINE,) = cases.pipelines(["bilinear.sharpening_filter.gaussian_denoising"])
ACQUISITIONS = [CLEAN, *cases.exposures([0.3, 0.5]), *cases.sensor(["read_noise"], [2])]
PROCESSINGS = [CLEAN, PIPELINE]
CORRUPTED = [CLEAN, *cases.corruptions(["gaussian_noise", "contrast"], [1, 5])]
RENDERINGS = [Rendering(*steps) for steps in itertools.product(ACQUISITIONS, PROCESSINGS, CORRUPTED)]


@pytest.fixture(scope="module")
def processors():
    """The learned processor of a model, and a pipeline."""
    parameters = isp.parametrized(CAMERA).parameters()
    learned = isp.parametrized(CAMERA).with_values({**parameters, "gamma_correct": jnp.asarray(1.8)})
    return {None: Processor.of(learned), PIPELINE.pipeline: Processor.of(PIPELINE.pipeline(CAMERA))}


def rendered(processors, renderings, raws=RAWS, indices=INDICES, seed=0):
    made = Renderer(seed).images(renderings, jnp.asarray(raws), jnp.asarray(indices), CAMERA, processors)
    return {rendering: np.asarray(images) for rendering, images in made}


@pytest.fixture(scope="module")
def images(processors):
    return rendered(processors, RENDERINGS)


@pytest.mark.parametrize("rendering", RENDERINGS, ids=[".".join(case.name for case in each) for each in RENDERINGS])
def test_images_are_exposed_processed_and_corrupted(processors, images, rendering):
    keys = [[jax.random.fold_in(cases.random_key(case, 0), index) for index in INDICES] for case in rendering]
    for place, raw in enumerate(RAWS):
        if rendering.acquisition.exposure is not None:
            exposure = rendering.acquisition.exposure
            raw = isp.sensor.expose_again(raw, keys[0][place], camera=CAMERA, light=exposure)
            raw = jnp.round(raw * 4095) / 4095
        if rendering.acquisition.sensor is not None:
            amount = jnp.asarray(sensor.KINDS["read_noise"].amounts[1])
            raw = sensor_drift.read_noise(raw, keys[0][place], amount, camera=CAMERA)
        graph, state, _ = processors[rendering.processing.pipeline]
        image = nnx.merge(graph, state)(raw[None])[0]
        if rendering.corruption.corruption is not None:
            name, severity = rendering.corruption.corruption
            image = CORRUPTIONS[name](jnp.clip(image, 0, 1), keys[2][place], severity)
        np.testing.assert_allclose(images[rendering][place], image, atol=2e-5)


def test_noise_depends_on_the_name_the_seed_and_the_sample_alone(processors, images):
    noisy = Rendering(cases.exposures([0.3])[0], PIPELINE, cases.corruptions(["gaussian_noise"], [5])[0])
    alone = rendered(processors, [noisy], RAWS[1:2], INDICES[1:2])[noisy]
    np.testing.assert_allclose(alone[0], images[noisy][1], atol=1e-6)
    for others in ({"seed": 1}, {"indices": INDICES + 1}):
        assert np.abs(rendered(processors, [noisy], **others)[noisy] - images[noisy]).mean() > 0.01


def test_a_case_changes_one_step_and_a_measured_intensity_leaves_the_mosaics_as_they_were_read():
    (exposed,), (measured,), (corrupted,) = ACQUISITIONS[1:2], cases.intensities([0.5]), CORRUPTED[1:2]
    for case, place in ((CLEAN, 0), (exposed, 0), (measured, 0), (PIPELINE, 1), (corrupted, 2)):
        expected = [CLEAN] * 3
        expected[place] = case
        assert Rendering.of(case) == tuple(expected)
    assert Renderer(0).mosaics(measured, RAWS, INDICES, CAMERA) is RAWS


def test_only_kinds_that_move_the_content_move_masks_and_none_changes_labels():
    made, labels = Renderer(0), np.int32([0, 1, 2])
    masks = np.array([0, 1, 3, 255], np.uint8)[np.int32(4 * np.asarray(RAWS)).clip(0, 3)]
    for case in (CLEAN, *cases.exposures([0.5]), *cases.sensor(SENSOR, [5])):
        assert made.targets(case, labels, RAWS.shape[1:]) is labels
        if case.kind == "pattern_shift":
            np.testing.assert_array_equal(made.targets(case, masks, RAWS.shape[1:])[..., :-1], masks[..., 1:])
        else:
            assert made.targets(case, masks, RAWS.shape[1:]) is masks


@pytest.mark.parametrize("severity", [2, 3, 5])
def test_boxes_move_with_the_masks_of_their_insides(severity):
    (case,), made, random = cases.sensor(["pattern_shift"], [severity]), Renderer(0), np.random.default_rng(0)
    height, width = 20, 24
    for _ in range(20):
        x1, y1 = random.integers(0, width - 3), random.integers(0, height - 3)
        # At the last column but one, the copy of its neighbor in the last column would be a part of the object.
        x2 = random.choice([each for each in range(x1 + 2, width + 1) if each != width - 1])
        y2 = random.integers(y1 + 1, height + 1)
        mask = np.zeros((1, height, width), np.uint8)
        mask[0, y1:y2, x1:x2] = 1
        rows, columns = np.nonzero(np.asarray(made.targets(case, mask, (height, width)))[0])
        boxes = np.array([[[x1, y1, x2, y2, 3, 1], [0, 0, 0, 0, -1, 0]]], np.float32)
        found = made.targets(case, boxes, (height, width))[0]
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 3, 1]
        np.testing.assert_array_equal(found[0], expected, err_msg=str((x1, y1, x2, y2)))
        assert found[1, 4] == -1
