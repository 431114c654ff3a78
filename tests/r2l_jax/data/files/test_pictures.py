import numpy as np
import pytest
import tifffile
from PIL import Image

from r2l_jax.data.files.pictures import read_mask
from r2l_jax.runtime.errors import InputError


@pytest.mark.parametrize(
    ("mode", "background", "object_"),
    [
        ("L", 0, 1),
        ("1", 0, 1),
        ("LA", (0, 255), (9, 255)),
        ("RGB", (0, 0, 0), (0, 3, 0)),
        ("RGBA", (0, 0, 0, 255), (0, 0, 1, 255)),
        ("I;16", 0, 256),
    ],
)
def test_a_mask_is_one_where_any_color_channel_is_above_zero(tmp_path, mode, background, object_):
    picture = Image.new(mode, (4, 2), background)
    picture.putpixel((3, 1), object_)
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), [[0, 0, 0, 0], [0, 0, 0, 1]])


def test_a_file_that_is_not_a_mask_is_named(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"mask.png: truncated, corrupt or no PNG"):
        read_mask(tmp_path / "mask.png")
    tifffile.imwrite(tmp_path / "mask.tif", np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match=r"must be a picture of at most four channels, got shape \(6, 4, 5\)"):
        read_mask(tmp_path / "mask.tif")
