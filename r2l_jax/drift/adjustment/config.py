"""The settings of the two ways of drift adjustment."""

import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING, Any

from r2l_jax.config import PIPELINE_NAMES, FinishedRun
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import NOT_NEGATIVE, POSITIVE, Bound, Settings, setting

if TYPE_CHECKING:
    from r2l_jax.drift.cases import Case
else:
    Case = Any  # to import it takes longer than a program's help may

# The exposures that searches start at, in stops; a smaller number of starts takes the first of them.
STOPS = (0, 1, 2, 3, 4, 5, 6, -1, -2)

# The name of the drift to real data that was photographed anew.
DATA = "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationSettings(Settings):
    """With --mode=adapt, the searches.

    Raises:
        InputError: a value is out of range.
    """

    labeled: int = setting("how many labeled images to adapt with", 32, bound=POSITIVE, former="labelled")
    parameters: tuple[str, ...] = setting(
        "parameters to adapt, or all; default: all that are tuned by hand (isp.Parameter)", ()
    )
    starts: int = setting(f"exposures to search from, the first of {STOPS} stops", 6, bound=POSITIVE)
    steps: int = setting("steps of each search", 120, bound=POSITIVE)
    lr: float = setting(
        "about how far a parameter moves in a step, as a fraction of its natural range", 0.01, bound=POSITIVE
    )
    batch_size: int = setting("samples at once, and in a step of one search", 16, bound=POSITIVE)
    track_n_images: int = setting("how many samples the pictures show", 5, bound=POSITIVE)
    seed: int = setting("the seed of the labeled images, the batches and the noise", 0, bound=NOT_NEGATIVE)

    def __post_init__(self):
        super().__post_init__()
        if self.starts > len(STOPS):
            raise InputError(f"--starts must be at most {len(STOPS)}, got {self.starts}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationConfig(FinishedRun):
    """With --mode=adapt.

    Raises:
        InputError: a value is unknown or out of range.
    """

    intensities: tuple[float, ...] = setting("adapt to other measured intensities", ())
    exposures: tuple[float, ...] = setting("adapt to exposures by the model of the sensor, as factors on the light", ())
    pipelines: tuple[str, ...] = setting(
        f"adapt other pipelines, at the camera's calibration, to the head: {PIPELINE_NAMES}", ()
    )
    cameras: tuple[str, ...] = setting(
        "adapt to pictures that other cameras take of the scenes: drone, microscopy, JSON files", ()
    )
    drifted_data_dir: str | None = setting("adapt to other data of the same classes, such as another Folder", None)
    drifted_camera: str | None = setting("for --drifted_data_dir: its camera, as train.py's --camera", None)
    searches: AdaptationSettings = AdaptationSettings()
    results = "adjustment"

    def __post_init__(self):
        super().__post_init__()
        if self.drifted_camera and not self.drifted_data_dir:
            raise InputError("--drifted_camera is the camera of --drifted_data_dir: give --drifted_data_dir as well")
        if len({camera_title(name) for name in self.cameras}) < len(set(self.cameras)):
            raise InputError(f"--cameras: two of {', '.join(self.cameras)} have one name")
        if not self.drifts:
            raise InputError(
                "no drift to adapt to: give --intensities, --exposures, --pipelines, --cameras or --drifted_data_dir"
            )

    @functools.cached_property
    def drifts(self) -> tuple[Case, ...]:
        """The drifts, each once."""
        from r2l_jax.drift import cases

        known = [
            *cases.intensities(self.intensities),
            *cases.exposures(self.exposures),
            *cases.pipelines(self.pipelines),
            *(cases.Case(camera_title(name), "cameras") for name in self.cameras),
            *([cases.Case(DATA, DATA)] if self.drifted_data_dir else []),
        ]
        return tuple(dict.fromkeys(known))


def camera_title(name: str) -> str:
    """Returns the name of the drift to another camera, from the camera's name or its file."""
    return f"camera={pathlib.Path(name).stem}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningConfig(FinishedRun):
    """With --mode=learn.

    Raises:
        InputError: a value is out of range.
    """

    target_score: float = setting(
        "the score whose time is reported", 0.8, bound=Bound(lambda value: 0 < value <= 1, "be in (0, 1]")
    )
    results = "adjustment"
