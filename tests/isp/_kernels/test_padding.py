import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp._kernels import padding

NUMPY_MODES = {"zero": "constant", "mirror": "reflect", "symmetric": "symmetric"}


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
