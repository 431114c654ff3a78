"""Turns a folder of pictures into a raw data set: the raw images that a camera's sensor would have recorded."""

import dataclasses
import os
from pathlib import Path

import isp
import isp.unprocessing
from r2l_jax.data.unprocessing import Summary, find_jobs, write_mosaics
from r2l_jax.errors import InputError
from r2l_jax.results.files import clear_parts, refuse_shared_targets
from r2l_jax.results.locks import writing_to


def unprocess_folder(
    source: str | os.PathLike,
    target: str | os.PathLike,
    camera: isp.Camera,
    *,
    exposure: float = 1.0,
    seed: int = 0,
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

    Raw images have 16 bits, value / 65535. Existing files of these names are replaced, and other files stay.

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
        seed: decides the noise. The noise of a picture depends only on the seed and on its path within `source`.
        noise: `full_well`, `read_noise` and `bits` in place of the camera's, see `isp.Camera`; None for the camera's.

    Raises:
        InputError: the camera is not valid or cannot be inverted, the source holds no pictures, the target cannot be
            written or is inside the source, another program is writing to it, two pictures would become one file, or a
            picture has no mask or several. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    given = {name: value for name, value in noise.items() if value is not None}
    try:
        camera = dataclasses.replace(camera, **given)
        isp.unprocessing.check_invertible(camera)
    except ValueError as error:
        raise InputError(f"camera: {error}") from None
    jobs = find_jobs(source)
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"the output {target} must not be inside the input {source}: its files would become inputs")
    refuse_shared_targets((job.picture, target / job.target) for job in jobs)
    with writing_to(target):
        # The lock clears the folder itself.
        for folder in {(target / file).parent for job in jobs for file in (job.target, *(job.mask or ())[1:])}:
            clear_parts(folder, 0.0)
        return write_mosaics(source, target, jobs, camera, exposure, seed)
