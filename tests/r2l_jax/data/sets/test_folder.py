import json
import os
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.cli.flags import build
from r2l_jax.data.files import file_metadata
from r2l_jax.data.sets import datasets, folder
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.errors import InputError
from r2l_jax.training.plan import splits_of


@pytest.fixture
def classes(tmp_path):
    """Writes three files of two classes and three sizes; each site holds its own row and column."""
    for path, shape in {"a/one.tiff": (40, 52), "a/two.tif": (44, 36), "b/three.tiff": (64, 48)}.items():
        rows, cols = np.mgrid[: shape[0], : shape[1]]
        (tmp_path / path).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / path, (256 * rows + cols).astype(np.uint16))
    (tmp_path / "a/notes.txt").write_text("no raw file")
    return tmp_path


def load(root, camera="drone", **settings):
    return datasets.load("Folder", data_dir=root, camera=camera, **settings)


@pytest.mark.shows("train --camera", "r2l_jax.data.load(camera, data_dir, name)")
def test_files_are_cropped_to_the_smallest_one_on_the_bayer_grid(classes, capsys):
    dataset = load(classes)
    assert (dataset.classes, dataset.labels.tolist()) == (("a", "b"), [0, 0, 1])
    assert dataset.camera == isp.CAMERAS["drone"]
    for index in range(3):
        raw, _ = dataset[index]
        assert raw.shape == (36, 36)
        top, left = divmod(round(float(raw[0, 0]) * 65535), 256)
        assert (top % 2, left % 2) == (0, 0)
    err = capsys.readouterr().err
    assert f"2 of 3 files are cropped to 36x36, because {classes / 'a/two.tif'} is that small" in err
    assert " without the suffix of a raw file, such as " in err


@pytest.mark.shows("train --tile_size", "r2l_jax.data.load(tile_size)")
def test_tile_size_crops_each_file_to_its_middle(classes, capsys):
    raw, _ = load(classes, tile_size=32)[0]
    np.testing.assert_array_equal(np.round(raw * 65535), [[256 * r + c for c in range(10, 42)] for r in range(4, 36)])
    assert "cropped" not in capsys.readouterr().err


def test_the_second_start_opens_only_files_that_have_changed(classes, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_metadata, "_TICK", 0)
    described, describe = [], folder.describe

    def describing(path, *arguments):
        described.append(path.name)
        return describe(path, *arguments)

    monkeypatch.setattr(folder, "describe", describing)
    first = load(classes)
    assert sorted(described) == ["one.tiff", "three.tiff", "two.tif"]
    described.clear()
    second = load(classes)
    assert described == []
    assert second.content == first.content
    np.testing.assert_array_equal(second[2][0], first[2][0])
    described.clear()
    tifffile.imwrite(classes / "b/three.tiff", np.zeros((20, 20), np.uint16))
    third = load(classes)
    assert described == ["three.tiff"]
    assert (third.shape, third.content != first.content) == ((20, 20), True)


def test_a_smaller_file_changes_the_content_of_all_samples_that_are_cropped_to_it(classes):
    def contents():
        return [load(classes, tile_size=side).content_of(range(3)) for side in (None, 20)]

    before = contents()
    tifffile.imwrite(classes / "b/tiny.tiff", np.zeros((64, 48), np.uint16))
    assert contents() == before
    tifffile.imwrite(classes / "b/tiny.tiff", np.zeros((20, 34), np.uint16))
    assert [one == other for one, other in zip(contents(), before, strict=True)] == [False, True]


@pytest.fixture
def frames(tmp_path):
    """Writes two frames of 70x100 and 66x96 numbered sites with masks, and hidden files, as macOS leaves them."""
    for folder_name in ("images", "masks"):
        (tmp_path / folder_name).mkdir()
    for stem, shape in (("a", (70, 100)), ("a1", (66, 96))):
        sites = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
        tifffile.imwrite(tmp_path / "images" / f"{stem}.tiff", sites)
        mask = np.pad(sites % 7 == 0, (0, 1))  # The sensor has an odd size.
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"mask of {stem}.png")
    for name in ("images/._a.tiff", "masks/._mask of a.png"):
        (tmp_path / name).touch()
    return tmp_path


def test_frames_with_masks_are_segmented_in_tiles_on_the_bayer_grid(frames):
    dataset = load(frames, tile_size=32)
    assert (dataset.task, dataset.classes, dataset.camera) == ("segmentation", ("object",), isp.CAMERAS["drone"])
    places = [f"{row:02d}_{col:02d}" for row in (0, 1) for col in (0, 1, 2)]
    assert dataset.names == tuple(f"{stem}_{place}" for stem in ("a", "a1") for place in places)
    raw, mask = dataset[7]  # the second tile of the second frame
    expected = 96 * np.arange(32)[:, None] + np.arange(32, 64)
    np.testing.assert_array_equal(np.round(raw.raw * 65535), expected)
    np.testing.assert_array_equal(mask, expected % 7 == 0)
    assert (raw.raw.dtype, mask.dtype) == (np.float32, np.uint8)


def test_tiles_of_one_frame_are_never_on_both_sides_of_a_split(frames):
    for number in range(2, 12):
        shutil.copy(frames / "images/a.tiff", frames / f"images/b{number}.tiff")
        shutil.copy(frames / "masks/mask of a.png", frames / f"masks/b{number}.png")
    dataset = load(frames, tile_size=32)
    settings = build(TrainingDataSettings, dataset="Folder", n_splits=3, test_size=0.25)
    for split in splits_of(settings, 1, dataset):
        of_parts = [{dataset.names[index][:-6] for index in part} for part in split]
        assert list(map(len, of_parts)) == [7, 2, 3]
        assert len(set.union(*of_parts)) == 12
    each = splits_of(build(TrainingDataSettings, dataset="Folder", n_splits="groups"), 1, dataset)
    assert [{dataset.names[index][:-6] for index in split.valid} for split in each] == [
        {name} for name in dict.fromkeys(name[:-6] for name in dataset.names)
    ]
    # Frames of one flight can be one group.
    found = load(frames, tile_size=32, group="^(.)")
    assert found.groups.tolist() == [0] * 12 + [1] * 60
    with pytest.raises(InputError, match="`group=folder` is for classification"):
        load(frames, tile_size=32, group="folder")


@pytest.mark.shows("train --group", "r2l_jax.data.load(group)")
def test_classes_may_have_a_folder_for_each_group(classes):
    for path in ("a/p1/1.tiff", "a/p2/2.tiff", "b/p2/3.tiff"):
        (classes / path).parent.mkdir(exist_ok=True)
        tifffile.imwrite(classes / path, np.zeros((32, 32), np.uint16))
    with pytest.raises(InputError, match=r"`group=folder`: .*a/one.tiff must be in the folder of a group"):
        load(classes, group="folder")
    for path in classes.glob("*/*.tif*"):
        path.unlink()
    dataset = load(classes, group="folder")
    assert dataset.names == ("a/p1/1.tiff", "a/p2/2.tiff", "b/p2/3.tiff")
    assert (dataset.classes, dataset.labels.tolist(), dataset.groups.tolist()) == (("a", "b"), [0, 0, 1], [0, 1, 1])


XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"


def test_tiles_start_with_a_whole_tile_of_the_color_filter_array(tmp_path):
    (tmp_path / "camera.json").write_text(isp.Camera([0.0] * 3, (2, 1, 2), np.eye(3), XTRANS).to_json())
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    colors = np.array([["RGB".index(color) for color in row] for row in XTRANS.split("/")], np.uint16)
    tifffile.imwrite(tmp_path / "images/a.tiff", 10_000 * np.tile(colors, (14, 14)))
    Image.new("L", (84, 84)).save(tmp_path / "masks/a.png")
    raws, _ = load(tmp_path, str(tmp_path / "camera.json"), tile_size=32).samples(np.arange(4))
    assert np.ptp(raws.raw, axis=0).max() == 0 < np.ptp(raws.raw[0])


def test_tiles_are_cut_again_only_if_a_file_or_the_camera_changes(frames):
    def cut(camera="drone"):
        load(frames, camera, tile_size=32)
        return {path.name: path.stat().st_mtime_ns for path in (frames / "tiles_32").iterdir()}

    first, mask = cut(), frames / "masks/mask of a.png"
    os.utime(mask)
    assert cut() == first
    before = mask.stat()
    Image.new("L", (101, 70), 1).save(mask)
    mask.write_bytes(mask.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (mask.stat().st_size, mask.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = cut()
    assert (len(changed), first.items() < changed.items()) == (2, True)
    assert len(cut("microscopy")) == 3


def test_frames_of_equal_names_sizes_and_times_have_their_own_tiles(tmp_path):
    """As `adjust.py` keeps the tiles of all folders in one."""
    for name, level in (("bright", 50_000), ("dark", 10_000)):
        for part in ("images", "masks"):
            (tmp_path / name / part).mkdir(parents=True)
        tifffile.imwrite(tmp_path / name / "images/a.tiff", np.full((32, 32), level, np.uint16))
        Image.new("L", (32, 32), 1).save(tmp_path / name / "masks/a.png")
        for file in (tmp_path / name).glob("*/a.*"):
            os.utime(file, (0, 0))
        raw, _ = folder.load(tmp_path / name, "drone", 32, tmp_path / "tiles")[0]
        np.testing.assert_allclose(np.asarray(raw) * 65535, level, atol=0.1)


def test_a_mask_belongs_to_the_frame_of_the_longest_name_in_its_own(frames):
    for stem in ("a_1", "11"):
        tifffile.imwrite(frames / "images" / f"{stem}.tiff", np.full((32, 32), 100, np.uint16))
    for stem in ("a_1_mask", "mask 11"):
        Image.new("L", (32, 32), 1).save(frames / "masks" / f"{stem}.png")
    dataset = load(frames, tile_size=32)
    objects = [name[:-6] for index, name in enumerate(dataset.names) if dataset[index][1].all()]
    assert objects == ["11", "a_1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": None}, "`dataset=Folder` needs `data_dir`, .* got None"),
        ({"tile_size": 33}, "`tile_size` must be positive"),
        ({"tile_size": 42}, "one.tiff is 40x52, smaller than `tile_size=42`"),
        ({"data_dir": "a"}, "a must have a sub-folder of raw files for each of at least two classes, .*; found 0 raw"),
    ],
)
def test_refuses(classes, monkeypatch, changes, message):
    monkeypatch.chdir(classes)
    with pytest.raises(InputError, match=message):
        datasets.load("Folder", **{"data_dir": ".", "camera": "drone", **changes})


CAMERA_10_BITS = """{"black_level": [64, 64, 64, 64], "white_level": 1023, "white_balance": [2, 1, 2],
    "color_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}"""


def test_a_white_level_in_the_cameras_file_is_what_files_are_divided_by(tmp_path, capsys):
    for name in ("a/0.tiff", "b/1.tiff"):
        (tmp_path / name).parent.mkdir()
        tifffile.imwrite(tmp_path / name, np.linspace(0, 1023, 64 * 64).reshape(64, 64).astype(np.uint16))
    (tmp_path / "camera.json").write_text(CAMERA_10_BITS)
    dataset = load(tmp_path, str(tmp_path / "camera.json"))
    assert dataset[0][0].max() == 1
    assert dataset.camera.black_level == (64 / 1023,) * 4
    # The data set's mosaics are fractions of the white level already.
    assert dataset.camera.white_level is None
    assert capsys.readouterr().err == ""
    load(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'a/0.tiff'}: the highest value is 1023 of 65535")
    # Only the first file is decoded to see it.
    assert line.endswith("camera's JSON file")


def test_tiles_of_frames_with_a_white_level_are_fractions_of_it(frames):
    (frames / "camera.json").write_text(CAMERA_10_BITS)
    dataset = load(frames, str(frames / "camera.json"), tile_size=32)
    assert dataset.camera == isp.Camera([64 / 1023] * 4, (2, 1, 2), np.eye(3))
    raw, _ = dataset[1]
    sites = 100 * np.arange(32)[:, None] + np.arange(32, 64)
    np.testing.assert_allclose(raw, np.minimum(sites / 1023, 1), atol=0.51 / 65535)


def test_frames_need_masks_and_names_of_their_own(frames):
    (frames / "images/a.tif").touch()
    with pytest.raises(InputError, match=r"images must contain only one frame a, whatever the suffix; found several"):
        load(frames, tile_size=32)
    (frames / "masks").rename(frames / "misspelled")
    with pytest.raises(InputError, match="has a sub-folder images but no masks"):
        load(frames, tile_size=32)


@pytest.mark.parametrize("frames_folder", ["images", "JPEGImages"])
@pytest.mark.parametrize("masks", ["none", "boxes"])
def test_a_folder_without_masks_says_what_boxes_need(frames, frames_folder, masks):
    shutil.rmtree(frames / "masks")
    if masks == "boxes":
        (frames / "masks").mkdir()
        (frames / "masks/a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (frames / "images").rename(frames / frames_folder)
    with pytest.raises(InputError, match="; for boxes, give a COCO file as `annotations`"):
        load(frames, tile_size=32)


def write_masks(frames, *values):
    """Writes masks in which stripes of 7 columns have these values, the first ones for the first frame."""
    for stem, each, (rows, cols) in zip(("a", "a1"), values, ((70, 101), (66, 97)), strict=True):
        mask = np.array(each, np.uint8)[np.arange(cols) // 7 % len(each)]
        Image.fromarray(np.tile(mask, (rows, 1))).save(frames / "masks" / f"mask of {stem}.png")


NAMES = ("road", "car", "tree", "roof")


def test_masks_of_several_classes_keep_their_indices_in_tiles(frames):
    write_masks(frames, (0, 1, 2, 3), (3, 255, 1))
    dataset = load(frames, tile_size=32, classes=NAMES)
    assert (dataset.task, dataset.classes, dataset.colors) == ("segmentation", NAMES, ())
    for place, values in ((2, [0, 1, 2, 3]), (7, [3, 255, 1])):
        _, mask = dataset[place]  # the third tile of the first frame, and the second tile of the second frame
        columns = np.arange(64, 96) if place == 2 else np.arange(32, 64)
        np.testing.assert_array_equal(mask, np.tile(np.array(values)[columns // 7 % len(values)], (32, 1)))
        assert mask.dtype == np.uint8


def test_a_file_names_classes_and_their_colors(frames):
    write_masks(frames, (0, 1), (2, 3))
    (frames / "classes.json").write_text(json.dumps(list(NAMES)))
    assert load(frames, tile_size=32).classes == NAMES
    colors = ("#808080", "#ff0000", "#00Ff00", "#0000ff")
    (frames / "classes.json").write_text(json.dumps(dict(zip(NAMES, colors, strict=True))))
    dataset = load(frames, tile_size=32, classes=NAMES)
    assert (dataset.classes, dataset.colors) == (NAMES, colors)
    with pytest.raises(InputError, match=r"`classes=car,road` differs from .*classes.json: road, car, tree, roof$"):
        load(frames, tile_size=32, classes=("car", "road"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"road": "gray"}', r"Expected `str` matching regex .*0-9a-fA-F.* - at `\$"),
        ('["road", "road"]', "classes must be 1 to 255 different names in the order of their indices, got road, road"),
        ("[]", "classes must be 1 to 255 different names"),
        ('["road", 3]', r"Expected `str`, got `int` - at `\$\[1\]`"),
        ('"road"', "Expected .*, got `str`"),
        ("[", "truncated, corrupt or not a valid JSON"),
    ],
)
def test_names_of_classes_are_checked(frames, content, message):
    (frames / "classes.json").write_text(content)
    with pytest.raises(InputError, match=f"classes.json: {message}"):
        load(frames, tile_size=32)


def test_a_value_that_is_no_class_is_named_with_its_pixels(frames):
    write_masks(frames, (0, 1, 2, 3), (0, 7, 1))
    # Of the 97 columns of the second mask, 34 have the value 7.
    with pytest.raises(
        InputError,
        match=r"mask of a1.png: the value 7 of 2244 pixels is not the index of a class: 0 \(road\), 1 \(car\), "
        r"2 \(tree\), 3 \(roof\), or 255 where pixels are ignored$",
    ):
        load(frames, tile_size=32, classes=NAMES)


def test_masks_of_one_object_have_one_value(frames):
    of_ones = load(frames, tile_size=32)
    np.testing.assert_array_equal(Image.open(of_ones.files[0][1]), 255 * of_ones[0][1])
    for stem in ("a", "a1"):
        mask = np.asarray(Image.open(frames / f"masks/mask of {stem}.png"))
        Image.fromarray(255 * mask).save(frames / f"masks/mask of {stem}.png")
    of_255 = load(frames, tile_size=32)
    assert of_255.content == of_ones.content
    named = load(frames, tile_size=32, classes=("cell",))
    assert (named.classes, named[7][1].max()) == (("cell",), 1)
    np.testing.assert_array_equal(named[7][1], of_ones[7][1])


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        (((0, 1), (0, 1, 2, 3)), None, r"a1.png holds the values 1, 2, 3: a mask of one object has one value b"),
        (((0, 1), (*range(9),)), None, r"holds the values 1, 2, 3, 4, 5, \.\.\.: .*`classes=background,car,road`$"),
        (((0, 1), (0, 255)), None, r"a.png means the object by 1, and .*a1.png by 255: .* name the classes: "),
        (((0, 1), (0, 2)), ("car",), r"a.png means the object by 1, and .*a1.png by 2: "),
        (((0, 255), (0,)), ("road", "car"), r"masks: all masks hold only 0 \(road\) and 255, which is ignored: "),
        (((0, 1), (0,)), ("road", ""), "`classes`: classes must be 1 to 255 different names"),
    ],
)
def test_masks_whose_meaning_is_unclear_are_refused(frames, values, classes, message):
    write_masks(frames, *values)
    with pytest.raises(InputError, match=message):
        load(frames, tile_size=32, classes=classes)


def test_sub_folders_name_the_classes_of_files(classes):
    with pytest.raises(InputError, match=r"`classes` is for masks: the classes of .* are its sub-folders"):
        load(classes, classes=("a", "b"))


def test_another_packing_of_the_files_makes_other_data(tmp_path):
    camera, contents = tmp_path / "camera.json", []
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.bin").write_bytes(bytes(range(96)))
    for packing in ("pfnc", "gige"):
        layout = {"width": 8, "height": 8, "bits": 12, "packing": packing}
        camera.write_text(json.dumps(json.loads(isp.CAMERAS["drone"].to_json()) | {"raw": layout}))
        contents.append(load(tmp_path / "data", str(camera)).content)
    assert contents[0] != contents[1]
