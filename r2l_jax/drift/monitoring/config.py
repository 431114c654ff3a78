"""Declares the settings of monitoring."""

import dataclasses

import msgspec

from r2l_jax.cli.flags import FRACTION, NOT_NEGATIVE, POSITIVE, setting
from r2l_jax.config import FinishedRun
from r2l_jax.data.files import remote
from r2l_jax.errors import InputError

BY = ("day", "model", "folder")
ALARMS = ("drift", "loss")

# A window of fewer images is not tested.
LEAST_WINDOW = 8

_WINDOW = msgspec.Meta(ge=LEAST_WINDOW)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorConfig(FinishedRun):
    """Monitoring.

    Raises:
        InputError: a value is out of range.
    """

    input: tuple[str, ...] = setting(
        f"new raw files, folders, and folders of folders, separated by commas, each "
        f"{remote.BY_URL}; default: only store the reference",
        (),
        kind="repeated",
    )
    camera: str | None = setting(
        "drone, microscopy, a JSON file, or auto: each file's own calibration; default: auto for camera "
        "formats, and the training camera for TIFF, PNG, PGM, NPY, CZI and ND2",
        None,
        needs="input",
    )
    by: str | None = setting(
        "form windows of images from the same day, camera model or folder; default: of all images, in the order of "
        "--input",
        None,
        choices=BY,
        needs="input",
    )
    group: str | None = setting(
        "which new images depend on each other: folder, a pattern or a CSV file, as for train.py, and '(.+)' if none "
        "does; default: the images of a window are one group if the reference has fewer groups than images",
        None,
        needs="input",
    )
    window: int = setting("images per window", 64, bound=_WINDOW, needs="input")
    alarm: str = setting(
        "drift: an alarm on any drift; loss: only where the expected loss exceeds --tolerance with confidence, or is "
        "unknown",
        "drift",
        choices=ALARMS,
        needs="input",
    )
    tolerance: float = setting(
        "tolerated loss of the score, in points (hundredths)", 2.0, bound=NOT_NEGATIVE, needs="alarm=loss"
    )
    accept: bool = setting(
        "accept the camera of --input: store these images as the reference, and keep the old one beside it",
        False,
        needs="input !follow",
    )
    level: float = setting(
        "probability of a false alarm in any of the windows", 0.05, bound=FRACTION, needs="input !follow"
    )
    follow: bool = setting("monitor the folders of --input for new files until the program is interrupted", False)
    false_alarm_every: int = setting(
        "with --follow, the mean number of windows until a false alarm", 1000, bound=POSITIVE, needs="input follow"
    )
    output: str | None = setting("folder for the results; default: one in the run's folder", None, needs="input")
    results = "monitor"

    def __post_init__(self):
        super().__post_init__()
        if self.follow and not self.input:
            raise InputError("`follow` monitors folders: give them with `input`")
