"""What a reference would show under drifts is what the same scenes show through a camera that has drifted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smears

from r2l_jax.drift.watch import diagnosis, response
from r2l_jax.drift.watch.moments import measured, noise_curve
from r2l_jax.drift.watch.response import DRIFTS, observed, predicted, reference_of

SCENES = 24


@pytest.fixture(scope="module")
def scenes():
    random = np.random.default_rng(0)
    return np.stack([smears.scene(random, place % len(smears.CLASSES)) for place in range(SCENES)])


def seen(mosaics):
    moments, curve = measured(mosaics, smears.CAMERA.pattern), noise_curve(mosaics, smears.CAMERA.pattern)
    return moments, curve, observed(mosaics, moments, curve)


@pytest.fixture(scope="module")
def reference(scenes):
    mosaics = smears.taken(scenes, np.random.default_rng(1))
    moments, curve, known = seen(mosaics)
    everyone = np.ones((SCENES, 1), np.float32)
    return reference_of(jnp.asarray(mosaics), moments, curve, everyone, smears.CAMERA), known


@pytest.mark.parametrize(
    ("drift", "theta", "tolerance"),
    [
        pytest.param({"exposure": -0.7}, {"exposure": -0.7}, 1e-3, marks=pytest.mark.slow),
        ({"exposure": -0.5, "black_level": 60.0}, {"exposure": -0.5, "black_level": 60.0}, 1e-3),
        ({"red": 0.3, "blue": -0.3}, {"white_balance.red": 0.3, "white_balance.blue": -0.3}, 1e-3),
        # The mean of a block is bent and cut off as its sites are.
        ({"gamma": 0.8}, {"gamma": np.log2(0.8)}, 1.6e-3),
        pytest.param({"gamma": 1.3}, {"gamma": np.log2(1.3)}, 1.6e-3, marks=pytest.mark.slow),
        pytest.param({"exposure": 0.8}, {"exposure": 0.8}, 3e-3, marks=pytest.mark.slow),
        ({"saturation": 0.5}, {"saturation": 0.5}, 6e-3),
    ],
    ids=str,
)
def test_levels_follow_a_drift_site_by_site(scenes, reference, drift, theta, tolerance):
    reference, known = reference
    new = smears.taken(scenes, np.random.default_rng(2), **drift)
    _, curve, after = seen(new)
    numbers = jnp.array([theta.get(name, each.neutral) for name, each in DRIFTS.items()], jnp.float32)
    values = predicted(numbers, jnp.zeros(1), reference, jnp.asarray(curve.level, jnp.float32), jnp.float32(new.max()))
    levels = np.array(known.kinds) == "level"
    moved = after.values[levels] - known.values[levels]
    assert abs(moved).max() > 0.02
    assert abs(np.asarray(values)[levels] - after.values[levels]).max() < tolerance


def test_quantiles_and_their_derivatives_are_those_of_the_levels():
    blocks, change = jax.random.normal(jax.random.key(0), (2, 4, 3, 5, 7))
    quantiles, moved = jax.jvp(response._quantiles, (blocks,), (change,))
    flat, flat_change = (np.asarray(each, np.float64).reshape(4, 3, -1) for each in (blocks, change))
    expected = np.quantile(flat, response._PROBABILITIES, axis=-1)
    np.testing.assert_allclose(quantiles, np.moveaxis(expected, 0, -1), atol=1e-5)
    step = 1e-6
    further = np.quantile(flat + step * flat_change, response._PROBABILITIES, axis=-1)
    np.testing.assert_allclose(moved, np.moveaxis(further - expected, 0, -1) / step, atol=1e-4)


def curve_of(light, white=1.0):
    """Measures the noise of mosaics of some light, whose variance is a thousandth of it."""
    electrons = np.random.default_rng(0).poisson(light * 1000)
    return noise_curve(np.minimum(electrons / 1000, white).astype(np.float32), "RGGB")


def test_noise_is_measured_where_sites_do_not_pile_up():
    levels = np.linspace(0.1, 0.6, 40)[:, None, None]
    curve = curve_of(np.broadcast_to(levels, (40, 64, 64)), 0.5)
    assert curve.level.max() < 0.47
    np.testing.assert_allclose(curve.variance, curve.level / 1000, rtol=0.05)


def test_texture_that_rows_have_in_common_is_not_noise():
    random = np.random.default_rng(1)
    # All rows of a mosaic show the same texture, whose variance is half of that of the noise.
    light = 0.3 + 0.012 * random.normal(size=(64, 1, 64)).repeat(64, 1)
    curve = curve_of(light)
    # Quiet patches are also those in which noise happens to cancel the texture, which hides a part of it.
    np.testing.assert_allclose(curve.variance, curve.level / 1000, rtol=0.15)
    assert (curve.variance * (1 + curve.structure) > 1.2 * curve.level / 1000).all()


@pytest.mark.parametrize(("clear", "is_known"), [(40, True), (3, False), (0, False)])
def test_noise_that_saturates_nearly_everywhere_tells_something_only_in_several_mosaics(clear, is_known):
    mosaics = np.random.default_rng(0).integers(0, 2, (40, 32, 32)).astype(np.float32)
    mosaics[:clear, :16, :16] = np.random.default_rng(1).normal(0.5, 0.02, (clear, 16, 16))
    curve = noise_curve(mosaics, "RGGB")
    for values in curve:
        assert np.isfinite(values).all()
    if is_known:
        np.testing.assert_allclose(curve.variance, 0.02**2, rtol=0.2)
        assert (curve.influence.std(0) > 0.1).all()
    else:
        assert curve.structure.min() >= 1


def test_slopes_are_those_of_the_statistics(scenes, reference):
    mosaics = smears.taken(scenes, np.random.default_rng(3), exposure=-0.3)
    labels = np.arange(SCENES) % len(smears.CLASSES)
    comparison = diagnosis._compared(smears.taken(scenes, np.random.default_rng(1)), labels, mosaics, smears.CAMERA)
    theta, logits = np.array([each.neutral for each in DRIFTS.values()], float), np.zeros(len(smears.CLASSES))
    columns = comparison.columns(("vignetting", "black_level", "scene"))
    _, slopes = comparison._slopes(theta, logits, columns)
    assert slopes.shape == (len(comparison.new.values), 6)
    for column, slope in zip(columns, slopes.T, strict=True):
        step = np.zeros(len(theta) + len(logits))
        step[column] = 4.0 if column == 3 else 0.02
        ends = [comparison._predict(theta + way[: len(theta)], logits + way[len(theta) :]) for way in (step, -step)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step[column]), rel=0.05, abs=0.02 * abs(slope).max())


def test_a_fit_reaches_a_drift_of_many_times_its_usual_change(scenes):
    random, labels = np.random.default_rng(4), np.arange(SCENES) % len(smears.CLASSES)
    comparison = diagnosis._compared(
        smears.taken(scenes, random), labels, smears.taken(scenes, random, row_noise=120.0), smears.CAMERA
    )
    theta = comparison.fit(("row_noise",)).theta[list(DRIFTS).index("row_noise")]
    assert theta > 50 * DRIFTS["row_noise"].width
    assert response.amount("row_noise", theta, smears.CAMERA) == pytest.approx(120, rel=0.1)
