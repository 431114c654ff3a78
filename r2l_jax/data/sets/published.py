"""The published raw data sets, Raw-Microscopy and Raw-Drone, in the layout in which they are downloaded.

microscopy/images/raw_scale{001,005,010,025,050,075,100}/*    microscopy/labels/Ma190c_annotations.dat
drone/images_full/raw_scale{001,005,010,025,050,075,100}/*    drone/masks_full/*

Oala et al., "Data Models for Dataset Drift Controls in Machine Learning With Optical Images", TMLR 2023. The choice of
images, their order, and the random tiles follow the program published with the data sets.
"""

import collections
import dataclasses
import pathlib
import random
from collections.abc import Mapping, Sequence

import numpy as np

import isp
from r2l_jax.cli.commands import command
from r2l_jax.data.files import tiles
from r2l_jax.data.files.decoding import read_labels
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.masks import Pair, pair_masks, read_frame
from r2l_jax.data.files.tiles import stored_set
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets.synthetic import intensity_folder
from r2l_jax.errors import InputError, collected_warnings
from r2l_jax.names import INTENSITIES

# Published means and standard deviations of R, G and B after a static pipeline, and of mosaics at half size. They are
# computed for other data sets.
_DRONE = ((0.35, 0.36, 0.35), (0.12, 0.11, 0.12))
STATIC_STATISTICS = {
    "Microscopy": ((0.91, 0.84, 0.94), (0.08, 0.12, 0.05)),
    "Drone": _DRONE,
    "DroneSegmentation": _DRONE,
    "DroneSegmentationFull": _DRONE,
}
MOSAIC_STATISTICS = {"Microscopy": ((0.5663, 0.1401, 0.0731), (0.097, 0.0423, 0.008))}

TILE_SIZE = 256

# Classes with at most RARE images and one unusable image are left out.
CELLS = (
    *("BAS", "EBO", "EOS", "KSC", "LYA", "LYT", "MMZ", "MOB"),
    *("MON", "MYB", "MYO", "NGB", "NGS", "PMB", "PMO", "UNC"),
)
RARE = 4
LEFT_OUT = "Ma190c_lame3_zone13_composite_Mcropped_2"

# A tile has the class "car" if cars cover more than this fraction of it. Tiles with smaller cars are left out.
CAR_FRACTION = 0.01
SEED = 72

_FRAME_SUFFIXES = (".tif", ".tiff", ".png", ".dng")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a published data set lies in the data folder.

    The names of Zenodo's archives contain `folder`. `images` has a sub-folder for each intensity, and `targets` is the
    file of labels or the folder of masks. `b2_folders` gives the local folder for the files of each folder in the B2
    bucket.
    """

    folder: str
    images: str
    targets: str
    b2_folders: Mapping[str, str]

    @property
    def aliases(self) -> dict[str, str]:
        """The folder names in the layout, by the last part of the folder names in the bucket."""
        return {name.rsplit("/", 1)[-1]: place for name, place in self.b2_folders.items()}

    def missing(self, root: pathlib.Path) -> list[str]:
        """Lists the files and folders of the layout that do not exist or are empty."""
        expected = [*(f"{self.images}/{intensity_folder(intensity)}" for intensity in INTENSITIES), self.targets]
        return [
            name for name in expected if not (root / name).is_file() and next((root / name).glob("[!.]*"), None) is None
        ]


LAYOUTS = {
    "Microscopy": Layout(
        folder="microscopy",
        images="images",
        targets="labels/Ma190c_annotations.dat",
        b2_folders={
            "Data histopathology/WhiteCellsImages": "images",
            "Data histopathology/WhiteCellsLabels": "labels",
        },
    ),
    "Drone": Layout(
        folder="drone",
        images="images_full",
        targets="masks_full",
        b2_folders={"drone/images": "images_full", "drone/masks": "masks_full"},
    ),
}


def load(name: str, data_dir: str | pathlib.Path, intensity: str) -> RawDataset:
    """Loads a published data set, one of `settings.PUBLISHED_SETS`; `intensity` is a folder such as "raw_scale100".

    - "Microscopy": the raw images of white cells, with their classes.
    - "MicroscopyRGB": the same images, processed by the microscope's software, in folders whose names have "rgb"
      instead of "raw".
    - "DroneSegmentationFull": the frames with masks of cars; the name of a mask contains the name of its frame.
    - "DroneSegmentation": tiles of 256x256 from these frames that show at least a part of a car.
    - "Drone": tiles to classify, with equally many "car" and "no car" tiles from every frame.

    The first call cuts the tiles and writes them to `drone/tiles_256/`. They are cut again if frames or masks change.
    """
    root = pathlib.Path(data_dir)
    images, targets = _sources(name, root, intensity)
    if problem := _problem(name, root, images, targets):
        raise InputError(problem)
    if download_name(name) == "Microscopy":
        return _microscopy(name, root, images, targets)
    frames = pair_masks(images, targets, _FRAME_SUFFIXES)
    if name == "DroneSegmentationFull":
        return _frames(frames)
    folder, camera = root / "drone" / f"tiles_{TILE_SIZE}" / name / intensity, KnownCamera.of(isp.CAMERAS["drone"])
    with collected_warnings():
        return tiles.joined(name, [tiles.cut(folder, frames, camera, _TILINGS[name])], _TILINGS[name])


def download_name(name: str) -> str:
    """Returns the download, one of `LAYOUTS`, that holds a data set of `settings.PUBLISHED_SETS`."""
    return "Microscopy" if name in ("Microscopy", "MicroscopyRGB") else "Drone"


def is_there(name: str, data_dir: str | pathlib.Path, intensity: str) -> bool:
    """Returns whether `load` finds complete folders."""
    root = pathlib.Path(data_dir)
    return _problem(name, root, *_sources(name, root, intensity)) is None


def _sources(name: str, root: pathlib.Path, intensity: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the folder of the images, and the file or folder of their targets."""
    layout = LAYOUTS[download_name(name)]
    if name == "MicroscopyRGB":
        intensity = intensity.replace("raw", "rgb")
    return root / layout.folder / layout.images / intensity, root / layout.folder / layout.targets


def _problem(name: str, root: pathlib.Path, *paths: pathlib.Path) -> str | None:
    """Says with advice which path is missing, or is from an interrupted download; None if all are complete."""
    if missing := next((path for path in paths if not path.exists()), None):
        return (
            f"`dataset={name}`: {missing.relative_to(root)} is not in `data_dir={root}`; download it with "
            f"{command('download')} --dataset={download_name(name)} --data_dir={root}"
        )
    if part := next((part for path in paths if path.is_dir() for part in path.glob("*.part")), None):
        return (
            f"`dataset={name}`: {part.relative_to(root)} in `data_dir={root}` is from an interrupted download: run the "
            "same download again to continue it"
        )
    return None


def _microscopy(name: str, root: pathlib.Path, images: pathlib.Path, labels_file: pathlib.Path) -> RawDataset:
    pairs = read_labels(labels_file)
    counts = collections.Counter(label for _, label in pairs)
    classes = tuple(label for label in CELLS if counts[label] > RARE)
    pairs = [(stem, label) for stem, label in pairs if label in classes and stem != LEFT_OUT]
    if len(classes) < 2:
        raise InputError(f"{labels_file} must name two of the classes {', '.join(CELLS)} more than {RARE} times")
    paths = [images / f"{stem}.tiff" for stem, _ in pairs]
    if problem := _problem(name, root, *paths):
        raise InputError(problem)
    is_raw = name == "Microscopy"
    return stored_set(
        paths,
        [],
        [],
        None if is_raw else (TILE_SIZE, TILE_SIZE, 3),
        False,
        lambda _: f"download {name} again",
        name=name,
        classes=classes,
        camera=isp.CAMERAS["microscopy"] if is_raw else None,
        names=tuple(stem for stem, _ in pairs),
        labels=np.array([classes.index(label) for _, label in pairs], np.int32),
    )


def _frames(pairs: Sequence[Pair]) -> RawDataset:
    camera = isp.CAMERAS["drone"]

    def read(index: int) -> Sample:
        with collected_warnings():
            raw, mask, _ = read_frame(pairs[index], camera)
        return raw, mask

    return RawDataset(
        name="DroneSegmentationFull",
        task="segmentation",
        classes=("car",),
        camera=camera,
        names=tuple(frame.stem for frame, _ in pairs),
        labels=np.zeros(len(pairs), np.int32),
        read=read,
        files=tuple(pairs),
    )


def _with_cars(fractions: list[float]) -> list[tuple[int, str]]:
    """Keeps the tiles that show at least a part of a car."""
    return [(index, "car") for index, fraction in enumerate(fractions) if fraction > 0]


def _balanced(fractions: list[float]) -> list[tuple[int, str]]:
    """Balances tiles with and without a car, by dropping random tiles of the more frequent kind."""
    cars = [index for index, fraction in enumerate(fractions) if fraction > CAR_FRACTION]
    others = [index for index, fraction in enumerate(fractions) if fraction == 0]
    surplus = abs(len(cars) - len(others))
    # The published program drops the first tiles of a shuffled list.
    shuffled = list(max(cars, others, key=len))
    random.Random(SEED).shuffle(shuffled)
    dropped = set(shuffled[:surplus])
    return [
        (index, label) for label, kind in (("car", cars), ("no car", others)) for index in kind if index not in dropped
    ]


_TILINGS = {
    "Drone": tiles.Tiling(TILE_SIZE, ("car", "no car"), _balanced, segmentation=False),
    "DroneSegmentation": tiles.Tiling(TILE_SIZE, ("car",), _with_cars),
}
