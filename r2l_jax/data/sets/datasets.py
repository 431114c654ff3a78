"""Raw data sets by name: where the files are, what the targets are, and which camera took them."""

import pathlib

import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.config import DATASETS, INTENSITIES, SYNTHETIC_IMAGES, SYNTHETIC_SIZE
from r2l_jax.data.fetch import download as downloads
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets import folder, published, synthetic
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.hosts import on_first_process


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
            "Folder", the user's own files, one sub-folder a class, or images and masks.
        data_dir: where it is, or shall be written; None is the user's cache folder.
        iso: the intensity, one of those that were measured.
        camera: for "Folder": a known camera's name, a JSON file, or "auto" for the files' own figures.
        tile_size: for "Folder": the side of tiles, or of the middle that is taken of files to classify; None is 256, or
            the shortest side if that is less.
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
        return folder.load(data_dir, camera, tile_size)
    for flag, value in (("camera", camera), ("tile_size", tile_size)):
        if value is not None:
            raise InputError(f"--{flag} is for --dataset=Folder; {name} has its own")
    if iso not in INTENSITIES:
        measured = ", ".join(f"{intensity:g}" for intensity in INTENSITIES)
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

    def download() -> None:
        if not published.is_there(name, data_dir, intensity):
            downloads.download(published.download_name(name), data_dir)

    on_first_process(download)


def _measured(name: str, root: pathlib.Path, iso: float) -> RawDataset:
    """A data set in the layout of the published ones: an image folder for each intensity, and a file of labels."""
    (labels_file,) = (root / "labels").glob("*.dat")
    pairs = sorted(line.split() for line in labels_file.read_text().splitlines())
    classes = tuple(sorted({label for _, label in pairs}))
    labels = np.array([classes.index(label) for _, label in pairs], np.int32)
    images = root / "images" / synthetic.intensity_folder(iso)
    segmentation = name.endswith("Segmentation")
    files = tuple(
        (images / f"{stem}.tiff", *([root / "masks" / f"{stem}.png"] if segmentation else [])) for stem, _ in pairs
    )

    def read(index: int) -> Sample:
        image, *mask = files[index]
        raw = tifffile.imread(image).astype(np.float32) / 65535
        if segmentation:
            return raw, (np.asarray(Image.open(*mask)) > 0).astype(np.uint8)
        return raw, labels[index]

    return RawDataset(
        name=name,
        task="segmentation" if segmentation else "classification",
        classes=("white cell",) if segmentation else classes,
        camera=isp.Camera.from_json((root / "camera.json").read_text()),
        names=tuple(stem for stem, _ in pairs),
        labels=labels,
        read=read,
        files=files,
    )
