"""A raw data set out of pictures: what a camera's sensor would have seen, with its noise."""

import dataclasses
import functools
import math
import os
import pathlib
import threading
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageOps

import isp
from isp.sensor import expose_sites, site_light
from isp.unprocessing import check_invertible
from r2l_jax.data.files import tiles
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import each_file, replacing

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

# Columns of two rows each that go to the device at once, at least and at most: powers of two.
_FEWEST, _MOST = 2**9, 2**17

# Pillow's names of what it turns into RGB of 8 bits without loss.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# One picture at a time on the device, as in `render`.
_device = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of a folder.

    Attributes:
        written: how many pictures were.
        failed: how many were not, each reported.
        too_bright: the fraction of the sites written whose light exceeds the white level, which saturate.
        too_dark: the fraction whose light is below black, in colours outside the camera's gamut; they read as black.
    """

    written: int
    failed: int
    too_bright: float
    too_dark: float


@dataclasses.dataclass(frozen=True)
class _Job:
    """A picture, where its mosaic goes, and the same of its mask if it has one."""

    picture: pathlib.Path
    target: pathlib.Path
    mask: pathlib.Path | None = None
    mask_target: pathlib.Path | None = None


def unprocess_folder(
    source: str | os.PathLike,
    target: str | os.PathLike,
    camera: isp.Camera,
    *,
    exposure: float = 1.0,
    full_well: float = 15000.0,
    read_noise: float = 4.0,
    bits: int = 12,
    seed: int = 0,
) -> Summary:
    """Turns a folder of JPEG and PNG into a raw data set, in the layout of the data set "Folder".

    Each picture goes through `isp.unprocess` and is exposed by `isp.sensor`, several at once, with a progress
    bar on stderr. One that cannot be read is reported there, and the others are still written.

    - `<source>/<class>/<name>.jpg` (.jpeg, .png) becomes `<target>/<class>/<name>.tiff`.
    - If `<source>` has the sub-folders `images` and `masks`, `images/<name>.jpg` becomes `images/<name>.tiff`, and
      `masks/*<name>*`, its mask in PNG or TIFF, a PNG of the same name: 255 where it was greater than 0, else 0.
    - `<target>/camera.json` is the camera.

    Mosaics have 16 bits, value / 65535. Files of those names are replaced, whole files by whole ones; others stay.

    A picture is turned as its EXIF orientation says; one with a mask must not have to be. Alpha and colour profiles are
    ignored; the tone curve is taken to be a gamma of 2.2. An odd height or width is cropped by one at the bottom or the
    right. Else pictures keep their size: Brooks et al. halve theirs first, so that noise, compression and the first
    demosaicing leave no traces.

    Args:
        source: the folder of pictures.
        target: the folder to write to, outside of `source`; made if need be.
        camera: whose mosaics they shall be.
        exposure: factor on the light. At 1 a picture comes back as bright as it was. What exceeds the white level
            saturates, as white does where a gain is 1 and the black level comes on top: less light leaves headroom.
        full_well: electrons at which a site saturates.
        read_noise: standard deviation of the read-out, in electrons.
        bits: of the converter, 1 to 16.
        seed: of the noise. That of a picture depends on the seed and on its path within `source`, and on nothing else.

    Raises:
        InputError: a number out of range, a camera that cannot be undone, a folder without pictures or that cannot be
            written to, `target` within `source`, two pictures that would become one file, or a picture without a mask
            or with several; nothing is written then.
    """
    for name, value in (("exposure", exposure), ("full_well", full_well)):
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be finite and greater than 0, got {value:g}")
    if not 0 <= read_noise < math.inf:
        raise InputError(f"read_noise must be finite and not negative, got {read_noise:g}")
    if not 1 <= bits <= 16:
        raise InputError(f"bits must be between 1 and 16, got {bits}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be between 0 and {2**32 - 1}, got {seed}")
    try:
        check_invertible(camera)
    except ValueError as error:
        raise InputError(f"camera: {error}") from None
    expose = functools.partial(
        _expose, camera=camera, exposure=exposure, full_well=full_well, read_noise=read_noise, bits=bits
    )
    source, target = pathlib.Path(source), pathlib.Path(target)
    jobs = _find_jobs(source, target)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: not a folder to write to ({error.strerror})") from None

    def run(job: _Job) -> np.ndarray:
        name = os.fsencode(job.picture.relative_to(source).as_posix())
        return _write(job, expose, jax.random.fold_in(jax.random.key(seed), zlib.crc32(name)))

    counts = each_file(run, jobs)
    try:
        with replacing(target / "camera.json") as part:
            part.write_text(camera.to_json())
    except OSError as error:
        raise InputError(f"{target / 'camera.json'}: {error.strerror or error}") from None
    sites, *outside = np.sum([np.zeros(3), *counts], 0).tolist()
    return Summary(len(counts), len(jobs) - len(counts), *(number / max(sites, 1) for number in outside))


def _find_jobs(source, target):
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"the output {target} must not lie in the input {source}, where it would be found as pictures")
    if (source / "images").is_dir() and (source / "masks").is_dir():
        jobs = [
            _Job(picture, target / "images" / f"{picture.stem}.tiff", mask, target / "masks" / f"{mask.stem}.png")
            for picture, mask in tiles.pair_masks(source / "images", source / "masks", PICTURE_SUFFIXES)
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
    made_of = {}
    for job in jobs:
        if (other := made_of.setdefault(job.target, job.picture)) is not job.picture:
            raise InputError(f"{other} and {job.picture} would both be written to {job.target}")
    return jobs


def _write(job, expose, key):
    """Writes a picture's mosaic, and before it its mask; counts its sites, those too bright and those too dark."""
    picture, turned = _read_picture(job.picture)
    rows, cols = (size // 2 * 2 for size in picture.shape[:2])
    if 0 in (rows, cols):
        raise InputError(f"{job.picture} must be at least 2x2, got {picture.shape[0]}x{picture.shape[1]}")
    if job.mask is not None:
        if turned:
            raise InputError(f"{job.picture} is turned by its EXIF orientation, and its mask is not: save it upright")
        mask = tiles.read_mask(job.mask)
        if mask.shape != picture.shape[:2]:
            raise InputError(f"{job.mask} must be of the size of {job.picture}, {picture.shape[:2]}, got {mask.shape}")
        with replacing(job.mask_target) as part:
            Image.fromarray(mask[:rows, :cols] * np.uint8(255)).save(part, format="png")
    with _device:
        raw, outside = _photograph(picture[:rows, :cols], expose, key)
    with replacing(job.target) as part:
        tifffile.imwrite(part, raw, metadata=None)
    return np.array([raw.size, *outside])


def _read_picture(path):
    """The samples `(H, W, 3)` of a picture, uint8 or uint16, upright; and whether it had to be turned for that."""
    try:
        with Image.open(path) as image:
            # Of a PNG's colours of 16 bits, pillow reads the upper 8 and does not tell.
            if image.format == "PNG" and image.mode != "I;16" and _png_bits(path) == 16:
                raise InputError("a PNG of 16 bits must be grey: pillow cuts its colours to 8 bits; save it with 8")
            if image.mode not in (*_MODES, "I;16"):
                raise InputError(f"expected a picture of 8 bits a channel, or grey of 16, got one of mode {image.mode}")
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            image = ImageOps.exif_transpose(image)
            if image.mode == "I;16":  # of which pillow's conversion clips at 255
                return np.repeat(np.asarray(image)[..., None], 3, -1), turned
            if image.mode == "P":  # which pillow wants to go by RGBA if it has several transparent colours
                image = image.convert("RGBA")
            return np.asarray(image.convert("RGB")), turned
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # The decoders raise anything on a damaged file: OSError, SyntaxError, struct.error, ...
        raise InputError(f"{path}: truncated, corrupt or no picture ({' '.join(str(error).split())})") from None


def _png_bits(path):
    with path.open("rb") as file:
        return file.read(25)[24]


def _photograph(picture, expose, key):
    """The mosaic `(H, W)` uint16 of a picture's samples `(H, W, 3)`, and how many sites are too bright and too dark.

    No site depends on another, but functions are compiled for each shape, and every picture may have its own. So the
    tiles of the CFA are laid side by side and cut into blocks, of which the last is filled up to a power of two.
    """
    rows, cols, _ = picture.shape
    strip = picture.reshape(rows // 2, 2, cols, 3).swapaxes(0, 1).reshape(2, -1, 3)
    raws, outside = [], np.zeros(2, int)
    for number, start in enumerate(range(0, strip.shape[1], _MOST)):
        block = strip[:, start : start + _MOST]
        width = block.shape[1]
        filled = np.zeros((2, max(_FEWEST, 1 << (width - 1).bit_length()), 3), block.dtype)
        filled[:, :width] = block
        raw, counts = expose(filled, jax.random.fold_in(key, number))
        raws.append(np.asarray(raw)[:, :width])
        outside += counts
    return np.concatenate(raws, 1).reshape(2, rows // 2, cols).swapaxes(0, 1).reshape(rows, cols), outside


@functools.partial(jax.jit, static_argnames=("camera", "bits"))
def _expose(samples, key, camera, exposure, **sensor):
    """The mosaic uint16 of an image's samples, and how many sites are too bright and too dark."""
    rgb = samples / np.float32(np.iinfo(samples.dtype).max)
    light = exposure * site_light(isp.unprocess(rgb, camera), camera)
    raw = expose_sites(light, key, camera=camera, **sensor)
    return jnp.round(raw * 65535).astype(jnp.uint16), jnp.stack([(light > 1).sum(), (light < 0).sum()])
