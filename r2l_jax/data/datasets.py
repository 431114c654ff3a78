"""Raw data sets by name: where the files are, what the targets are, and which camera took them."""

import concurrent.futures
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import tifffile
from jax.experimental import multihost_utils
from PIL import Image

import isp
from r2l_jax import startup
from r2l_jax.data import download as downloads
from r2l_jax.data import published, synthetic
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.rawfile import RAW_SUFFIXES, read_raw
from r2l_jax.errors import InputError

DATASETS = ("Synthetic", "SyntheticSegmentation", "Folder", *published.DATASETS)

SYNTHETIC_IMAGES = 600
SYNTHETIC_SIZE = 128

# Mean and standard deviation of R, G and B after a static pipeline, as published for the published data sets (Oala et
# al. 2023); for others they are computed.
_DRONE = ((0.35, 0.36, 0.35), (0.12, 0.11, 0.12))
STATIC_STATISTICS = {
    "Microscopy": ((0.91, 0.84, 0.94), (0.08, 0.12, 0.05)),
    "Drone": _DRONE,
    "DroneSegmentation": _DRONE,
    "DroneSegmentationFull": _DRONE,
}


def load(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    iso: float = 1.0,
    camera: str | None = None,
    tile_size: int | None = None,
    synthetic_images: int | None = None,
    synthetic_size: int | None = None,
    download: bool = False,
) -> RawDataset:
    """Finds a data set by name.

    Args:
        name: "Synthetic" or "SyntheticSegmentation", rendered at the first call; one of `published.DATASETS`; or
            "Folder", the user's own files, one sub-folder a class.
        data_dir: where it is, or shall be written; None is the user's cache folder.
        iso: the intensity, one of those that were measured.
        camera: for "Folder": a known camera's name, a JSON file, or "auto" for the files' own figures.
        tile_size: for "Folder": the side of the centre crop that all files are brought to; None is the smaller of 256
            and the shortest side of any file.
        synthetic_images: for the synthetic ones: how many scenes are rendered; None is 600.
        synthetic_size: for the synthetic ones: their height and width; None is 128.
        download: for the published ones: get from Zenodo what is not there.

    Raises:
        InputError: anything that does not exist or does not fit, named.
    """
    if name not in DATASETS:
        raise InputError(f"--dataset must be one of {', '.join(DATASETS)}, got {name!r}")
    if download and name not in published.DATASETS:
        raise InputError(f"--download is for {', '.join(published.DATASETS)}, not for --dataset={name}")
    if not name.startswith("Synthetic"):
        for flag, value in (("synthetic_images", synthetic_images), ("synthetic_size", synthetic_size)):
            if value is not None:
                raise InputError(f"--{flag} is for the synthetic data sets, not for --dataset={name}")
    if name == "Folder":
        if iso != 1.0:
            raise InputError(f"--iso={iso:g}: a Folder holds one intensity, its own; leave --iso out")
        return _folder(data_dir, camera, tile_size)
    for flag, value in (("camera", camera), ("tile_size", tile_size)):
        if value is not None:
            raise InputError(f"--{flag} is for --dataset=Folder; {name} has its own")
    if iso not in synthetic.INTENSITIES:
        measured = ", ".join(f"{intensity:g}" for intensity in synthetic.INTENSITIES)
        raise InputError(f"--iso must be one of the measured intensities {measured}, got {iso:g}")
    data_dir = data_dir or startup.cache_dir()
    if name in published.DATASETS:
        intensity = synthetic.intensity_folder(iso)
        if download:
            _download_missing(name, data_dir, intensity)
        return published.load(name, data_dir, intensity)
    try:
        root = synthetic.generate(
            data_dir, images=synthetic_images or SYNTHETIC_IMAGES, size=synthetic_size or SYNTHETIC_SIZE
        )
    except (ValueError, OSError) as error:
        raise InputError(f"synthetic data set: {error}") from None
    return _measured(name, root, iso)


def _download_missing(name: str, data_dir: str | pathlib.Path, intensity: str) -> None:
    """The first process downloads, and the others wait for it."""
    if jax.process_index() == 0 and not published.is_there(name, data_dir, intensity):
        downloads.download(published.download_name(name), data_dir)
    multihost_utils.sync_global_devices("data set downloaded")


def _measured(name: str, root: pathlib.Path, iso: float) -> RawDataset:
    """A data set in the layout of the published ones: an image folder for each intensity, and a file of labels."""
    (labels_file,) = (root / "labels").glob("*.dat")
    pairs = sorted(line.split() for line in labels_file.read_text().splitlines())
    classes = tuple(sorted({label for _, label in pairs}))
    labels = np.array([classes.index(label) for _, label in pairs], np.int32)
    images = root / "images" / synthetic.intensity_folder(iso)
    segmentation = name.endswith("Segmentation")

    def read(index: int) -> Sample:
        stem = pairs[index][0]
        raw = tifffile.imread(images / f"{stem}.tiff").astype(np.float32) / 65535
        if segmentation:
            return raw, (np.asarray(Image.open(root / "masks" / f"{stem}.png")) > 0).astype(np.uint8)
        return raw, labels[index]

    return RawDataset(
        name=name,
        task="segmentation" if segmentation else "classification",
        classes=("white cell",) if segmentation else classes,
        camera=isp.Camera.from_json((root / "camera.json").read_text()),
        names=tuple(stem for stem, _ in pairs),
        labels=labels,
        read=read,
    )


def find_camera(name: str) -> isp.Camera | None:
    """A camera by its name in `isp.CAMERAS` or from a JSON file; None for "auto", the files' own.

    Raises:
        InputError: neither a known camera nor a readable JSON file.
    """
    if name == "auto":
        return None
    if name in isp.CAMERAS:
        return isp.CAMERAS[name]
    try:
        return isp.Camera.from_json(pathlib.Path(name).read_text())
    except OSError:
        raise InputError(f"--camera must be {', '.join(isp.CAMERAS)}, auto or a JSON file, got {name!r}") from None
    except ValueError as error:
        raise InputError(f"--camera={name}: {error}") from None


def _folder(data_dir: str | pathlib.Path | None, camera: str | None, tile_size: int | None) -> RawDataset:
    """The user's own raw files, one sub-folder a class, brought to one size by a centre crop."""
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise InputError(f"--dataset=Folder needs --data_dir, a folder with one sub-folder a class, got {data_dir}")
    if camera is None:
        raise InputError(f"--dataset=Folder needs --camera: {', '.join(isp.CAMERAS)}, auto or a JSON file")
    if tile_size is not None and (tile_size < 2 or tile_size % 2):
        raise InputError(f"--tile_size must be positive and even, to stay on the Bayer grid, got {tile_size}")
    root = pathlib.Path(data_dir)
    files = sorted(path for path in root.glob("*/*") if path.is_file() and path.suffix.lower() in RAW_SUFFIXES)
    classes = tuple(sorted({path.parent.name for path in files}))
    if len(classes) < 2:
        raise InputError(
            f"{root} must have a sub-folder of raw files for each of at least two classes, "
            f"found {len(files)} raw files in {len(classes)} sub-folders"
        )
    given = find_camera(camera)

    def read_tile(path: pathlib.Path) -> tuple[np.ndarray, isp.Camera]:
        try:
            raw, own = read_raw(path, given)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
        side = tile_size or published.TILE_SIZE
        if tile_size and min(raw.shape) < tile_size:
            raise InputError(f"{path} is {raw.shape[0]}x{raw.shape[1]}, smaller than --tile_size={tile_size}")
        return center_crop(raw, min(side, raw.shape[0]), min(side, raw.shape[1])), own

    with concurrent.futures.ThreadPoolExecutor() as pool:
        tiles, cameras = zip(*pool.map(read_tile, files), strict=True)
    side = min(min(tile.shape) for tile in tiles)
    raws = np.stack([center_crop(tile, side, side) for tile in tiles])
    labels = np.array([classes.index(path.parent.name) for path in files], np.int32)
    return RawDataset(
        name="Folder",
        task="classification",
        classes=classes,
        camera=_common_camera(files, cameras),
        names=tuple(str(path.relative_to(root)) for path in files),
        labels=labels,
        read=lambda index: (raws[index], labels[index]),
    )


def center_crop(raw: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle `(height, width)` of a mosaic, moved by at most a site, to start on a whole tile of the CFA."""
    top, left = ((have - want) // 2 // 2 * 2 for have, want in zip(raw.shape, (height, width), strict=True))
    return raw[top : top + height, left : left + width]


def _common_camera(files: Sequence[pathlib.Path], cameras: Sequence[isp.Camera]) -> isp.Camera:
    """One camera for all files: the median of each figure, since white balance as shot differs from file to file."""
    for path, camera in zip(files, cameras, strict=True):
        if camera.pattern != cameras[0].pattern:
            raise InputError(
                f"all files must have one Bayer pattern: {files[0]} has {cameras[0].pattern}, {path} {camera.pattern}"
            )
    figures = {
        name: np.median([getattr(camera, name) for camera in cameras], axis=0)
        for name in ("black_level", "white_balance", "color_matrix")
    }
    return isp.Camera(**figures, pattern=cameras[0].pattern)
