import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from scipy import ndimage

from isp._kernels import padding, stencil

SCIPY_MODES = {"zero": "constant", "mirror": "mirror", "symmetric": "reflect"}
NUMPY_MODES = {"zero": "constant", "mirror": "reflect", "symmetric": "symmetric"}
RNG = np.random.default_rng(0)


def correlate_plainly(planes, kernels, border):
    """Computes the formula of the docstring in float64 with SciPy, one site of the period at a time."""
    outputs, _, _, _, row_period, col_period = kernels.shape
    results = np.zeros((outputs, *planes[0].shape))
    for k, y, x in np.ndindex(outputs, row_period, col_period):
        total = sum(
            ndimage.correlate(np.asarray(plane, np.float64), kernel[..., y, x][None], mode=SCIPY_MODES[border])
            for plane, kernel in zip(planes, kernels[k], strict=True)
        )
        results[k, :, y::row_period, x::col_period] = total[:, y::row_period, x::col_period]
    return results


KERNELS = [  # The sides and the periods of kernels, and the borders.
    *(((5, 3), (1, 1), "zero"), ((3, 3), (2, 2), "mirror"), ((1, 5), (1, 2), "symmetric"), ((3, 1), (2, 1), "mirror")),
    *(((5, 3), (1, 1), border) for border in ("mirror", "symmetric")),
    *((sides, (2, 2), border) for sides in ((3, 3), (5, 5)) for border in SCIPY_MODES),
]


@pytest.mark.parametrize("kernel", variants.quick(3, KERNELS))
def test_kernels_repeat_with_the_position_and_gradients_are_those_of_a_bilinear_map(kernel):
    """Checks <df^T g, dx> = <g, df dx>, where df dx is the formula itself for a changed plane or kernel."""
    sides, periods, border = kernel
    with jax.enable_x64(True):
        planes, other = RNG.normal(size=(2, 2, 3, 8, 10))
        kernels, change = RNG.normal(size=(2, 3, 2, *sides, *periods))
        kernels[0, 0, 0, 0] = 0  # A tap that is left out.
        weight = RNG.normal(size=(3, 3, 8, 10))

        @jax.jit
        def learned(planes, kernels, weight):
            results, pullback = jax.vjp(lambda p, k: stencil.correlate_planes(tuple(p), k, border), planes, kernels)
            return results, *pullback(tuple(weight))

        results, planes_gradient, kernels_gradient = learned(planes, kernels, weight)
        constant = jax.jit(lambda planes: stencil.correlate_planes(tuple(planes), kernels, border))(planes)
        expected = correlate_plainly(planes, kernels, border)
        for found in (results, constant):
            np.testing.assert_allclose(found, expected, atol=1e-13)
        for gradient, moved, expected in (
            (planes_gradient, other, correlate_plainly(other, kernels, border)),
            (kernels_gradient, change, correlate_plainly(planes, change, border)),
        ):
            np.testing.assert_allclose((gradient * moved).sum(), (weight * expected).sum(), rtol=1e-10)


@pytest.mark.parametrize("row_period", variants.quick(1, [2, 1]))
def test_gradients_of_kernels_are_the_same_in_parts(row_period, monkeypatch):
    """The last of three parts has four rows less than the others."""
    with jax.enable_x64(True):
        plane, weight = jnp.array(RNG.normal(size=(2, 3, 14, 6)))
        kernels = RNG.normal(size=(1, 1, 3, 3, row_period, 1))

        def gradient(kernels):
            return jax.vjp(lambda k: stencil.correlate_planes((plane,), k, "mirror"), kernels)[1]((weight,))[0]

        whole = jax.jit(gradient).lower(kernels)
        monkeypatch.setattr(stencil, "_ROWS_OF_PART", 4)
        in_parts = jax.jit(lambda kernels: gradient(kernels)).lower(kernels)
        assert in_parts.as_text().count("stablehlo.multiply") > whole.as_text().count("stablehlo.multiply")
        np.testing.assert_allclose(in_parts.compile()(kernels), whole.compile()(kernels), rtol=1e-12)


@pytest.mark.parametrize("border", NUMPY_MODES)
# Rows of whole blocks, half blocks, and no blocks; and margins larger than the plane.
@pytest.mark.parametrize(("height", "width", "margin"), [(16, 24, 2), (9, 12, 3), (7, 9, 2), (3, 4, 6)])
def test_padding_is_that_of_numpy(border, height, width, margin):
    plane = np.random.default_rng(0).random((2, height, width), np.float32)
    expected = np.pad(plane, [(0, 0), (margin, margin), (margin, margin)], NUMPY_MODES[border])
    np.testing.assert_array_equal(padding.pad(jnp.array(plane), margin, margin, border).plane, expected)


@pytest.mark.cpu
@pytest.mark.parametrize("border", NUMPY_MODES)
def test_padding_copies_a_plane_once(border):
    """Another copy would take as long as a small stencil."""
    plane = jnp.zeros((2, 64, 128))
    compiled = jax.jit(lambda plane: padding.pad(plane, 2, 2, border).wide).lower(plane).compile()
    assert "copy(" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < plane.nbytes / 2
