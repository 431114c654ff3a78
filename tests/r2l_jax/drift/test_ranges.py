import math

import jax
import numpy as np
import pytest

import isp
from r2l_jax.drift.ranges import moved, offset_limits, offsets_of, valid_offsets

PIPELINES = {
    **{name: isp.parametrized(camera, additive_layer=(4, 4)) for name, camera in isp.CAMERAS.items()},
    "static": isp.static(isp.CAMERAS["drone"], "bilinear", "unsharp_masking", "tv_chambolle"),
}


@pytest.fixture(params=PIPELINES)
def default(request):
    return PIPELINES[request.param].parameters()


def test_offsets_are_what_values_moved(default):
    keys = jax.random.split(jax.random.key(0), len(default))
    offsets = {
        name: 0.3 * jax.random.normal(key, np.shape(value))
        for key, (name, value) in zip(keys, default.items(), strict=True)
    }
    for name, offset in offsets_of(default, moved(default, offsets)).items():
        np.testing.assert_allclose(offset, offsets[name], atol=1e-5)


def test_a_hundredth_of_a_range(default):
    values = moved(default, {name: 0.01 * np.ones(np.shape(value)) for name, value in default.items()})
    np.testing.assert_allclose(values["black_level"], default["black_level"] + 0.001, rtol=1e-5)
    np.testing.assert_allclose(values["colour_correction"], default["colour_correction"] + 0.01, rtol=1e-5)
    for name in ("white_balance", "gamma_correct"):
        np.testing.assert_allclose(values[name], default[name] * math.exp(0.01), rtol=1e-5)


@pytest.mark.parametrize("far", [-1e6, 1e6])
def test_the_nearest_valid_values(default, far):
    offsets = valid_offsets(default, {name: np.full(np.shape(value), far) for name, value in default.items()})
    values = moved(default, offsets)
    np.testing.assert_allclose(values["black_level"], 0.95 if far > 0 else 0, atol=1e-6)
    for name in ("white_balance", "gamma_correct"):
        np.testing.assert_allclose(values[name] / default[name], 100 if far > 0 else 1 / 100, rtol=1e-5)


def test_the_default_is_valid(default):
    learnt = {**default, "black_level": default["black_level"] - 1}  # as training may leave it
    for values in (default, learnt):
        for name, value in values.items():
            low, high = offset_limits(name, value)
            assert (np.asarray(low) <= 0).all()
            assert (np.asarray(high) >= 0).all()
