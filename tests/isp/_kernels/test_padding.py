import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp._kernels import padding

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


@pytest.mark.cpu
@pytest.mark.parametrize("border", NUMPY_MODES)
def test_padding_copies_a_plane_once(border):
    """Another copy would take as long as a small stencil."""
    plane = jnp.zeros((2, 64, 128))
    compiled = jax.jit(lambda plane: padding.pad(plane, 2, 2, border).wide).lower(plane).compile()
    assert "copy(" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < plane.nbytes / 2
