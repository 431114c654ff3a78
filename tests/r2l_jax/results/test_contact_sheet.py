import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.results.contact_sheet import contact_sheet, quantized


def test_a_contact_sheet_has_the_given_number_of_columns():
    images = {
        "mosaic": np.full((20, 30), 0.2),
        "b": np.full((20, 30, 3), 0.4),
        "c": np.full((20, 30, 3), (2.0, 0.6, -0.5)),
    }
    images["d"] = np.full((20, 30, 3), 0.8)
    three, four = (contact_sheet(images, columns) for columns in (3, 4))
    assert three.size == (3 * (480 + 8) + 8, 2 * (320 + 36) + 8)
    colors = [(51, 51, 51), (102, 102, 102), (255, 153, 0), (204, 204, 204)]
    assert [four.getpixel((250 + 488 * column, 200)) for column in range(4)] == colors
    assert [three.getpixel((250 + 488 * column, 200)) for column in range(3)] == colors[:3]
    assert three.getpixel((250, 200 + 356)) == colors[3]


@pytest.mark.parametrize(("shape", "dtype"), [((300, 400, 3), np.uint8), ((2, 70_000), np.uint16)])
def test_integers_are_the_nearest_of_the_whole_range(shape, dtype):
    image = np.random.default_rng(0).uniform(-0.2, 1.2, shape).astype(np.float32)
    most = np.iinfo(dtype).max
    expected = np.rint(np.clip(image, 0, 1) * np.float32(most)).astype(dtype)
    picture = quantized(image, dtype)
    assert picture.dtype == dtype
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(quantized(jnp.asarray(image), dtype), expected)
