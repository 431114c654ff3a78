"""Turns a folder of JPEG and PNG pictures into a raw data set, with the noise of a camera's sensor.

python scripts/unprocess.py --input=photos --output=raw_photos --camera=drone --exposure=0.9
python scripts/train.py --dataset=Folder --data_dir=raw_photos --camera=raw_photos/camera.json

The input has one sub-folder per class, or images/ and masks/. The output has the same folders, with 16-bit TIFF or DNG
instead of the pictures, camera.json, croissant.json and a card (README.md). The exit status is 1 if any picture could
not be read.
"""

import dataclasses

from r2l_jax.cli.flags import POSITIVE, SEED, Settings, setting
from r2l_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnprocessConfig(Settings):
    """Raw images."""

    input: str = setting("folder of pictures: one sub-folder per class, or images/ and masks/")
    output: str = setting("folder for the raw images, outside of the input")
    camera: str = setting("drone, microscopy or a JSON file with a camera's calibration")
    exposure: float = setting("factor on the light; below 1 leaves headroom for highlights", 1.0, bound=POSITIVE)
    full_well: float | None = setting(
        "electrons at which a site saturates; fewer electrons mean more noise; default: the camera's, or 15000", None
    )
    read_noise: float | None = setting(
        "standard deviation of the read noise, in electrons; default: the camera's, or 4", None
    )
    bits: int | None = setting("bits of the analog-to-digital converter, 1 to 16; default: the camera's, or 12", None)
    format: str = setting(
        "tiff: 16-bit TIFF; dng: DNG, which holds the camera and opens in raw converters",
        "tiff",
        choices=("tiff", "dng"),
    )
    seed: int = setting("the seed of the noise", 0, bound=SEED)


def main(config: UnprocessConfig) -> int:
    """Writes the raw images that the flags ask for, and returns the exit status."""
    from isp.sensor import Noise, noise_of
    from r2l_jax.apps.unprocess import unprocess_folder
    from r2l_jax.data.files.known_camera import find_camera

    camera = find_camera(config.camera)
    if camera is None:
        raise InputError("`camera=auto`: pictures contain no calibration; name a camera or a JSON file")
    given = {name: getattr(config, name) for name in Noise._fields}
    how = {"exposure": config.exposure, "seed": config.seed, "format": config.format}
    summary = unprocess_folder(config.input, config.output, camera, **how, **given)
    print(
        f"{summary.written} written, {summary.failed} failed; {summary.too_bright:.2%} of the sites are saturated, and "
        f"{summary.too_dark:.2%} are black because their color is outside the camera's gamut"
    )
    noise = noise_of(camera)._replace(**{name: value for name, value in given.items() if value is not None})
    if noise != (1e9, 0, 16):
        print(
            f"added the noise of a full well of {noise.full_well:g} electrons, read noise of {noise.read_noise:g} "
            f"electrons and {noise.bits} bits; without noise: --full_well=1e9 --read_noise=0 --bits=16"
        )
    return 1 if summary.failed else 0
