import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.synthesis.picture_sets import encoded, file_names


def dataset(names, task="classification", labels=None):
    labels = np.zeros(len(names), np.int32) if labels is None else np.array(labels, np.int32)
    classes = ("object",) if task == "segmentation" else ("a", "b")
    return RawDataset("Folder", task, classes, None, names, labels, lambda index: None)


def test_files_are_called_as_their_samples_in_the_folder_of_their_class_and_masks_are_beside_images():
    names = ("a/IMG 1.dng", "b/IMG 1.dng", "zone1.5_x2")
    expected = [("a/IMG_1.png",), ("b/IMG_1.png",), ("b/zone1.5_x2.png",)]
    assert file_names(dataset(names, labels=[0, 1, 1]), "png") == expected
    assert file_names(dataset(("x.dng",), "segmentation"), "tiff") == [("images/x.tiff", "masks/x.png")]


def test_no_two_files_are_called_the_same():
    # Some file systems do not tell large from small letters, and hidden files would be overlooked.
    names = ("x.dng", "X.nef", "deep/x.tiff", ".dng", "x_1")
    (*files,) = [name for (name,) in file_names(dataset(names), "tiff")]
    assert files == ["a/x.tiff", "a/X_1.tiff", "a/x_2.tiff", "a/dng.tiff", "a/x_1_4.tiff"]
    assert len({name.casefold() for name in files}) == len(names)


@pytest.mark.parametrize(("file_format", "dtype"), [("tiff", np.uint16), ("png", np.uint8)])
def test_other_programs_read_the_same_values(file_format, dtype):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (6, 10, 3), dtype, endpoint=True)
    file = io.BytesIO(encoded(values, file_format))
    read = tifffile.imread(file) if file_format == "tiff" else np.asarray(Image.open(file))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)
