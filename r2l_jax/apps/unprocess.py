"""Turns a folder of pictures into a raw data set: the mosaics that a camera's sensor would have recorded."""

import dataclasses
import functools
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt, UInt16
from PIL import Image

import isp
from isp.sensor import expose_sites, noise_of, site_light
from isp.unprocessing import check_invertible
from r2l_jax.data.files.masks import pair_masks
from r2l_jax.data.files.pictures import read_mask, read_picture
from r2l_jax.runtime.devices import one_picture_at_a_time
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import clear_parts, refuse_shared_targets, replacing
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.worklist import SERIAL, finished, one_by_one, worked

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

# The fewest and the most columns, of as many rows as a tile has, that go to the device at once; powers of two.
_FEWEST, _MOST = 2**9, 2**17

# Takes samples of the picture and a key. Returns the mosaic in uint16, and how many sites are too bright and too dark.
_Expose = Callable[[UInt[np.ndarray, "rows cols 3"], PRNGKeyArray], tuple[UInt16[Array, "rows cols"], Int[Array, "2"]]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The outcome for a folder of pictures.

    Attributes:
        written: the number of pictures that were turned into mosaics.
        failed: the number of pictures that failed, each reported on stderr.
        too_bright: the fraction of the written sites whose light exceeds the white level; they saturate.
        too_dark: the fraction of the written sites whose light is below black, for colors outside the camera's gamut;
            they read as black.
    """

    written: int
    failed: int
    too_bright: float
    too_dark: float


@dataclasses.dataclass(frozen=True)
class _Job:
    """A picture and the file of its mosaic; if it has a mask, the mask and the file of the cropped mask."""

    picture: Path
    target: Path
    mask: tuple[Path, Path] | None = None

    def __str__(self) -> str:
        return str(self.picture)


def unprocess_folder(
    source: str | os.PathLike,
    target: str | os.PathLike,
    camera: isp.Camera,
    *,
    exposure: float = 1.0,
    full_well: float | None = None,
    read_noise: float | None = None,
    bits: int | None = None,
    seed: int = 0,
) -> Summary:
    """Turns a folder of JPEG and PNG pictures into a raw data set in the layout of the data set "Folder".

    Each picture goes through `isp.unprocess` and is exposed by `isp.sensor`, several pictures at once, with a progress
    bar on stderr. A picture that cannot be read is reported on stderr, and the others are still written.

    - `<source>/<class>/<name>.jpg` (.jpeg, .png) becomes `<target>/<class>/<name>.tiff`.
    - If `<source>` has the sub-folders `images` and `masks`, `images/<name>.jpg` becomes `images/<name>.tiff`. Its mask
      `masks/*<name>*` (PNG or TIFF) becomes a PNG of the same name: 255 where the mask was greater than 0, else 0.
    - `<target>/camera.json` is the camera, with the noise that was asked for.

    Mosaics have 16 bits, value / 65535. Existing files of these names are replaced, and other files stay.

    A picture is turned upright as its EXIF orientation says; a picture with a mask must be upright already. Alpha and
    color profiles are ignored, and the tone curve is assumed to be a gamma of 2.2. An odd height or width is cropped by
    one at the bottom or the right. Otherwise pictures keep their size. Brooks et al. halve theirs first, which removes
    the traces of noise, compression and the first demosaicing.

    Args:
        source: the folder of pictures.
        target: the folder to write to, outside `source`; made if it does not exist.
        camera: the camera whose mosaics are written.
        exposure: the factor on the light; at 1, a picture keeps its brightness. Light that exceeds the white level
            saturates, as white does where a gain is 1 and the black level is added. Less light leaves headroom.
        full_well: the electrons at which a site saturates; None is the camera's number, or else the default of
            `isp.sensor`.
        read_noise: the standard deviation of the read-out in electrons; None as for `full_well`.
        bits: the bits of the converter, 1 to 16; None as for `full_well`.
        seed: decides the noise. The noise of a picture depends only on the seed and on its path within `source`.

    Raises:
        InputError: a number is out of range, the camera cannot be inverted, the source holds no pictures, the target
            cannot be written or is inside the source, another program is writing to it, two pictures would become one
            file, or a picture has no mask or several. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    _check_settings(camera, exposure, full_well, read_noise, bits, seed)
    noise = {"full_well": full_well, "read_noise": read_noise, "bits": bits}
    camera = dataclasses.replace(camera, **{name: value for name, value in noise.items() if value is not None})
    jobs = _find_jobs(source, target)
    expose = functools.partial(
        _expose,
        camera=camera,
        exposure=exposure,
        **noise_of(camera)._asdict(),
    )

    # Whole pairs of rows and columns, so that a sensor without color filters has no strips of a single row.
    tile_rows, tile_cols = isp.cfa.tile(camera.pattern).shape
    tile = math.lcm(2, tile_rows), math.lcm(2, tile_cols)

    def run(_: object, job: _Job) -> np.ndarray:
        name = os.fsencode(job.picture.relative_to(source).as_posix())
        return _write(job, expose, tile, jax.random.fold_in(jax.random.key(seed), zlib.crc32(name)))

    with writing_to(target):
        # The lock clears the folder itself.
        for folder in {file.parent for job in jobs for file in (job.target, *(job.mask or ())[1:])}:
            clear_parts(folder)
        ended = worked(functools.partial(one_by_one, run), [[job] for job in jobs], SERIAL)
        counts, failed = finished(ended, jobs)
        try:
            with replacing(target / "camera.json") as part:
                # The mosaics that are written saturate at 65535, wherever the camera's own files do.
                part.write_text(dataclasses.replace(camera, white_level=None).to_json())
        except OSError as error:
            raise InputError(f"{target / 'camera.json'}: {error.strerror or error}") from None
    sites, too_bright, too_dark = np.sum([np.zeros(3), *counts.values()], 0).tolist()
    return Summary(len(counts), failed, too_bright / max(sites, 1), too_dark / max(sites, 1))


def _check_settings(
    camera: isp.Camera,
    exposure: float,
    full_well: float | None,
    read_noise: float | None,
    bits: int | None,
    seed: int,
) -> None:
    for name, value in (("exposure", exposure), ("full_well", full_well)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} must be finite and greater than 0, got {value:g}")
    if read_noise is not None and not 0 <= read_noise < math.inf:
        raise InputError(f"read_noise must be finite and not negative, got {read_noise:g}")
    if bits is not None and not 1 <= bits <= 16:
        raise InputError(f"bits must be between 1 and 16, got {bits}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be between 0 and {2**32 - 1}, got {seed}")
    try:
        check_invertible(camera)
    except ValueError as error:
        raise InputError(f"camera: {error}") from None


def _find_jobs(source: Path, target: Path) -> list[_Job]:
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"the output {target} must not be inside the input {source}: its files would become pictures")
    if (source / "images").is_dir() and (source / "masks").is_dir():
        jobs = [
            _Job(picture, target / "images" / f"{picture.stem}.tiff", (mask, target / "masks" / f"{mask.stem}.png"))
            for picture, mask in pair_masks(source / "images", source / "masks", PICTURE_SUFFIXES)
        ]
    else:
        pictures = sorted(
            path for path in source.glob("*/[!.]*") if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES
        )
        if not pictures:
            raise InputError(
                f"{source} must have a sub-folder of pictures ({', '.join(PICTURE_SUFFIXES)}) for each class, or "
                "images/ and masks/; found none"
            )
        jobs = [_Job(picture, target / picture.parent.name / f"{picture.stem}.tiff") for picture in pictures]
    refuse_shared_targets((job.picture, job.target) for job in jobs)
    return jobs


def _write(job: _Job, expose: _Expose, tile: tuple[int, int], key: PRNGKeyArray) -> Int[np.ndarray, "3"]:
    """Writes a picture's mask and mosaic; returns how many sites it has, and how many are too bright and too dark."""
    picture, turned = read_picture(job.picture)
    rows, cols = (size // 2 * 2 for size in picture.shape[:2])
    if 0 in (rows, cols):
        raise InputError(f"{job.picture} must be at least 2x2, got {picture.shape[0]}x{picture.shape[1]}")
    if job.mask is not None:
        mask_file, mask_target = job.mask
        if turned:
            raise InputError(f"{job.picture} is turned by its EXIF orientation, and its mask is not: save it upright")
        mask = read_mask(mask_file)
        if mask.shape != picture.shape[:2]:
            raise InputError(f"{mask_file} must have the size of {job.picture}, {picture.shape[:2]}, got {mask.shape}")
        with replacing(mask_target) as part:
            Image.fromarray(mask[:rows, :cols] * np.uint8(255)).save(part, format="png")
    with one_picture_at_a_time:
        raw, outside = _photograph(picture[:rows, :cols], expose, tile, key)
    with replacing(job.target) as part:
        tifffile.imwrite(part, raw, metadata=None)
    return np.array([raw.size, *outside])


def _photograph(
    picture: UInt[np.ndarray, "rows cols 3"], expose: _Expose, tile: tuple[int, int], key: PRNGKeyArray
) -> tuple[UInt16[np.ndarray, "rows cols"], Int[np.ndarray, "2"]]:
    """Exposes a picture block by block; returns its mosaic, and how many sites are too bright and too dark.

    Functions are compiled for each shape, and every picture may have its own. Because no site depends on another, the
    tiles of the color filter array can be laid side by side and cut into blocks of few shapes: the last block is filled
    up to a power of two. The picture itself is filled up to whole tiles.
    """
    (rows, cols, _), (high, wide) = picture.shape, tile
    picture = np.pad(picture, ((0, -rows % high), (0, -cols % wide), (0, 0)))
    across, most = picture.shape[1], _MOST // wide * wide
    strip = picture.reshape(-1, high, across, 3).swapaxes(0, 1).reshape(high, -1, 3)
    raws, outside = [], np.zeros(2, int)
    for number, start in enumerate(range(0, strip.shape[1], most)):
        block = strip[:, start : start + most]
        width = block.shape[1]
        filled = np.zeros((high, max(_FEWEST, 1 << (width - 1).bit_length()), 3), block.dtype)
        filled[:, :width] = block
        raw, counts = expose(filled, jax.random.fold_in(key, number))
        raws.append(np.asarray(raw)[:, :width])
        outside += np.asarray(counts)
    mosaic = np.concatenate(raws, 1).reshape(high, -1, across).swapaxes(0, 1).reshape(-1, across)
    return mosaic[:rows, :cols], outside


@functools.partial(jax.jit, static_argnames=("camera", "bits"))
def _expose(
    samples: UInt[Array | np.ndarray, "rows cols 3"],
    key: PRNGKeyArray,
    camera: isp.Camera,
    exposure: Float[Array, ""] | float,
    full_well: Float[Array, ""] | float,
    read_noise: Float[Array, ""] | float,
    bits: int,
) -> tuple[UInt16[Array, "rows cols"], Int[Array, "2"]]:
    """Computes the mosaic of a block of a picture, and counts the sites that are too bright and too dark."""
    rgb = samples / np.float32(np.iinfo(samples.dtype).max)
    light = exposure * site_light(isp.unprocess(rgb, camera), camera)
    raw = expose_sites(light, key, camera=camera, full_well=full_well, read_noise=read_noise, bits=bits)
    return jnp.round(raw * 65535).astype(jnp.uint16), jnp.stack([(light > 1).sum(), (light < 0).sum()])
