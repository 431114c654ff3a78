"""Measures a camera's sensor: black level, gain, noise, uneven response, and defective sites.

python scripts/calibrate.py --dark=darks --flat=flats --output=my_camera
python scripts/calibrate.py --dark=darks --flat=dim,medium,bright --camera=base.json --output=my_camera

Dark frames are taken without light, and flat frames show an evenly lit surface, at least two per exposure. The output
holds camera.json with the measured values, the corrections that it names (dark.tiff, flat.tiff, defects.csv), and the
photon transfer curve of EMVA Standard 1288 (photon_transfer.json and .png).
"""

import dataclasses

from r2l_jax.cli.flags import POSITIVE, Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationConfig(Settings):
    """Calibration."""

    dark: tuple[str, ...] = setting("frames without light: raw files and folders, separated by commas", kind="repeated")
    flat: tuple[str, ...] = setting(
        "frames of an evenly lit surface, given in the same way; frames with about the same mean are one exposure",
        kind="repeated",
    )
    output: str = setting("folder for the camera and its corrections")
    camera: str = setting(
        "source of the values that frames do not show: drone, microscopy, a JSON file, or auto for the raw files",
        "auto",
    )
    threshold: float = setting(
        "standard deviations by which a defective site differs from its neighbors",
        6.0,
        bound=POSITIVE,
    )


def main(config: CalibrationConfig) -> None:
    """Measures the frames that the flags name."""
    from r2l_jax.apps.calibrate import calibrate, summary

    print(summary(calibrate(config.dark, config.flat, config.output, config.camera, config.threshold)))
