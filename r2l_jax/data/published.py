"""The two published raw data sets, Raw-Microscopy and Raw-Drone, in the layout in which they are downloaded.

Oala et al., "Data Models for Dataset Drift Controls in Machine Learning With Optical Images", TMLR 2023. Which images
count, in which order, and which tiles are drawn is as in the program published with them.
"""

import collections
import concurrent.futures
import pathlib
import random
import re
import tempfile

import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.rawfile import read_raw
from r2l_jax.errors import InputError

DATASETS = ("Microscopy", "Drone", "DroneSegmentation", "DroneSegmentationFull")

TILE_SIZE = 256

# Classes of no more than RARE images are left out, and so is one image.
CELLS = (
    *("BAS", "EBO", "EOS", "KSC", "LYA", "LYT", "MMZ", "MOB"),
    *("MON", "MYB", "MYO", "NGB", "NGS", "PMB", "PMO", "UNC"),
)
RARE = 4
LEFT_OUT = "Ma190c_lame3_zone13_composite_Mcropped_2"

# A tile counts as one with a car if more than this fraction of it is car; with less but some it is neither.
CAR_FRACTION = 0.01
SEED = 72

_FRAME_SUFFIXES = (".tif", ".tiff", ".png", ".dng")


def load(name: str, data_dir: str | pathlib.Path, intensity: str) -> RawDataset:
    """Finds a published data set.

    - "Microscopy": `microscopy/images/<intensity>/*.tiff` and `microscopy/labels/Ma190c_annotations.dat`.
    - "DroneSegmentationFull": the frames `drone/images_full/<intensity>/*` and their masks `drone/masks_full/*`, whose
      names contain the frames'.
    - "DroneSegmentation": the frames' tiles of 256x256 in which there is a car.
    - "Drone": tiles to classify, "car" or "no car", equally many of each from every frame.

    Tiles are cut at the first call, into `drone/tiles_256/`.

    Args:
        name: one of `DATASETS`.
        data_dir: what holds the folders `microscopy` and `drone`.
        intensity: the folder of an intensity, such as "raw_scale100".

    Raises:
        InputError: files that are not there or do not fit, named, with what to do.
    """
    root = pathlib.Path(data_dir)
    if name == "Microscopy":
        return _microscopy(root, intensity)
    if name == "DroneSegmentationFull":
        return _frames(root, intensity)
    return _tiles(name, root, intensity)


def download_name(name: str) -> str:
    """Which of the two data sets to download for a name of `DATASETS`."""
    return "Microscopy" if name == "Microscopy" else "Drone"


def _microscopy(root: pathlib.Path, intensity: str) -> RawDataset:
    images, labels_file = _sources("Microscopy", root, intensity)
    _require("Microscopy", root, images, labels_file)
    pairs = [_fields(labels_file, line) for line in labels_file.read_text().splitlines()]
    counts = collections.Counter(label for _, label in pairs)
    classes = tuple(label for label in CELLS if counts[label] > RARE)
    pairs = [(stem, label) for stem, label in pairs if label in classes and stem != LEFT_OUT]
    if len(classes) < 2:
        raise InputError(f"{labels_file} names fewer than two of the classes {', '.join(CELLS)} more than {RARE} times")
    paths = [images / f"{stem}.tiff" for stem, _ in pairs]
    _require("Microscopy", root, *paths)
    labels = np.array([classes.index(label) for _, label in pairs], np.int32)
    return RawDataset(
        name="Microscopy",
        task="classification",
        classes=classes,
        camera=isp.CAMERAS["microscopy"],
        names=tuple(stem for stem, _ in pairs),
        labels=labels,
        read=lambda index: (_mosaic(paths[index], "microscopy", TILE_SIZE), labels[index]),
    )


def _fields(file: pathlib.Path, line: str) -> tuple[str, str]:
    """The name and the class of a line."""
    fields = line.split()
    if len(fields) != 2:
        raise InputError(f"{file}: a line must be a name and a class, got {line!r}")
    return fields[0], fields[1]


def _mosaic(path: pathlib.Path, camera: str, side: int | None = None) -> np.ndarray:
    """The mosaic of a file; an InputError if it is not there, or not of this height and width."""
    try:
        raw, _ = read_raw(path, isp.CAMERAS[camera])
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if side is not None and raw.shape != (side, side):
        raise InputError(f"{path} must be {side}x{side}, got {raw.shape[0]}x{raw.shape[1]}")
    return raw


def is_there(name: str, data_dir: str | pathlib.Path, intensity: str) -> bool:
    """Whether the folders that `load` reads exist, or the tiles that it has cut."""
    root = pathlib.Path(data_dir)
    if _tiles_folder(name, root, intensity).exists():
        return True
    return all(path.exists() for path in _sources(name, root, intensity))


def _sources(name: str, root: pathlib.Path, intensity: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The folder of the images, and where their targets are."""
    if name == "Microscopy":
        folder = root / "microscopy"
        return folder / "images" / intensity, folder / "labels" / "Ma190c_annotations.dat"
    return root / "drone" / "images_full" / intensity, root / "drone" / "masks_full"


def _tiles_folder(name: str, root: pathlib.Path, intensity: str) -> pathlib.Path:
    return root / "drone" / f"tiles_{TILE_SIZE}" / name / intensity


def _require(name: str, root: pathlib.Path, *paths: pathlib.Path) -> None:
    """Raises an InputError that says what to do unless all paths exist."""
    missing = [path for path in paths if not path.exists()]
    if missing:
        others = f" and {len(missing) - 1} more of {len(paths)} files are" if len(missing) > 1 else " is"
        raise InputError(
            f"--dataset={name}: {missing[0].relative_to(root)}{others} not in --data_dir={root}; get the data set by "
            f"python scripts/download.py --dataset={download_name(name)} --data_dir={root}"
        )


def _frame_pairs(name: str, root: pathlib.Path, intensity: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Every frame with its mask, by name."""
    folder, masks_folder = _sources(name, root, intensity)
    _require(name, root, folder, masks_folder)
    frames = sorted(path for path in folder.iterdir() if path.suffix.lower() in _FRAME_SUFFIXES)
    masks = sorted(path for path in masks_folder.iterdir() if path.suffix.lower() in _FRAME_SUFFIXES)
    if not frames:
        raise InputError(f"{folder} must hold frames ({', '.join(_FRAME_SUFFIXES)}), found none")
    pairs = []
    for frame in frames:
        found = [mask for mask in masks if frame.stem in mask.name]
        # Frame 1 is in the name of frame 10's mask, too, but not as a word.
        words = re.compile(rf"(?<![0-9A-Za-z]){re.escape(frame.stem)}(?![0-9A-Za-z])")
        found = [mask for mask in found if words.search(mask.name)] if len(found) > 1 else found
        if len(found) != 1:
            raise InputError(
                f"{frame} must have one mask in {masks_folder} whose name contains {frame.stem!r}, found {len(found)}"
            )
        pairs.append((frame, found[0]))
    return pairs


def _read_frame(frame: pathlib.Path, mask_file: pathlib.Path) -> Sample:
    """A mosaic and its mask, 1 where there is a car."""
    raw = _mosaic(frame, "drone")
    mask = _read_mask(mask_file)
    rows, cols = raw.shape
    if not (rows <= mask.shape[0] <= rows + 1 and cols <= mask.shape[1] <= cols + 1):
        raise InputError(f"{mask_file} must be of the size of {frame}, {raw.shape}, got {mask.shape}")
    return raw, mask[:rows, :cols]  # a mosaic is cut to an even size


def _read_mask(path: pathlib.Path) -> np.ndarray:
    try:
        values = tifffile.imread(path) if path.suffix.lower() in (".tif", ".tiff") else np.asarray(Image.open(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    return (values > 0 if values.ndim == 2 else (values > 0).any(-1)).astype(np.uint8)


def _frames(root: pathlib.Path, intensity: str) -> RawDataset:
    pairs = _frame_pairs("DroneSegmentationFull", root, intensity)
    shape = _mosaic(pairs[0][0], "drone").shape

    def read(index: int) -> Sample:
        raw, mask = _read_frame(*pairs[index])
        if raw.shape != shape:
            raise InputError(f"all frames must have one size: {pairs[0][0]} has {shape}, {pairs[index][0]} {raw.shape}")
        return raw, mask

    return RawDataset(
        name="DroneSegmentationFull",
        task="segmentation",
        classes=("car",),
        camera=isp.CAMERAS["drone"],
        names=tuple(frame.stem for frame, _ in pairs),
        labels=np.zeros(len(pairs), np.int32),
        read=read,
    )


def _tiles(name: str, root: pathlib.Path, intensity: str) -> RawDataset:
    folder = _tiles_folder(name, root, intensity)
    if not folder.exists():
        _cut(name, _frame_pairs(name, root, intensity), folder)
    segmentation = name == "DroneSegmentation"
    classes = ("car",) if segmentation else ("car", "no car")
    labels_file = folder / "labels.dat"
    pairs = [line.split("\t") for line in labels_file.read_text().splitlines()]
    labels = np.array([classes.index(label) for _, label in pairs], np.int32)

    def read(index: int) -> Sample:
        stem, _ = pairs[index]
        raw = _mosaic(folder / "images" / f"{stem}.tiff", "drone", TILE_SIZE)
        return raw, _read_mask(folder / "masks" / f"{stem}.png") if segmentation else labels[index]

    return RawDataset(
        name=name,
        task="segmentation" if segmentation else "classification",
        classes=classes,
        camera=isp.CAMERAS["drone"],
        names=tuple(stem for stem, _ in pairs),
        labels=labels,
        read=read,
    )


def _cut(name: str, pairs: list[tuple[pathlib.Path, pathlib.Path]], folder: pathlib.Path) -> None:
    """Writes the tiles of all frames, their masks and a file of labels; the folder is whole or not there."""
    choose = _with_cars if name == "DroneSegmentation" else _balanced
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}_", dir=folder.parent) as scratch:
        # A folder within the temporary one, which only its owner may read.
        draft = pathlib.Path(scratch) / folder.name
        for part in ("images", "masks"):
            (draft / part).mkdir(parents=True)

        def cut(pair: tuple[pathlib.Path, pathlib.Path]) -> list[str]:
            frame, _ = pair
            raw, mask = _read_frame(*pair)
            corners = [
                (row, col)
                for row in range(0, raw.shape[0] - TILE_SIZE + 1, TILE_SIZE)
                for col in range(0, raw.shape[1] - TILE_SIZE + 1, TILE_SIZE)
            ]
            if not corners:
                raise InputError(f"{frame} is {raw.shape[0]}x{raw.shape[1]}, smaller than a tile of {TILE_SIZE}")
            tiles = [np.s_[row : row + TILE_SIZE, col : col + TILE_SIZE] for row, col in corners]
            lines = []
            for index, label in choose([mask[tile].mean() for tile in tiles]):
                row, col = corners[index]
                stem = f"{frame.stem}_{row // TILE_SIZE:02d}_{col // TILE_SIZE:02d}"
                values = np.round(raw[tiles[index]] * 65535).astype(np.uint16)
                tifffile.imwrite(draft / "images" / f"{stem}.tiff", values, metadata=None)
                Image.fromarray(mask[tiles[index]] * 255).save(draft / "masks" / f"{stem}.png")
                lines.append(f"{stem}\t{label}\n")
            return lines

        with concurrent.futures.ThreadPoolExecutor() as pool:
            lines = [line for lines in pool.map(cut, pairs) for line in lines]
        if not lines:
            raise InputError(f"{pairs[0][0].parent}: no tile of any frame has a car in its mask")
        (draft / "labels.dat").write_text("".join(lines))
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was first
                raise


def _with_cars(fractions: list[float]) -> list[tuple[int, str]]:
    """The tiles in which there is a car."""
    return [(index, "car") for index, fraction in enumerate(fractions) if fraction > 0]


def _balanced(fractions: list[float]) -> list[tuple[int, str]]:
    """Equally many tiles with and without a car; of those that there are more of, which ones is drawn at random."""
    cars = [index for index, fraction in enumerate(fractions) if fraction > CAR_FRACTION]
    others = [index for index, fraction in enumerate(fractions) if fraction == 0]
    more = max(cars, others, key=len)
    surplus = abs(len(cars) - len(others))
    # As published: the shuffled list's first ones are dropped.
    shuffled = list(more)
    random.Random(SEED).shuffle(shuffled)
    dropped = set(shuffled[:surplus])
    return [
        (index, label) for label, kind in (("car", cars), ("no car", others)) for index in kind if index not in dropped
    ]
