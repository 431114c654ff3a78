"""Turns a folder of pictures into a raw data set: the raw images that a camera's sensor would have recorded."""

import dataclasses
import functools
import math
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tifffile
from jaxtyping import Array, Float, Int, Int8, PRNGKeyArray, UInt, UInt16
from PIL import Image

import isp
import isp.unprocessing
from isp.sensor import expose_sites, noise_of, site_light
from r2l_jax.apps.share import data
from r2l_jax.data.files import dng_writer
from r2l_jax.data.files.masks import CLASSES_FILE, Classes, check_masks, pair_masks, read_classes
from r2l_jax.data.files.pictures import read_mask, read_picture
from r2l_jax.devices.placement import one_picture_at_a_time
from r2l_jax.errors import InputError
from r2l_jax.jobs import finished, in_threads
from r2l_jax.results.files import clear_parts, refuse_shared_targets, replacing
from r2l_jax.results.locks import writing_to

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

# Pictures are exposed in bands of about this many rows, with columns padded to a multiple of it, so that few shapes are
# compiled.
_BAND = 256


@dataclasses.dataclass(frozen=True)
class Summary:
    """The outcome for a folder of pictures.

    `written` and `failed` are numbers of pictures; failures are reported on stderr. `too_bright` and `too_dark` are the
    fractions of written sites above the white level, which saturate, and below black (colors outside the camera's
    gamut), which read as black.
    """

    written: int
    failed: int
    too_bright: float
    too_dark: float


def unprocess_folder(
    source: str | os.PathLike,
    target: str | os.PathLike,
    camera: isp.Camera,
    *,
    exposure: float = 1.0,
    seed: int = 0,
    format: Literal["tiff", "dng"] = "tiff",
    **noise: float | int | None,
) -> Summary:
    """Turns a folder of JPEG and PNG pictures into a raw data set in the layout of the data set "Folder".

    Each picture goes through `isp.unprocess` and is exposed by `isp.sensor`, several pictures at once, with a progress
    bar on stderr. A picture that cannot be read is reported on stderr, and the others are still written.

    - `<source>/<class>/<name>.jpg` (.jpeg, .png) becomes `<target>/<class>/<name>.tiff`.
    - If `<source>` has the sub-folders `images` and `masks`, `images/<name>.jpg` becomes `images/<name>.tiff`. Its mask
      `masks/*<name>*` (PNG or TIFF) becomes a PNG of the same name: 255 where the mask was greater than 0, else 0; or
      with its own values if `<source>/classes.json` names several classes, and is copied.
    - `<target>/camera.json` is the camera with the requested noise.
    - `<target>/croissant.json` and the card `<target>/README.md` describe the data set for others.

    Raw images have 16 bits, value / 65535. As DNG, they have the bits of the noise, at least 12, and hold the camera.
    Existing files of these names are replaced, and other files stay.

    A picture is turned upright as its EXIF orientation says; a picture with a mask must be upright already. Alpha and
    color profiles are ignored, and the tone curve is assumed to be a gamma of 2.2. An odd height or width is cropped by
    one at the bottom or the right. Otherwise, pictures keep their size; Brooks et al. first halve theirs, which removes
    traces of noise, compression and the first demosaicing.

    Args:
        source: the folder of pictures.
        target: the folder to write to, outside `source`; made if it does not exist.
        camera: the camera whose raw images are written.
        exposure: the factor on the light; at 1, a picture keeps its brightness. Light that exceeds the white level
            saturates, as white does where a gain is 1 and the black level is added. Less light leaves headroom.
        format: "tiff", or "dng" for `<name>.dng`.
        seed: decides the noise. The noise of a picture depends only on the seed and on its path within `source`.
        noise: `full_well`, `read_noise` and `bits` in place of the camera's, see `isp.Camera`; None for the camera's.

    Raises:
        InputError: the camera is not valid, cannot be inverted or does not fit into a DNG, the source holds no
            pictures, the target cannot be written or is inside the source, another program is writing to it, two
            pictures would become one file, or a picture has no mask or several. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    given = {name: value for name, value in noise.items() if value is not None}
    try:
        # The written raw images have their own white level, whatever that of the camera's files.
        camera = dataclasses.replace(camera, white_level=None, **given)
        isp.unprocessing.check_invertible(camera)
    except ValueError as error:
        raise InputError(f"camera: {error}") from None
    if format == "dng":
        dng_writer.tags(camera)
    jobs = _find_jobs(source, format)
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"the output {target} must not be inside the input {source}: its files would become inputs")
    refuse_shared_targets((job.picture, target / job.target) for job in jobs)
    with writing_to(target):
        # The lock clears the folder itself.
        for folder in {(target / file).parent for job in jobs for file in (job.target, *(job.mask or ())[1:])}:
            clear_parts(folder, 0.0)
        summary = _write_mosaics(source, target, jobs, camera, exposure, seed)
        files = [(job.target, *(job.mask or ())[1:]) for job in jobs]
        if summary.written:
            data.write(target, data.of_pictures(target, files, camera, exposure))
        return summary


@dataclasses.dataclass(frozen=True)
class _Job:
    """A picture, and the path of its raw image in the new folder; likewise its mask, if it has one.

    With `indices`, the mask holds classes, and otherwise one object.
    """

    picture: Path
    target: Path
    mask: tuple[Path, Path] | None = None
    indices: bool = False

    def __str__(self) -> str:
        return str(self.picture)


def _write_mosaics(
    source: Path, target: Path, jobs: Sequence[_Job], camera: isp.Camera, exposure: float = 1.0, seed: int = 0
) -> Summary:
    """Writes the raw images and masks of pictures, and their camera file.

    Several pictures are exposed at once, with a progress bar on stderr. Unreadable ones are reported there, and the
    others are still written. Existing files are replaced. `_find_jobs` returns the jobs, and `exposure` is a factor on
    the light. The noise of a picture follows from the seed and its path within `source`.
    """

    def run(job: _Job) -> np.ndarray:
        name = os.fsencode(job.picture.relative_to(source).as_posix())
        return _write(job, target, camera, exposure, jax.random.fold_in(jax.random.key(seed), zlib.crc32(name)))

    counts, failed = finished(in_threads(run, jobs), jobs)
    try:
        with replacing(target / "camera.json") as part:
            part.write_text(camera.to_json())
        if any(job.indices for job in jobs):
            shutil.copyfile(source / CLASSES_FILE, target / CLASSES_FILE)
    except OSError as error:
        raise InputError(f"{target / 'camera.json'}: {error.strerror or error}") from None
    sites, too_bright, too_dark = np.sum([np.zeros(3), *counts.values()], 0).tolist()
    return Summary(len(counts), failed, too_bright / max(sites, 1), too_dark / max(sites, 1))


def _find_jobs(source: Path, suffix: str = "tiff") -> list[_Job]:
    """Finds the pictures of a folder, which contains classes or masks. Their raw images get the suffix."""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    if (source / "images").is_dir() and (source / "masks").is_dir():
        pairs = pair_masks(source / "images", source / "masks", PICTURE_SUFFIXES)
        names = (read_classes(source) or Classes(("object",))).names
        check_masks([mask for _, mask in pairs], names)
        return [
            _Job(
                picture,
                Path("images", f"{picture.stem}.{suffix}"),
                (mask, Path("masks", f"{mask.stem}.png")),
                indices=len(names) > 1,
            )
            for picture, mask in pairs
        ]
    pictures = sorted(
        path for path in source.glob("*/[!.]*") if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES
    )
    if not pictures:
        raise InputError(
            f"{source} must contain a sub-folder of pictures ({', '.join(PICTURE_SUFFIXES)}) for each class, or "
            "images/ and masks/; found none"
        )
    return [_Job(picture, Path(picture.parent.name, f"{picture.stem}.{suffix}")) for picture in pictures]


def _write(job: _Job, folder: Path, camera: isp.Camera, exposure: float, key: PRNGKeyArray) -> Int[np.ndarray, "3"]:
    """Writes a picture's mask and raw image; returns the numbers of all, too bright and too dark sites."""
    picture, turned = read_picture(job.picture)
    rows, cols = (size // 2 * 2 for size in picture.shape[:2])
    if 0 in (rows, cols):
        raise InputError(f"{job.picture} must be at least 2x2, got {picture.shape[0]}x{picture.shape[1]}")
    if job.mask is not None:
        mask_file, mask_target = job.mask
        if turned:
            raise InputError(f"{job.picture} is rotated by its EXIF orientation but its mask is not: save it upright")
        mask = read_mask(mask_file, job.indices)
        if mask.shape != picture.shape[:2]:
            raise InputError(f"{mask_file} must have the size of {job.picture}, {picture.shape[:2]}, got {mask.shape}")
        with replacing(folder / mask_target) as part:
            Image.fromarray(mask[:rows, :cols] * np.uint8(1 if job.indices else 255)).save(part, format="png")
    is_dng = job.target.suffix == ".dng"
    white = dng_writer.white_of_bits(noise_of(camera).bits) if is_dng else 65535
    with one_picture_at_a_time:
        raw, outside = _photograph(picture[:rows, :cols], camera, exposure, key, white)
    if is_dng:
        dng_writer.write(folder / job.target, raw, camera, white)
    else:
        with replacing(folder / job.target) as part:
            tifffile.imwrite(part, raw, metadata=None)
    return np.array([raw.size, (outside > 0).sum(), (outside < 0).sum()])


def _photograph(
    picture: UInt[np.ndarray, "rows cols 3"], camera: isp.Camera, exposure: float, key: PRNGKeyArray, white: int
) -> tuple[UInt16[np.ndarray, "rows cols"], Int8[np.ndarray, "rows cols"]]:
    """Exposes a picture band by band; returns its raw image, and 1 or -1 where it is too bright or too dark."""
    rows, cols, _ = picture.shape
    # A band holds whole pairs of rows, and whole tiles of the color filter array.
    period = math.lcm(2, isp.cfa.tile(camera.pattern).shape[0])
    band = _BAND // period * period
    filled = np.pad(picture, ((0, -rows % band), (0, -cols % _BAND), (0, 0)))
    bands = [
        _expose(filled[start : start + band], jax.random.fold_in(key, start), camera, exposure, white)
        for start in range(0, rows, band)
    ]
    raw, outside = (np.concatenate(parts)[:rows, :cols] for parts in zip(*bands, strict=True))
    return raw, outside


@functools.partial(jax.jit, static_argnames=("camera", "white"))
def _expose(
    samples: UInt[Array | np.ndarray, "rows cols 3"],
    key: PRNGKeyArray,
    camera: isp.Camera,
    exposure: Float[Array, ""] | float,
    white: int,
) -> tuple[UInt16[Array, "rows cols"], Int8[Array, "rows cols"]]:
    rgb = samples / np.float32(np.iinfo(samples.dtype).max)
    light = exposure * site_light(isp.unprocess(rgb, camera), camera)
    raw = expose_sites(light, key, camera=camera)
    return jnp.round(raw * white).astype(jnp.uint16), jnp.int8(light > 1) - jnp.int8(light < 0)
