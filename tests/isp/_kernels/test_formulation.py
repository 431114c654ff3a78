import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants

import isp
from isp._kernels import stencil, xla
from isp._kernels.xla import is_plain

CAMERA = isp.CAMERAS["drone"]
XTRANS = dataclasses.replace(
    CAMERA, pattern="GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG", black_level=CAMERA.black_level[:3]
)
SETTINGS = {"nlm_denoising": {"patch_size": 3, "patch_distance": 2}, "tv_chambolle": {"max_iterations": 20}}


def raw():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.random((2, 6, 9)), np.ones((4, 4)))
    return (0.15 + 0.6 * blocks + 0.02 * rng.standard_normal(blocks.shape)).clip(0, 1).astype(np.float32)


def pipelines():
    yield "parametrized", isp.parametrized(CAMERA)
    yield "x-trans", isp.parametrized(XTRANS)
    yield "full", isp.full(CAMERA)
    yield "soft fft", isp.static(CAMERA, denoise="fft_denoising", softness=4.0)
    for step, algorithms in isp.ALGORITHMS.items():
        for name in algorithms:
            yield f"{step}-{name}", isp.static(CAMERA, **{step: name}, **SETTINGS.get(name, {}))


PIPELINES = dict(pipelines())


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


@pytest.mark.parametrize("border", variants.quick(1, ["mirror", "zero", "symmetric"]))
@pytest.mark.parametrize("periods", variants.quick(1, [(2, 2), (1, 1), (2, 1)]))
def test_stencils_are_convolutions_of_the_same_value_and_gradient(border, periods):
    rng = np.random.default_rng(1)
    planes = tuple(rng.standard_normal((2, 2, 6, 8)).astype(np.float32))
    kernels = rng.standard_normal((3, 2, 3, 5, *periods)).astype(np.float32)

    def loss(planes, kernels):
        found = stencil.correlate_planes(planes, kernels, border)
        return sum((weight * plane**2).sum() for weight, plane in enumerate(found, 1))

    fast = jax.jit(jax.value_and_grad(loss, (0, 1)))(planes, kernels)
    with xla.plain():
        plain = jax.jit(jax.value_and_grad(loss, (0, 1)))(planes, kernels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), fast, plain)


def test_a_compiled_function_keeps_its_formulation():
    traced = []
    function = jax.jit(lambda x: traced.append(is_plain()) or x)
    for _ in range(2):
        function(1.0)
        with xla.plain():
            function(1.0)
    assert traced == [False, True]
    assert not is_plain()
