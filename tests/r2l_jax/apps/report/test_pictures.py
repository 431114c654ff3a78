import numpy as np
from PIL import Image

from r2l_jax.apps.report.pictures import without_paper
from r2l_jax.runtime.contact_sheet import contact_sheet


def test_paper_is_transparent_text_gray_and_images_stay():
    rng = np.random.default_rng(0)
    images = {f"{number} name": rng.uniform(0, 0.9, (30, 40, 3)) for number in range(4)}
    sheet = contact_sheet(images, columns=2, panel=160)
    found = np.asarray(without_paper(sheet))
    pixels = np.asarray(sheet)
    is_ink = (found[..., :3] == 117).all(-1)
    is_image = (found[..., 3] == 255) & ~is_ink
    # Four images of 160 x 120 pixels, in two rows below their names.
    assert is_image.sum() == 4 * 160 * 120
    np.testing.assert_array_equal(found[is_image][:, :3], pixels[is_image])
    is_text = (found[..., 3] > 0) & ~is_image
    assert is_text.any()
    assert is_ink[is_text].all()
    assert (found[0, :, 3] == 0).all()


def test_colored_text_keeps_its_hue_and_pictures_without_paper_stay():
    pixels = np.full((100, 50, 3), 255, np.uint8)
    pixels[4:12, 10:20] = (0, 128, 0)
    pixels[20:96, 4:46] = 90
    found = np.asarray(without_paper(Image.fromarray(pixels)))
    # Its contrast to white and to the darkest page is at least 4.
    red, green, blue, alpha = found[5, 15]
    assert alpha == 255
    assert max(red, blue) < 10
    luminance = 0.7152 * (green / 255) ** 2.2
    assert 1.05 / (luminance + 0.05) > 4
    assert (luminance + 0.05) / (0.008 + 0.05) > 3.9
    assert found[14, 15, 3] == 0
    assert (found[30, 20] == (90, 90, 90, 255)).all()
    full = np.random.default_rng(0).integers(0, 200, (60, 50, 3), np.uint8)
    found = np.asarray(without_paper(Image.fromarray(full)))
    np.testing.assert_array_equal(found[..., :3], full)
    assert (found[..., 3] == 255).all()
    assert (np.asarray(without_paper(Image.new("RGB", (8, 8), "white")))[..., 3] == 0).all()
