import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import isp
from r2l_jax.model.adaptive import AdaptivePipeline, statistics

CAMERA = dataclasses.replace(isp.CAMERAS["drone"], black_level=(0.05, 0.05, 0.05, 0.05))
BLACK = 0.05
SCENE = np.random.default_rng(0).uniform(0.1, 0.6, (3, 64, 96)).astype(np.float32)


def adaptive(make=isp.parametrized, moved=False):
    pipeline = AdaptivePipeline(make(CAMERA), CAMERA, nnx.Rngs(0))
    if moved:
        kernel = pipeline.network.layers[2].kernel
        kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape) / 8
    return pipeline


@pytest.mark.parametrize("make", [isp.parametrized, isp.full])
def test_starts_as_the_pipeline_itself_with_few_weights(make):
    pipeline = adaptive(make)
    for name, values in pipeline.own_values(SCENE).items():
        np.testing.assert_array_equal(values, jnp.broadcast_to(make(CAMERA).parameters()[name], values.shape))
    np.testing.assert_allclose(pipeline(SCENE), make(CAMERA)(SCENE), atol=1e-6)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(pipeline.network))) < 5000


def test_each_image_is_processed_with_its_own_values():
    pipeline = adaptive(moved=True)
    images, stages = pipeline.trace(SCENE)
    np.testing.assert_allclose(pipeline(SCENE), images, atol=1e-5)
    assert tuple(stages) == pipeline.stage_names
    values = pipeline.own_values(SCENE)
    assert np.ptp(values["gamma_correct"]) > 0
    for number, mosaic in enumerate(SCENE):
        own = pipeline.adapted(mosaic)
        assert type(own) is isp.Pipeline
        np.testing.assert_allclose(own.white_balance[...], values["white_balance"][number], rtol=1e-5)
        np.testing.assert_allclose(images[number], own(mosaic), atol=1e-5)
        np.testing.assert_allclose(pipeline(mosaic), images[number], atol=1e-5)
    np.testing.assert_allclose(pipeline(SCENE[None])[0], images, atol=1e-5)


def test_a_filter_becomes_stronger_as_a_whole():
    pipeline = adaptive(moved=True)
    strength = 1 + pipeline.moves(SCENE)["sharpening_filter"][:, 0, 0]
    identity = np.array(pipeline.facts["sharpening_filter"].neutral)
    expected = identity + strength[:, None, None] * (np.asarray(pipeline.sharpening_filter) - identity)
    np.testing.assert_allclose(pipeline.own_values(SCENE)["sharpening_filter"], expected, atol=1e-5)


def test_values_move_with_those_that_all_images_share():
    pipeline = adaptive(moved=True)
    brighter = pipeline.with_values({"white_balance": 1.25 * pipeline.white_balance[...]})
    assert isinstance(brighter, AdaptivePipeline)
    before, after = (each.own_values(SCENE)["white_balance"] for each in (pipeline, brighter))
    np.testing.assert_allclose(after, 1.25 * before, rtol=1e-5)


def test_values_are_valid_however_large_the_network():
    pipeline = adaptive()
    pipeline.network.layers[2].bias[...] = jnp.full_like(pipeline.network.layers[2].bias[...], -1e6)
    values = pipeline.own_values(SCENE)
    np.testing.assert_allclose(
        values["white_balance"], np.exp(-3) * pipeline.white_balance[...] * np.ones((3, 1)), rtol=1e-5
    )
    assert (values["black_level"] >= 0).all()


def test_the_network_learns_from_the_images():
    pipeline = adaptive()
    graph, last, rest = nnx.split(pipeline, nnx.PathContains("network"), ...)
    gradient = jax.grad(lambda last: nnx.merge(graph, last, rest)(SCENE).mean())(last)
    assert np.abs(gradient["network"]["layers"][2]["bias"][...]).min() > 0


def test_a_factor_on_the_light_adds_the_same_to_all_tones():
    dimmed = BLACK + (SCENE - BLACK) / 2
    change = statistics(SCENE, CAMERA.pattern, BLACK) - statistics(dimmed, CAMERA.pattern, BLACK)
    tones = np.array([*range(21), 21, 22, 23])
    np.testing.assert_allclose(change[:, tones], np.log(2) / np.arcsinh(512), atol=6e-3)
    assert np.abs(change[:, 24:] - np.log10([4, 2, 2]).repeat(3) / 6).max() < 1e-3


def test_statistics_do_not_depend_on_the_size():
    # The same gradient of light over mosaics of two sizes, with noise of the same strength at each site.
    noise = np.random.default_rng(1).normal(0, 0.01, (1, 256, 256)).astype(np.float32)

    def scene(side):
        ramp = 0.2 + 0.4 * (np.arange(side, dtype=np.float32) + 0.5) / side
        return np.broadcast_to(ramp, (1, side, side)) + noise[:, :side, :side]

    small, large = (statistics(scene(side), CAMERA.pattern, BLACK) for side in (64, 256))
    np.testing.assert_allclose(small, large, atol=0.02)


def test_statistics_tell_colors_apart():
    red = isp.cfa.mosaic(np.full((1, 64, 64, 3), [0.6, 0.2, 0.2], np.float32), "RGGB")
    means = statistics(red, "RGGB")[0, 21:24]
    assert means[0] > means[1] + 0.1
    np.testing.assert_allclose(means[1], means[2], atol=1e-6)


def test_refuses_a_pipeline_without_tuned_parameters():
    stage = isp.Stage("demosaic", isp.demosaic.bilinear, options={"pattern": CAMERA.pattern})
    with pytest.raises(ValueError, match=r"^no parameter of the pipeline is tuned and has a natural range"):
        AdaptivePipeline(isp.Pipeline([stage]), CAMERA, nnx.Rngs(0))


def test_refuses_a_parameter_with_the_name_of_its_own():
    stages = [
        isp.Stage("demosaic", isp.demosaic.bilinear, options={"pattern": CAMERA.pattern}),
        isp.Stage("scaled", jnp.multiply, {"network": isp.Parameter(1.0, scale="log")}),
    ]
    with pytest.raises(ValueError, match=r"^a parameter of an adaptive pipeline cannot be called 'network'"):
        AdaptivePipeline(isp.Pipeline(stages), CAMERA, nnx.Rngs(0))


def test_quantiles_are_those_of_the_tones():
    rgb = isp.demosaic.binned(SCENE[:1], CAMERA.pattern)[0]
    shares = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
    expected = np.arcsinh(512 * np.quantile(rgb.reshape(-1, 3), shares, axis=0)) / np.arcsinh(512)
    found = statistics(SCENE[:1], CAMERA.pattern)[0, :21].reshape(3, 7).T
    np.testing.assert_allclose(found[2:5], expected[2:5], atol=0.012)
    # At the steep ends of this distribution, interpolation is only as good as the distance of its levels.
    np.testing.assert_allclose(found, expected, atol=0.05)
