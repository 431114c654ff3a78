"""The settings of the programs that test models under drift and write sets of pictures."""

import dataclasses
import functools
import math
import os
import pathlib

from r2l_jax import jobs
from r2l_jax.cli.flags import FRACTION, NOT_NEGATIVE, POSITIVE, SEED, Settings, setting
from r2l_jax.config import CHECKPOINTS, CODE, NOT_OF_TRAINING, WHICH_CHECKPOINT, FinishedRun
from r2l_jax.data.settings import DataSettings
from r2l_jax.drift.settings import Case, ImageDriftSettings, with_changes
from r2l_jax.errors import InputError
from r2l_jax.names import BY_SHOT, CHANGES, DRIFTS, INTENSITIES, PUBLISHED_PIPELINES, SENSOR, SEVERITIES, SHOT_FIELDS
from r2l_jax.results.files import common_folder

# The folder for the comparison of a run with runs inside its own folder, such as adapted ones.
TOGETHER = "together"


# The other flags of an envelope have an effect only with it.
_of_envelope = functools.partial(setting, needs="envelope")


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
    draws: int | None = _of_envelope(
        "cameras to draw; default: the fewest that can show the fraction", None, bound=POSITIVE, rare=True
    )
    confidence: float = _of_envelope(
        "confidence of the statement, for images, cameras and proposals together", 0.95, bound=FRACTION, rare=True
    )
    fraction: float = _of_envelope("fraction of the cameras that must not fail", 0.95, bound=FRACTION, rare=True)
    tolerance: float = _of_envelope(
        "a camera fails unless the images show that the score drops by at most so many points (hundredths)",
        2.0,
        bound=POSITIVE,
    )
    proposals: int = _of_envelope(
        "smaller envelopes to propose and test if the statement does not hold", 3, bound=NOT_NEGATIVE, rare=True
    )
    stop_early: bool = _of_envelope("stop drawing once too many cameras have failed", False, rare=True)

    def __post_init__(self):
        super().__post_init__()
        if self.cameras < self._least:
            raise InputError(
                f"`draws={self.draws}` cannot show `fraction={self.fraction:g}` with `confidence={self.confidence:g}`: "
                f"that takes {self._least} even if no camera fails"
            )

    @property
    def allowed(self) -> float:
        """The tolerance as a difference of scores, which are fractions."""
        return self.tolerance / 100

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
class FinishedRuns(Settings):
    """Finished runs."""

    run: tuple[str, ...] = setting(
        "folders of finished runs, of groups of seeds, or of folds, separated by commas", kind="repeated"
    )
    checkpoint: str = setting(WHICH_CHECKPOINT, "best", choices=CHECKPOINTS)
    data_dir: str | None = setting("folder of the data set; default: where it was in training", None)
    output: str | None = setting(
        "folder for the results; default: evaluation in the run's folder, or in the innermost folder that holds all "
        "runs",
        None,
    )
    code: tuple[str, ...] = setting(CODE, ())


_EvaluatedDrifts = with_changes(
    ImageDriftSettings,
    pipelines=(PUBLISHED_PIPELINES, "against=pipelines !envelope"),
    intensities=(INTENSITIES, "against=intensities !envelope"),
    exposures=(INTENSITIES[:-1], "against=exposures !envelope"),
    sensor=((*SENSOR,), "against=sensor !envelope"),
    severities=(SEVERITIES, "against=sensor|corruptions !envelope"),
    corruptions=(CHANGES, "against=corruptions !envelope"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(_EvaluatedDrifts, FinishedRuns):
    """Evaluation.

    Raises:
        InputError: a value is unknown or out of range.
    """

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

        known = self.known_cases
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


_SynthesizedDrifts = with_changes(
    ImageDriftSettings,
    pipelines=(("parametrized",), "!pipeline !format=dng"),
    intensities=((1.0,), ""),
    severities=(SEVERITIES, "sensor|corruptions"),
    corruptions=((), "!format=dng"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesisConfig(_SynthesizedDrifts, DataSettings):
    """Sets of pictures.

    Raises:
        InputError: a value is unknown or out of range.
    """

    output: str = setting("folder for the sets")
    pipeline: str | None = setting("a single pipeline, in place of --pipelines", None, needs="!format=dng")
    half_size: bool = setting("demosaic at half the size, like --half_size of train.py", False, needs="!format=dng")
    format: str = setting(
        "tiff: 16-bit TIFF; png: 8-bit PNG; dng: 16-bit DNG of the raw images, without pipelines and corruptions",
        "tiff",
        choices=("tiff", "png", "dng"),
    )
    seed: int = setting(
        "the seed of the noise of exposures, sensors and corruptions",
        0,
        bound=SEED,
        needs="exposures|sensor|cameras|corruptions",
    )
    scheduler: str = setting(jobs.SETTING, "serial")

    def __post_init__(self):
        super().__post_init__()
        if not self.has_intensities and self.intensities not in ((), (1.0,)):
            raise InputError("`intensities`: this data set has only one intensity; `exposures` simulates others")
        for name in ("pipelines", *(["severities"] if self.corruptions or self.sensor else [])):
            if not getattr(self, name):
                raise InputError(f"`{name}` is empty")
        if not self.sets:
            raise InputError("`intensities`, `exposures`, `sensor` and `cameras` are all empty")

    @functools.cached_property
    def sets(self) -> tuple[Case, ...]:
        """The sets of all pipelines, acquisitions and corruptions, including uncorrupted sets; each once.

        Exposures, sensor drifts and other cameras start from the raw images at full intensity, or from a Folder's. The
        name of a set is its path in the output folder. Raw images have "raw" in place of a pipeline.
        """
        from r2l_jax.drift import cases

        known = self.known_cases
        measured = [cases.CLEAN] if not self.has_intensities else known["intensities"]
        names = (self.pipeline,) if self.pipeline is not None else self.pipelines
        uncorrupted = cases.CLEAN._replace(name="uncorrupted")
        processings, corruptions = cases.pipelines(names, self.half_size), known["corruptions"]
        if self.format == "dng":
            processings, corruptions = [cases.CLEAN._replace(name="raw")], []
        sets = [
            acquisition._replace(
                name=f"{processing.name}/{acquisition.name}/{corrupted.name}",
                pipeline=processing.pipeline,
                corruption=corrupted.corruption,
            )
            for acquisition in [*measured, *known["exposures"], *known["sensor"], *known["cameras"]]
            for processing in processings
            for corrupted in [uncorrupted, *corruptions]
        ]
        return tuple(dict.fromkeys(sets))
