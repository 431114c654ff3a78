import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp._kernels import padding, xla

NUMPY_MODES = {"zero": "constant", "mirror": "reflect", "symmetric": "symmetric"}

# Planes whose rows are whole blocks, half blocks, and no blocks; one row or column; and margins larger than the plane.
SHAPES = [((2, 16, 24), 2, 2), ((2, 9, 12), 1, 3), ((3, 7, 9), 2, 1), ((1, 16), 1, 1), ((2, 3, 4), 5, 6)]


def with_numpy(plane, rows, cols, border):
    margins = [(0, 0)] * (plane.ndim - 2) + [(rows, rows), (cols, cols)]
    return np.pad(plane, margins, NUMPY_MODES[border])


@pytest.mark.parametrize("border", NUMPY_MODES)
@pytest.mark.parametrize(("shape", "rows", "cols"), SHAPES)
def test_padding_is_that_of_numpy_and_unpadding_its_transpose(border, shape, rows, cols):
    plane = np.random.default_rng(0).random(shape, np.float32)
    for values in (plane, plane > 0.5) if shape == (2, 16, 24) else (plane,):
        found = padding.pad(jnp.array(values), rows, cols, border).plane
        np.testing.assert_array_equal(found, with_numpy(values, rows, cols, border))
    padded = np.random.default_rng(1).random((*shape[:-2], shape[-2] + 2 * rows, shape[-1] + 2 * cols), np.float32)
    mode = NUMPY_MODES[border]
    margins = [(0, 0)] * (len(shape) - 2) + [(rows, rows), (cols, cols)]
    (expected,) = jax.jit(jax.linear_transpose(lambda plane: jnp.pad(plane, margins, mode), plane))(padded)
    np.testing.assert_array_equal(padding.unpad(jnp.array(padded), rows, cols, border), expected)


@pytest.mark.parametrize("border", NUMPY_MODES)
def test_padding_may_be_batched_and_be_plain(border):
    planes = np.random.default_rng(2).random((2, 3, 8, 16), np.float32)
    expected = with_numpy(planes, 2, 1, border)
    batched = jax.vmap(lambda plane: padding.pad(plane, 2, 1, border))(jnp.array(planes))
    np.testing.assert_array_equal(batched.plane, expected)
    with xla.plain():
        np.testing.assert_array_equal(padding.pad(jnp.array(planes), 2, 1, border).plane, expected)


@pytest.mark.cpu
@pytest.mark.parametrize("border", NUMPY_MODES)
def test_padding_and_unpadding_copy_a_plane_once(border):
    """Another copy would take as long as a small stencil."""
    plane = jnp.zeros((2, 64, 128))
    for function in (
        lambda plane: padding.pad(plane, 2, 2, border).wide,
        lambda plane: padding.unpad(plane, 2, 2, border),
    ):
        compiled = jax.jit(function).lower(plane).compile()
        assert "copy(" not in compiled.as_text()
        assert compiled.memory_analysis().temp_size_in_bytes < plane.nbytes / 2


def test_windows_are_in_reading_order():
    plane = np.arange(6 * 8, dtype=np.float32).reshape(6, 8)
    padded = with_numpy(plane, 1, 1, "mirror")
    found = padding.windows(padding.pad(jnp.array(plane), 1, 1, "mirror"), 3)
    assert [float(window[2, 3]) for window in found] == padded[2:5, 3:6].ravel().tolist()
