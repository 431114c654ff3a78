import numpy as np
import pytest
import tifffile

from r2l_jax.data.files.shot import Shot, _from_tags, read_shot

SAMPLES = np.zeros((16, 16), np.uint16)


def test_a_dng_tells_its_camera_and_exposure(write_dng):
    tags = [
        (306, "s", 0, "2024:05:06 07:08:09"),
        (33434, "2I", 1, (1, 50)),
        (33437, "2I", 1, (28, 10)),
        (34855, "H", 1, 800),
        (42036, "s", 0, "50mm F2.8"),
    ]
    assert read_shot(write_dng(SAMPLES, camera=("Maker", "Model"), tags=tags)) == Shot(
        maker="Maker",
        model="Model",
        lens="50mm F2.8",
        iso_speed=800.0,
        exposure_time=0.02,
        f_number=2.8,
        date="2024-05-06T07:08:09",
    )


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0" + b"\xff" * 100, b"noise" * 100])
@pytest.mark.parametrize("name", ["a.dng", "a.tiff", "a.raw"])
def test_what_cannot_be_read_is_unknown(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_shot(tmp_path / name) == Shot()


def test_words_of_strangers_are_short_and_printable(tmp_path):
    extratags = [(272, "s", 0, "a\x1b[31m" + "b" * 500), (33434, "2I", 1, (1, 0))]
    tifffile.imwrite(tmp_path / "a.tiff", SAMPLES, extratags=extratags, metadata=None)
    shot = read_shot(tmp_path / "a.tiff")
    assert shot.model.startswith("a[31mbbb")
    assert len(shot.model) == 100
    assert shot.exposure_time is None


def test_the_time_of_the_exposure_counts_rather_than_that_of_the_file():
    taken, changed = "2024:05:06 07:08:09", "2025:01:02 03:04:05"
    assert _from_tags({"DateTimeOriginal": taken, "DateTime": changed})["date"] == "2024-05-06T07:08:09"
    assert _from_tags({"DateTimeOriginal": "0000:00:00 00:00:00", "DateTime": changed})["date"] == "2025-01-02T03:04:05"
