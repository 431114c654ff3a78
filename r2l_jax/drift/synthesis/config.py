"""The settings of the programs that test models under drift and write sets of pictures."""

import dataclasses
import functools
import math
import os
import pathlib
from typing import TYPE_CHECKING, Any

from r2l_jax import jobs
from r2l_jax.cli.flags import FRACTION, NOT_NEGATIVE, POSITIVE, SEED, Settings, setting
from r2l_jax.config import CHECKPOINTS, CODE, NOT_OF_TRAINING, WHICH_CHECKPOINT, FinishedRun
from r2l_jax.data.settings import DataSettings
from r2l_jax.errors import InputError
from r2l_jax.model.settings import PIPELINE_NAMES
from r2l_jax.names import (
    BY_SHOT,
    CAMERAS_HELP,
    CHANGES,
    CORRUPTIONS,
    DRIFTS,
    INTENSITIES,
    PUBLISHED_PIPELINES,
    SENSOR,
    SENSOR_HELP,
    SEVERITIES,
    SHOT_FIELDS,
)
from r2l_jax.results.files import common_folder

if TYPE_CHECKING:
    from r2l_jax.drift.cases import Case
else:
    Case = Any  # importing it would delay a program's help

_SEVERITIES = f"severities of the corruptions and of the sensor drifts: {', '.join(map(str, SEVERITIES))}"

# The folder for the comparison of a run with runs inside its own folder, such as adapted ones.
TOGETHER = "together"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvelopeSettings(Settings):
    """Operating envelope.

    Raises:
        InputError: a value is unknown or out of range, or the draws cannot show the fraction.
    """

    envelope: str | None = setting(
        "state the fraction of cameras that a run, or a group of seeds, tolerates, from cameras drawn within these "
        'limits: a JSON file such as {"exposure": [-1, 0.3]}, or default',
        None,
    )
    draws: int | None = setting(
        "cameras to draw; default: the fewest that can show the fraction",
        None,
        bound=POSITIVE,
        rare=True,
        needs="envelope",
    )
    confidence: float = setting(
        "confidence of the statement, for images, cameras and proposals together",
        0.95,
        bound=FRACTION,
        rare=True,
        needs="envelope",
    )
    fraction: float = setting(
        "fraction of the cameras that must not fail", 0.95, bound=FRACTION, rare=True, needs="envelope"
    )
    tolerance: float = setting(
        "a camera fails unless the images show that the score drops by at most so many points (hundredths)",
        2.0,
        bound=POSITIVE,
        needs="envelope",
    )
    proposals: int = setting(
        "smaller envelopes to propose and test if the statement does not hold",
        3,
        bound=NOT_NEGATIVE,
        rare=True,
        needs="envelope",
    )
    stop_early: bool = setting("stop drawing once too many cameras have failed", False, rare=True, needs="envelope")

    def __post_init__(self):
        super().__post_init__()
        if self.cameras < self._least:
            raise InputError(
                f"`draws={self.draws}` cannot show `fraction={self.fraction:g}` with `confidence={self.confidence:g}`: "
                f"that takes {self._least} even if no camera fails"
            )

    @property
    def cameras(self) -> int:
        """The number of cameras to draw within the given limits."""
        return self._least if self.draws is None else self.draws

    @property
    def _least(self) -> int:
        # With n draws and no failure, the fraction is at least error ** (1 / n).
        return math.ceil(math.log(self.errors[1]) / math.log(self.fraction))

    @property
    def errors(self) -> tuple[float, float, float]:
        """The parts of the allowed error: of the images, of cameras within the given limits, and within all proposals.

        Images have most of it, as more of them are harder to get than more cameras.
        """
        cameras = 0.2 * (1 - self.confidence)
        given = cameras / 2 if self.proposals else cameras
        return 1 - self.confidence - cameras, given, cameras - given


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """Evaluation.

    Raises:
        InputError: a value is unknown or out of range.
    """

    run: tuple[str, ...] = setting(
        "folders of finished runs, of groups of seeds, or of folds, separated by commas", kind="repeated"
    )
    about: str | None = setting(
        "whether confidence intervals are about the training recipe (other seeds and samples) or about these models "
        "(other samples); default: recipe for a group of seeds, else model",
        None,
        choices=("recipe", "model"),
        needs="!envelope",
    )
    against: tuple[str, ...] = setting(
        f"kinds of drift to test against, some of {', '.join(DRIFTS)}",
        ("pipelines", "corruptions"),
        each=DRIFTS,
        needs="!envelope",
    )
    pipelines: tuple[str, ...] = setting(
        f"other pipelines: {PIPELINE_NAMES}", PUBLISHED_PIPELINES, needs="against=pipelines !envelope"
    )
    intensities: tuple[float, ...] = setting(
        "other measured intensities", INTENSITIES, needs="against=intensities !envelope"
    )
    exposures: tuple[float, ...] = setting(
        "simulated exposures, as factors on the light; for any raw data",
        INTENSITIES[:-1],
        needs="against=exposures !envelope",
    )
    sensor: tuple[str, ...] = setting(SENSOR_HELP, (*SENSOR,), kind="states", needs="against=sensor !envelope")
    cameras: tuple[str, ...] = setting(f"{CAMERAS_HELP}; with --envelope, check whether they are inside", ())
    corruptions: tuple[str, ...] = setting(
        f"corruptions of the processed images, some of {', '.join(CORRUPTIONS)}",
        CHANGES,
        needs="against=corruptions !envelope",
    )
    severities: tuple[int, ...] = setting(_SEVERITIES, SEVERITIES, needs="against=sensor|corruptions !envelope")
    checkpoint: str = setting(WHICH_CHECKPOINT, "best", choices=CHECKPOINTS)
    data_dir: str | None = setting("folder of the data set; default: where it was in training", None)
    output: str | None = setting(
        "folder for the results; default: evaluation in the run's folder, or in the innermost folder that holds all "
        "runs",
        None,
    )
    code: tuple[str, ...] = setting(CODE, ())
    by: tuple[str, ...] = setting(BY_SHOT, (), each=SHOT_FIELDS, needs="!envelope")
    as_published: bool = setting(
        "also give the study's log ratio of the drops under corruptions and pipelines",
        False,
        rare=True,
        needs="against=pipelines against=corruptions !envelope",
    )
    batch_size: int = setting("samples at once, over all devices; results do not depend on it", 32, bound=POSITIVE)
    seed: int = setting(
        f"the seed of the noise of exposures, sensors and corruptions{NOT_OF_TRAINING}",
        0,
        bound=SEED,
        needs="against=exposures|sensor|cameras|corruptions",
    )

    sheet: str | None = setting(
        "only draw one sample in all cases of this group of --against, side by side in a PNG file",
        None,
        choices=DRIFTS,
        needs="!envelope",
    )
    limits: EnvelopeSettings = EnvelopeSettings()

    def __post_init__(self):
        super().__post_init__()
        if self.sheet not in (None, *self.against):
            raise InputError(f"`sheet={self.sheet}` needs `against={self.sheet}`")
        graded = ["severities"] if {"sensor", "corruptions"}.intersection(self.against) else []
        if self.cameras and "cameras" not in self.against and self.limits.envelope is None:
            raise InputError("`cameras` has no effect without `against=cameras` or `envelope`")
        for name in ("run", "against", *self.against, *graded):
            if not getattr(self, name):
                raise InputError(f"`{name}` is empty")
        _ = self.cases

    @functools.cached_property
    def cases(self) -> tuple[Case, ...]:
        """The cases, each once; the runs' clean images come first."""
        from r2l_jax.drift import cases

        known = {
            "pipelines": cases.pipelines(self.pipelines),
            "intensities": cases.intensities(self.intensities),
            "exposures": cases.exposures(self.exposures),
            "sensor": cases.sensor(self.sensor, self.severities),
            "cameras": cases.cameras(self.cameras),
            "corruptions": cases.corruptions(self.corruptions, self.severities),
        }
        chosen = [case for group in DRIFTS if group in self.against for case in known[group]]
        return tuple(dict.fromkeys([cases.CLEAN, *chosen]))

    def of_run(self, uri: str) -> FinishedRun:
        """Returns the settings that open a run or a group of seeds."""
        return FinishedRun(run=uri, data_dir=self.data_dir, checkpoint=self.checkpoint, code=self.code)

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of the results: by default `evaluation` in the run's folder, or in the innermost one of all runs.

        If that is the folder of one of the runs, whose summary is there, the comparison is in `TOGETHER` below it.
        """
        if self.output:
            return pathlib.Path(self.output)
        if len(self.run) == 1:
            return pathlib.Path(self.run[0]) / "evaluation"
        common = common_folder(self.run)
        is_run = os.path.abspath(common) in map(os.path.abspath, self.run)
        return common / "evaluation" / (TOGETHER if is_run else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesisConfig(DataSettings):
    """Sets of pictures.

    Raises:
        InputError: a value is unknown or out of range.
    """

    output: str = setting("folder for the sets")
    pipelines: tuple[str, ...] = setting(PIPELINE_NAMES, ("parametrized",), needs="!pipeline")
    pipeline: str | None = setting("a single pipeline, in place of --pipelines", None)
    intensities: tuple[float, ...] | None = setting(
        f"measured intensities, some of {', '.join(map('{:g}'.format, INTENSITIES))}; default: 1; a Folder has one",
        None,
    )
    exposures: tuple[float, ...] = setting(
        "simulated exposures, as factors on the light of the raw images at full intensity, or of a Folder's",
        (),
    )
    sensor: tuple[str, ...] = setting(f"{SENSOR_HELP}; on raw images as for exposures", (), kind="states")
    cameras: tuple[str, ...] = setting(f"{CAMERAS_HELP}; on raw images as for exposures", ())
    corruptions: tuple[str, ...] = setting(
        f"corruptions to add to the uncorrupted set, some of {', '.join(CORRUPTIONS)}", ()
    )
    severities: tuple[int, ...] = setting(_SEVERITIES, SEVERITIES, needs="sensor|corruptions")
    half_size: bool = setting("demosaic at half the size, as with --half_size of scripts/train.py", False)
    format: str = setting("16-bit TIFF or 8-bit PNG", "tiff", choices=("tiff", "png"))
    seed: int = setting(
        "the seed of the noise of exposures, sensors and corruptions",
        0,
        bound=SEED,
        needs="exposures|sensor|cameras|corruptions",
    )
    scheduler: str = setting(jobs.SETTING, "serial")

    def __post_init__(self):
        super().__post_init__()
        if self.dataset == "Folder" and self.intensities is not None:
            raise InputError("`intensities`: a Folder has only one intensity; `exposures` simulates others")
        for name in ("pipelines", *(["severities"] if self.corruptions or self.sensor else [])):
            if not getattr(self, name):
                raise InputError(f"`{name}` is empty")
        if not self.sets:
            raise InputError("`intensities`, `exposures`, `sensor` and `cameras` are all empty")

    @functools.cached_property
    def sets(self) -> tuple[Case, ...]:
        """The sets of all pipelines, acquisitions and corruptions, including uncorrupted sets; each once.

        Exposures, sensor drifts and other cameras start from the raw images at full intensity, or from a Folder's. The
        name of a set is its path in the output folder.
        """
        from r2l_jax.drift import cases

        own = self.dataset == "Folder"
        measured = [cases.CLEAN] if own else cases.intensities((1.0,) if self.intensities is None else self.intensities)
        names = (self.pipeline,) if self.pipeline is not None else self.pipelines
        computed = [*cases.exposures(self.exposures), *cases.sensor(self.sensor, self.severities)]
        uncorrupted = cases.CLEAN._replace(name="uncorrupted")
        sets = [
            acquisition._replace(
                name=f"{processing.name}/{acquisition.name}/{corrupted.name}",
                pipeline=processing.pipeline,
                corruption=corrupted.corruption,
            )
            for acquisition in [*measured, *computed, *cases.cameras(self.cameras)]
            for processing in cases.pipelines(names, self.half_size)
            for corrupted in [uncorrupted, *cases.corruptions(self.corruptions, self.severities)]
        ]
        return tuple(dict.fromkeys(sets))
