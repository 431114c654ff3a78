import pathlib

import numpy as np
import pytest
import tifffile

import isp
from r2l_jax.data import datasets, synthetic
from r2l_jax.errors import InputError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def load_synthetic(data_dir, name="Synthetic", iso=1.0):
    return datasets.load(name, data_dir=data_dir, iso=iso, synthetic_images=10, synthetic_size=32)


@pytest.fixture
def folder(tmp_path):
    """Three files of two classes, of three sizes; each site holds its own row and column."""
    for path, shape in {"a/one.tiff": (40, 52), "a/two.tif": (44, 36), "b/three.tiff": (64, 48)}.items():
        rows, cols = np.mgrid[: shape[0], : shape[1]]
        (tmp_path / path).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / path, (256 * rows + cols).astype(np.uint16))
    (tmp_path / "a/notes.txt").write_text("no raw file")
    return tmp_path


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


def test_iso_chooses_the_intensity_of_the_same_scene(data_dir):
    full, dim = (load_synthetic(data_dir, iso=iso) for iso in (1.0, 0.1))
    black = np.mean(full.camera.black_level)
    for index in range(3):
        assert dim[index][0].mean() - black == pytest.approx(0.1 * (full[index][0].mean() - black), rel=0.05)


def test_segmentation_has_masks_for_targets(data_dir):
    dataset = load_synthetic(data_dir, "SyntheticSegmentation")
    raw, mask = dataset[0]
    assert dataset.task == "segmentation"
    assert mask.shape == raw.shape
    assert set(np.unique(mask)) == {0, 1}


def test_folder_is_brought_to_the_smallest_file_on_the_bayer_grid(folder):
    dataset = datasets.load("Folder", data_dir=folder, camera="drone")
    assert dataset.classes == ("a", "b")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.camera == isp.CAMERAS["drone"]
    for index in range(3):
        raw, _ = dataset[index]
        assert raw.shape == (36, 36)
        top, left = divmod(round(float(raw[0, 0]) * 65535), 256)
        assert (top % 2, left % 2) == (0, 0)


def test_tile_size_is_the_middle_of_each_file(folder):
    raw, _ = datasets.load("Folder", data_dir=folder, camera="drone", tile_size=32)[0]
    np.testing.assert_array_equal(np.round(raw * 65535), [[256 * r + c for c in range(10, 42)] for r in range(4, 36)])


def test_auto_takes_the_median_of_the_files_figures(tmp_path, write_dng):
    samples = RNG.integers(0, 4096, (32, 32)).astype(np.uint16)
    for number, red in enumerate((0.4, 0.5, 0.8)):
        target = tmp_path / "ab"[number % 2] / f"{number}.dng"
        target.parent.mkdir(exist_ok=True)
        write_dng(samples, neutral=(red, 1.0, 0.7)).rename(target)
    camera = datasets.load("Folder", data_dir=tmp_path, camera="auto").camera
    np.testing.assert_allclose(camera.white_balance, (1 / 0.5, 1, 1 / 0.7), rtol=1e-3)


def test_auto_refuses_files_of_several_patterns(tmp_path, write_dng):
    samples = RNG.integers(0, 4096, (32, 32)).astype(np.uint16)
    for name, cfa in (("a", (0, 1, 1, 2)), ("b", (2, 1, 1, 0))):
        (tmp_path / name).mkdir()
        write_dng(samples, cfa=cfa).rename(tmp_path / name / "x.dng")
    with pytest.raises(InputError, match=r"all files must have one Bayer pattern: .*a/x.dng has RGGB, .*b/x.dng BGGR"):
        datasets.load("Folder", data_dir=tmp_path, camera="auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Microscope"}, "--dataset must be one of Synthetic, .*, Folder, Microscopy, .*, got 'Microscope'"),
        ({"download": True}, "--download is for Microscopy, .*, not for --dataset=Synthetic"),
        ({"iso": 0.3}, "--iso must be one of the measured intensities 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, got 0.3"),
        ({"camera": "drone"}, "--camera is for --dataset=Folder; Synthetic has its own"),
        ({"synthetic_size": 33}, "synthetic data set: size must be even and at least 32, got 33"),
        ({"name": "Folder", "camera": "drone"}, "--dataset=Folder needs --data_dir, .* got None"),
        ({"name": "Folder", "data_dir": "{folder}"}, "--dataset=Folder needs --camera: drone, microscopy, auto or a"),
        ({"name": "Folder", "data_dir": "{folder}", "camera": "x"}, "--camera must be drone, .* JSON file, got 'x'"),
        ({"name": "Folder", "data_dir": "{folder}", "camera": "drone", "iso": 0.1}, "--iso=0.1: a Folder holds one"),
        (
            {"name": "Folder", "data_dir": "{folder}", "camera": "drone", "tile_size": 33},
            "--tile_size must be positive",
        ),
        (
            {"name": "Folder", "data_dir": "{folder}", "camera": "drone", "tile_size": 42},
            "one.tiff is 40x52, smaller than --tile_size=42",
        ),
        ({"name": "Folder", "data_dir": "{folder}/a", "camera": "drone"}, "found 0 raw files in 0 sub-folders"),
        ({"name": "Folder", "data_dir": "{folder}", "camera": "auto"}, "a camera must be given"),
        (
            {"name": "Folder", "data_dir": "{folder}", "camera": "drone", "synthetic_size": 64},
            "--synthetic_size is for",
        ),
    ],
)
def test_refuses(arguments, message, folder):
    arguments = {key: v.format(folder=folder) if isinstance(v, str) else v for key, v in arguments.items()}
    with pytest.raises(InputError, match=message):
        datasets.load(**{"name": "Synthetic", **arguments})


def test_camera_from_json(tmp_path):
    path = tmp_path / "camera.json"
    path.write_text(synthetic.CAMERA.to_json())
    assert datasets.find_camera(str(path)) == synthetic.CAMERA
    path.write_text("{}")
    with pytest.raises(InputError, match=r"--camera=.*camera.json: the camera lacks"):
        datasets.find_camera(str(path))


def test_center_crop_keeps_the_cfa_s_phase():
    raw = np.arange(10 * 14).reshape(10, 14)
    assert datasets.center_crop(raw, 4, 8)[0, 0] == raw[2, 2]
    np.testing.assert_array_equal(datasets.center_crop(raw, 10, 14), raw)


def test_measured_reads_names_with_their_files(data_dir):
    dataset = load_synthetic(data_dir)
    root = synthetic.generate(data_dir, images=10, size=32)
    lines = sorted(pathlib.Path(root, "labels", "labels.dat").read_text().splitlines())
    assert [dataset.classes[label] for label in dataset.labels] == [line.split()[1] for line in lines]
