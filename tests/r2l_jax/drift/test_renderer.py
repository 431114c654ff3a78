import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import isp
from isp import CameraState, sensor_drift
from r2l_jax.drift import cases
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.corruptions import CORRUPTIONS
from r2l_jax.drift.renderer import Processor, Renderer
from r2l_jax.names import SENSOR, SEVERITIES

CAMERA = isp.CAMERAS["drone"]
RAWS = np.random.default_rng(0).uniform(0.2, 0.6, (3, 16, 16)).astype(np.float32)
INDICES = np.int32([4, 0, 7])

(PIPELINE,) = cases.pipelines(["bilinear.sharpening_filter.gaussian_denoising"])
ACQUISITIONS = [CLEAN, *cases.exposures([0.3, 0.5]), *cases.sensor(["read_noise"], [2])]
PROCESSINGS = [CLEAN, PIPELINE]
CORRUPTED = [CLEAN, *cases.corruptions(["gaussian_noise", "contrast"], [1, 5])]
CASES = [
    acquisition._replace(
        name=f"{acquisition.name}-{processing.name}-{corrupted.name}",
        pipeline=processing.pipeline,
        corruption=corrupted.corruption,
    )
    for acquisition, processing, corrupted in itertools.product(ACQUISITIONS, PROCESSINGS, CORRUPTED)
]


@pytest.fixture(scope="module")
def processors():
    """The learned processor of a model, and a pipeline."""
    parameters = isp.parametrized(CAMERA).parameters()
    learned = isp.parametrized(CAMERA).with_values({**parameters, "gamma_correct": jnp.asarray(1.8)})
    return {None: [Processor.of(learned)], PIPELINE.pipeline: [Processor.of(PIPELINE.pipeline(CAMERA))]}


def rendered(processors, known, raws=RAWS, indices=INDICES, seed=0):
    made = Renderer(seed).images(known, jnp.asarray(raws), jnp.asarray(indices), CAMERA, processors)
    return {case.name: np.asarray(images) for case, (images,) in made}


@pytest.fixture(scope="module")
def images(processors):
    return rendered(processors, CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_images_are_exposed_processed_and_corrupted(processors, images, case):
    key = cases.random_key(str(case.state_of(CAMERA)), 0)
    for place, raw in enumerate(RAWS):
        sample = jax.random.fold_in(key, INDICES[place])
        if case.group == "exposures":
            raw = sensor_drift.underexposure(raw, sample, -case.state.exposure, camera=CAMERA)
            raw = jnp.round(raw * 4095) / 4095
        elif case.group == "sensor":
            raw = sensor_drift.read_noise(raw, sample, 12.0, camera=CAMERA)
        ((graph, state, _),) = processors[case.pipeline]
        image = nnx.merge(graph, state)(raw[None])[0]
        if case.corruption is not None:
            name, severity = case.corruption
            sample = jax.random.fold_in(cases.random_key(f"{name}.{severity}", 0), INDICES[place])
            image = CORRUPTIONS[name](jnp.clip(image, 0, 1), sample, severity)
        np.testing.assert_allclose(images[case.name][place], image, atol=2e-5)


def test_noise_depends_on_the_state_the_seed_and_the_sample_alone(processors, images):
    noisy = next(each for each in CASES if each.state.exposure and each.pipeline and each.corruption)
    other_name = noisy._replace(name="other")
    alone = rendered(processors, [other_name], RAWS[1:2], INDICES[1:2])["other"]
    np.testing.assert_allclose(alone[0], images[noisy.name][1], atol=1e-6)
    for others in ({"seed": 1}, {"indices": INDICES + 1}):
        assert np.abs(rendered(processors, [noisy], **others)[noisy.name] - images[noisy.name]).mean() > 0.01


def test_states_of_the_same_quantities_share_one_compiled_function():
    renderer, index, counts = Renderer(0), jnp.asarray(INDICES), []
    several = ["exposure=-0.7", "exposure=-0.7,defocus=1", "exposure=0.1,defocus=2"]
    known = [*cases.sensor(["motion", "bits", "underexposure", "overexposure", *several], SEVERITIES)]
    for case in known:
        before = renderer._drift._cache_size()
        renderer.mosaics(case.state, RAWS, index, CAMERA)
        counts.append(renderer._drift._cache_size() - before)
    compiled = [case.name for case, count in zip(known, counts, strict=True) if count]
    assert compiled == ["motion.1", "bits.1", "underexposure.1", "exposure=-0.7,defocus=1"]
    assert sum(counts) == 4


def test_what_belongs_to_the_sensor_is_one_draw_for_all_samples_and_batches():
    """Columns and defective sites are those of the sensor; rows and sites get noise of their own in each sample."""
    flat, quiet = np.full((3, 64, 64), 0.5, np.float32), dataclasses.replace(CAMERA, full_well=1e12, read_noise=2.0)
    state = CameraState(column_noise=1e10, hot_sites=2e4, dead_sites=2e4)
    taken = np.asarray(Renderer(0).mosaics(state, flat, INDICES, quiet))
    np.testing.assert_array_equal(taken, taken[:1].repeat(3, 0))
    np.testing.assert_allclose(Renderer(0).mosaics(state, flat[:1], np.int32([9]), quiet), taken[:1], atol=1e-6)
    assert (taken[0] == 1).mean() == pytest.approx(0.02, abs=0.01)
    of_shots = np.asarray(Renderer(0).mosaics(CameraState(row_noise=1e10), flat, INDICES, quiet))
    assert (of_shots[0] != of_shots[1]).all(1).mean() > 0.9


def test_a_measured_intensity_leaves_the_mosaics_as_they_were_read():
    (measured,) = cases.intensities([0.5])
    assert Renderer(0).mosaics(measured.state_of(CAMERA), RAWS, INDICES, CAMERA) is RAWS


def test_only_a_shifted_pattern_moves_masks_and_none_changes_labels():
    made, labels = Renderer(0), np.int32([0, 1, 2])
    masks = np.array([0, 1, 3, 255], np.uint8)[np.int32(4 * np.asarray(RAWS)).clip(0, 3)]
    several = cases.sensor(["exposure=-1,pattern_shift=100", "exposure=-1,defocus=1"], [])
    for case in (CLEAN, *cases.exposures([0.5]), *cases.sensor([*SENSOR], [5]), *several):
        state = case.state_of(CAMERA)
        assert made.targets(state, labels, RAWS.shape[1:]) is labels
        if "pattern_shift" in case.name:
            np.testing.assert_array_equal(made.targets(state, masks, RAWS.shape[1:])[..., :-1], masks[..., 1:])
        else:
            assert made.targets(state, masks, RAWS.shape[1:]) is masks


@pytest.mark.parametrize("percent", [10.0, 30.0, 100.0])
def test_boxes_move_with_the_masks_of_their_insides(percent):
    made, random, state = Renderer(0), np.random.default_rng(0), CameraState(pattern_shift=percent, flicker=5.0)
    height, width = 20, 24
    for _ in range(20):
        x1, y1 = random.integers(0, width - 3), random.integers(0, height - 3)
        # At the last column but one, the copy of its neighbor in the last column would be a part of the object.
        x2 = random.choice([each for each in range(x1 + 2, width + 1) if each != width - 1])
        y2 = random.integers(y1 + 1, height + 1)
        mask = np.zeros((1, height, width), np.uint8)
        mask[0, y1:y2, x1:x2] = 1
        rows, columns = np.nonzero(np.asarray(made.targets(state, mask, (height, width)))[0])
        boxes = np.array([[[x1, y1, x2, y2, 3, 1], [0, 0, 0, 0, -1, 0]]], np.float32)
        found = made.targets(state, boxes, (height, width))[0]
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 3, 1]
        np.testing.assert_array_equal(found[0], expected, err_msg=str((x1, y1, x2, y2)))
        assert found[1, 4] == -1
