import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from isp._kernels import xla
from isp._kernels.xla import is_plain

CAMERA = isp.CAMERAS["drone"]
XTRANS = dataclasses.replace(
    CAMERA, pattern="GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG", black_level=CAMERA.black_level[:3]
)


def raw():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.random((2, 6, 9)), np.ones((4, 4)))
    return (0.15 + 0.6 * blocks + 0.02 * rng.standard_normal(blocks.shape)).clip(0, 1).astype(np.float32)


# Exports of every algorithm are tested in tests/r2l_jax/apps/export.
PIPELINES = {"x-trans": isp.parametrized(XTRANS), "full": isp.full(CAMERA)}


def linear(rgb):
    """Undoes the tone curve, which is steep near black."""
    return np.asarray(rgb) ** 2.2


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "x-trans")) for name in PIPELINES]
)
def test_the_plain_formulation_computes_the_same_numbers_for_any_number_of_images(name):
    pipeline, shape = PIPELINES[name], jax.export.symbolic_shape("B, 24, 36")
    fast = pipeline(raw())
    with xla.plain():
        exported = jax.export.export(jax.jit(lambda raw: pipeline(raw)))(jax.ShapeDtypeStruct(shape, jnp.float32))
        plain = pipeline(raw())
    np.testing.assert_allclose(linear(plain), linear(fast), atol=2e-5)
    np.testing.assert_allclose(linear(exported.call(raw())), linear(fast), atol=2e-5)
    np.testing.assert_allclose(linear(exported.call(raw()[:1])), linear(fast[:1]), atol=2e-5)


def test_a_compiled_function_keeps_its_formulation():
    traced = []
    function = jax.jit(lambda x: traced.append(is_plain()) or x)
    for _ in range(2):
        function(1.0)
        with xla.plain():
            function(1.0)
    assert traced == [False, True]
    assert not is_plain()
