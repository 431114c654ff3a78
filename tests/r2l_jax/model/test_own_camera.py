"""Processing for samples of several cameras; both cameras of the fixture take the same scenes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_cameras import CAMERAS, FAR, NEAR, scene

import isp
from isp.sensor import noise_of
from r2l_jax.data.cameras import Cameras
from r2l_jax.drift import renderer, sensor
from r2l_jax.model import own_camera
from r2l_jax.model.augment import sample_keys
from r2l_jax.model.camera_augmentation import retake
from r2l_jax.runtime.errors import InputError

SEVERAL = Cameras(("near", "far"), (NEAR, FAR), np.array([0, 1]), NEAR)
VALUES = SEVERAL.values(np.arange(2))
RAWS = jnp.stack([isp.unprocess(scene("red", 3), camera) for camera in (NEAR, FAR)])
# Noise drawn for a sample does not depend on its camera, so that these samples differ in their camera alone.
INDEX = jnp.array([5, 5])
KEY = jax.random.key(2)


@pytest.mark.parametrize("make", [isp.parametrized, isp.static])
def test_images_of_one_scene_agree_between_cameras(make):
    # Sharpening would exaggerate the rounding of demosaicing.
    pipeline = make(NEAR).without("sharpening" if make is isp.parametrized else "sharpen")
    images = np.asarray(own_camera.images(pipeline, RAWS, VALUES))[:, 2:-2, 2:-2]
    np.testing.assert_allclose(images[1], images[0], atol=5e-3)
    without = np.asarray(own_camera.images(pipeline, RAWS, None))[:, 2:-2, 2:-2]
    assert abs(without[1] - without[0]).max() > 0.2
    np.testing.assert_allclose(without[0], images[0], atol=1e-6)


def test_learned_distances_from_the_first_camera_are_common():
    pipeline = isp.parametrized(NEAR)
    gains, black = pipeline.white_balance[...] * 1.3, pipeline.black_level[...] + 0.03
    learned = pipeline.with_values({"white_balance": gains, "black_level": black})
    wanted = isp.parametrized(FAR)
    wanted = wanted.with_values(
        {"white_balance": wanted.white_balance[...] * 1.3, "black_level": wanted.black_level[...] + 0.03}
    )
    moved = own_camera.moved(learned, NEAR, FAR)
    for name, value in wanted.parameters().items():
        np.testing.assert_allclose(moved.parameters()[name], value, atol=1e-5)
    np.testing.assert_allclose(own_camera.images(learned, RAWS, VALUES)[1], wanted(RAWS[1]), atol=1e-5)
    _, stages = own_camera.trace(learned, RAWS, VALUES)
    np.testing.assert_allclose(stages["color_correct"][1], wanted.trace(RAWS[1])[1]["color_correct"], atol=1e-5)


def test_gradients_of_both_cameras_reach_the_common_parameters():
    pipeline = isp.parametrized(NEAR)

    def brightness(gains, weights):
        images = own_camera.images(pipeline.with_values({"white_balance": gains}), RAWS, VALUES)
        return weights @ images.mean((1, 2, 3))

    for weights in np.eye(2, dtype=np.float32):
        gradient = jax.grad(brightness)(pipeline.white_balance[...], weights)
        assert bool((jnp.abs(gradient) > 1e-3).all())


def test_processors_without_calibration_values_take_mosaics_as_they_are():
    pipeline = isp.Pipeline([isp.Stage("demosaic", isp.demosaic.bilinear)])
    np.testing.assert_array_equal(own_camera.images(pipeline, RAWS, VALUES), pipeline(RAWS))


@pytest.mark.parametrize("strength", ["weak", "strong"])
def test_camera_augmentation_takes_each_mosaic_with_its_own_camera(strength):
    raws, index = jnp.repeat(RAWS, 8, 0), jnp.tile(jnp.arange(8), 2)
    keys, numbers = sample_keys(KEY, index), np.repeat([0, 1], 8)
    values = jax.tree.map(lambda leaf: leaf[numbers], VALUES)
    compiled = jax.jit(lambda raws, values: retake(raws, keys, NEAR, strength, values))
    taken = compiled(raws, values)
    alone = [retake(raws, keys, camera, strength) for camera in (NEAR, FAR)]
    np.testing.assert_allclose(taken[:8], alone[0][:8], atol=1e-5)
    np.testing.assert_allclose(taken[8:], alone[1][8:], atol=1e-5)
    assert abs(alone[1] - alone[0])[8:].max() > 0.01
    # Another mixture of cameras is not compiled for.
    compiled(raws[::-1], jax.tree.map(lambda leaf: leaf[::-1], values))
    assert compiled._cache_size() == 1


def alone(function, *arguments):
    """Calls a function of mosaics for each camera; returns the mosaic of each camera's own."""
    return np.stack([function(*arguments, camera=camera)[place] for place, camera in enumerate((NEAR, FAR))])


def test_exposures_have_the_noise_and_the_steps_of_their_own_camera():
    expose = jax.jit(renderer.expose, static_argnames="camera")
    taken = expose(RAWS, INDEX, KEY, 0.1, camera=NEAR, cameras=VALUES)
    np.testing.assert_allclose(taken, alone(renderer.expose, RAWS, INDEX, KEY, 0.1), atol=1e-6)
    steps = np.asarray(taken[1], np.float64) * (2 ** noise_of(FAR).bits - 1)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
    assert abs(taken[1] - renderer.expose(RAWS, INDEX, KEY, 0.1, camera=NEAR)[1]).max() > 0.02


@pytest.mark.parametrize("name", ["read_noise", "defocus", "lamp_color", "dead_sites"])
def test_drift_of_the_sensor_is_that_of_each_camera(name):
    drift = jax.jit(sensor.drifted, static_argnums=0, static_argnames="camera")
    taken = drift(name, 5, RAWS, INDEX, KEY, camera=NEAR, cameras=VALUES)
    np.testing.assert_allclose(taken, alone(sensor.drifted, name, 5, RAWS, INDEX, KEY), atol=1e-5)
    assert abs(taken[1] - sensor.drifted(name, 5, RAWS, INDEX, KEY, camera=NEAR)[1]).max() > 0.005


def test_cameras_that_no_parameter_reaches_are_refused():
    negative = dataclasses.replace(FAR, white_balance=(-1.2, 1, 3))
    with pytest.raises(InputError, match=r"--x: white_balance keeps its sign.* far has \[1.2, 1.0, 3.0\], b \[-1.2, "):
        own_camera.check(isp.parametrized(FAR), {"far": FAR, "b": negative}, "--x")
    parameter = isp.Parameter((2.0, 1.0, 1.5), camera="white_balance")
    stage = isp.Stage("gains", lambda raw, gains: raw * gains.mean(), {"gains": parameter})
    with pytest.raises(InputError, match=r"--x: gains has no natural range, which a run of several cameras \(far, "):
        own_camera.check(isp.Pipeline([stage]), CAMERAS, "--x")
    with pytest.raises(InputError, match="one color filter array: near has RGGB, far GRBG"):
        Cameras(("near", "far"), (NEAR, dataclasses.replace(FAR, pattern="GRBG")), np.array([0, 1]), NEAR)
