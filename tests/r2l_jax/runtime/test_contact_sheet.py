import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.runtime.contact_sheet import contact_sheet, quantized


def test_a_contact_sheet_has_the_given_number_of_columns():
    images = {
        "mosaic": np.full((20, 30), 0.2),
        "b": np.full((20, 30, 3), 0.4),
        "c": np.full((20, 30, 3), (2.0, 0.6, -0.5)),
    }
    images["d"] = np.full((20, 30, 3), 0.8)
    three, four = (contact_sheet(images, columns) for columns in (3, 4))
    assert three.size == (3 * (480 + 8) + 8, 2 * (320 + 28) + 8)
    colors = [(51, 51, 51), (102, 102, 102), (255, 153, 0), (204, 204, 204)]
    assert [four.getpixel((250 + 488 * column, 200)) for column in range(4)] == colors
    assert [three.getpixel((250 + 488 * column, 200)) for column in range(3)] == colors[:3]
    assert three.getpixel((250, 200 + 348)) == colors[3]


def test_long_names_stay_above_their_own_images():
    shape = (40, 10)
    names = ["tested: bilinear.unsharp_masking.median_denoising, 0.402", "x" * 90, "one two", "of a run " * 9, "a", "b"]
    sheet = np.asarray(contact_sheet(dict.fromkeys(names, np.full(shape, 0.5)), 2, 240).convert("L"))
    height, width = 240 * np.array(shape) // max(shape)
    of_images = sheet[:, 8] == 128
    assert of_images.sum() == 3 * height
    for left in (8, 16 + width):
        assert (sheet[of_images, left : left + width] == 128).all()
    # The edges of letters may take a pixel of a gap.
    for gap in (0, 8 + width, 16 + 2 * width):
        assert (sheet[:, gap + 2 : gap + 6] == 255).all()


@pytest.mark.parametrize(("shape", "dtype"), [((300, 400, 3), np.uint8), ((2, 70_000), np.uint16)])
def test_integers_are_the_nearest_of_the_whole_range(shape, dtype):
    image = np.random.default_rng(0).uniform(-0.2, 1.2, shape).astype(np.float32)
    most = np.iinfo(dtype).max
    expected = np.rint(np.clip(image, 0, 1) * np.float32(most)).astype(dtype)
    picture = quantized(image, dtype)
    assert picture.dtype == dtype
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(quantized(jnp.asarray(image), dtype), expected)
