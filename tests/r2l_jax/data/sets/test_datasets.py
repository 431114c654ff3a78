import numpy as np
import pytest

from r2l_jax.data.sets import datasets, synthetic
from r2l_jax.runtime.errors import InputError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def load_synthetic(data_dir, name="Synthetic", iso=1.0):
    return datasets.load(name, data_dir=data_dir, iso=iso, synthetic_images=10, synthetic_size=32)


def test_synthetic_classes_labels_and_values(data_dir):
    dataset = load_synthetic(data_dir)
    assert dataset.task == "classification"
    assert len(dataset) == 10
    np.testing.assert_array_equal(np.bincount(dataset.labels), 10 // len(dataset.classes))
    raw, target = dataset[3]
    assert (raw.shape, raw.dtype) == ((32, 32), np.float32)
    assert 0 <= raw.min() < raw.max() <= 1
    assert target == dataset.labels[3]
    assert dataset.camera == synthetic.CAMERA
    root = synthetic.generate(data_dir, images=10, size=32)
    lines = sorted((root / "labels" / "labels.dat").read_text().splitlines())
    assert [dataset.classes[label] for label in dataset.labels] == [line.split()[1] for line in lines]


def test_iso_chooses_the_intensity_of_the_same_scene(data_dir):
    full, dim = (load_synthetic(data_dir, iso=iso) for iso in (1.0, 0.1))
    black = np.mean(full.camera.black_level)
    for index in range(3):
        assert dim[index][0].mean() - black == pytest.approx(0.1 * (full[index][0].mean() - black), rel=0.05)


def test_segmentation_has_masks_as_targets(data_dir):
    dataset = load_synthetic(data_dir, "SyntheticSegmentation")
    raw, mask = dataset[0]
    assert dataset.task == "segmentation"
    assert mask.shape == raw.shape
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Microscope"}, "--dataset must be one of Synthetic, .*, Folder, Microscopy, .*, got 'Microscope'"),
        ({"download": True}, "--download is for Microscopy, .*, not for --dataset=Synthetic"),
        ({"iso": 0.3}, "--iso must be one of the measured intensities 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, got 0.3"),
        ({"camera": "drone"}, "--camera is for --dataset=Folder; Synthetic has its own"),
        ({"synthetic_size": 33}, "synthetic data set: size must be even and at least 32, got 33"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        datasets.load(**{"name": "Synthetic", **arguments})
