"""The settings of a study."""

import dataclasses
import os
import pathlib
from typing import Any

from r2l_jax.config import CHECKPOINTS, TrainConfig
from r2l_jax.data.settings import PUBLISHED_SETS, SYNTHETIC_SETS, DataSettings
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.names import CHANGES, CORRUPTIONS, PUBLISHED_PIPELINES, SENSOR, SEVERITIES
from r2l_jax.runtime import jobs
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import FRACTION, NOT_NEGATIVE, POSITIVE, Settings, build, flat, redeclared, setting
from r2l_jax.training.settings import AUX_LOSSES, PARAMETERS, PUBLISHED_OPTIMIZATION, OptimizationSettings

CONTROLS = ("synthesis", "forensics", "adjustment")

# The published data sets of mosaics, which every control needs.
DATASETS = (*SYNTHETIC_SETS, "Folder", *(name for name in PUBLISHED_SETS if not name.endswith("RGB")))

# The groups of parameters that the study searched, and weights of the distance over the range of the study's figure.
GROUPS = ("all", *(name for name in PARAMETERS if name != "debayer"))
WEIGHTS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# Where the training of other data sets than the published ones differs from the study's by default.
_SMALL_SETS = {"lr": 1e-3, "batch_size": 8}

# The two runs that adjustment compares.
LEARNED, FROZEN = "learned", "frozen"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyData(DataSettings):
    """Splits."""

    dataset: str = setting("the data set", "Synthetic", choices=DATASETS)
    n_splits: int = setting("number of random splits that every model is trained on", 5, bound=POSITIVE)
    train_size: float = setting("fraction of the samples to train on", 0.8, bound=FRACTION, rare=True)


def _published(name: str) -> Any:
    """Makes a setting of the optimization whose default is the published one."""
    return redeclared(OptimizationSettings, name, PUBLISHED_OPTIMIZATION[name])


def _left_open(name: str) -> Any:
    """Makes a setting of the optimization whose default depends on the data set."""
    published, others = PUBLISHED_OPTIMIZATION[name], _SMALL_SETS[name]
    added = f"; default: {published:g} for the published data sets, {others:g} for others"
    return redeclared(OptimizationSettings, name, None, added)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptimization(OptimizationSettings):
    """Optimization."""

    # Unlike the settings of a run, these are the study's by default, and two of them may be left to the data set.
    lr: float | None = _left_open("lr")  # pyright: ignore[reportIncompatibleVariableOverride]
    epochs: int = _published("epochs")
    optimizer: str = _published("optimizer")
    weight_decay: float = _published("weight_decay")
    schedule: str = _published("schedule")
    warmup_epochs: float = _published("warmup_epochs")
    label_smoothing: float = _published("label_smoothing")
    class_weights: str = _published("class_weights")
    ema: float = _published("ema")
    batch_size: int | None = _left_open("batch_size")  # pyright: ignore[reportIncompatibleVariableOverride]
    augmentation: str = _published("augmentation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyChoice(Settings):
    """Study."""

    output: str = setting("folder of all runs and results", "runs/study")
    controls: tuple[str, ...] = setting(
        "the drift controls: synthesis: models of twelve static pipelines under all twelve and under corruptions; "
        "forensics: the worst case over the price of distance; adjustment: learned beside frozen processing at low "
        "intensity",
        CONTROLS,
        each=CONTROLS,
    )
    dry_run: bool = setting("print the jobs and the time that they will take, and do nothing", False)
    scheduler: str = setting(jobs.SETTING, "serial")
    as_published: bool = setting(
        "compute unsharp masking as the study's program did, along columns only (unsharp_masking_vertical)",
        True,
        rare=True,
        needs="controls=synthesis",
    )
    checkpoint: str = setting(
        "for synthesis and forensics: the epoch whose model is tested: the last one, as in the study, or the best one, "
        "whose score is too high, because the same samples chose it",
        "last",
        choices=CHECKPOINTS,
        rare=True,
        needs="controls=synthesis|forensics",
    )
    corruptions: tuple[str, ...] = setting(
        f"for synthesis: the corruptions, of {', '.join(CORRUPTIONS)}",
        CHANGES,
        each=CORRUPTIONS,
        needs="controls=synthesis",
    )
    sensor: tuple[str, ...] = setting(
        f"for synthesis: also test under sensor drifts: {', '.join(SENSOR)}",
        (),
        each=SENSOR,
        rare=True,
        needs="controls=synthesis",
    )
    severities: tuple[int, ...] = setting(
        "for synthesis: the severities of the corruptions and of the sensor drifts, of "
        f"{', '.join(map(str, SEVERITIES))}",
        (3,),
        needs="controls=synthesis",
    )
    adv_aux_loss: str = setting(
        "for forensics: the distance to the default rendering, as in train.py; the study uses l2_sum",
        "l2_sum",
        choices=AUX_LOSSES,
        rare=True,
        needs="controls=forensics",
    )
    adv_aux_weight: tuple[float, ...] = setting(
        "for forensics: the weights of that distance (the study's lambda)",
        WEIGHTS,
        bound=NOT_NEGATIVE,
        needs="controls=forensics",
    )
    adv_parameters: tuple[str, ...] = setting(
        "for forensics: groups of parameters to search, all or single ones",
        GROUPS,
        each=("all", *PARAMETERS),
        needs="controls=forensics",
    )
    starts: int = setting(
        "for forensics: the starts of the search for each group and weight",
        1,
        bound=POSITIVE,
        rare=True,
        needs="controls=forensics",
    )
    steps: int = setting(
        "for forensics: the steps of each search", 40, bound=POSITIVE, rare=True, needs="controls=forensics"
    )
    low_intensity: float = setting(
        "for adjustment: the measured intensity", 0.01, rare=True, needs="controls=adjustment"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("controls", "corruptions", "severities", "adv_aux_weight", "adv_parameters"):
            if not getattr(self, name):
                raise InputError(f"--{name} is empty")
        if self.output_dir.name in ("", ".."):
            raise InputError(f"--output must be a folder's name, got {self.output!r}")

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of all runs and results."""
        return pathlib.Path(os.path.normpath(self.output))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """A study.

    Raises:
        InputError: values that contradict each other or are out of range.
    """

    choice: StudyChoice = StudyChoice()
    data: StudyData = StudyData()
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    optimization: StudyOptimization = StudyOptimization()

    def __post_init__(self):
        from r2l_jax.drift import cases

        super().__post_init__()
        if "adjustment" in self.choice.controls and self.data.dataset == "Folder":
            raise InputError(
                "--controls=adjustment needs mosaics at a low intensity, and a Folder holds one intensity: give "
                "--controls=synthesis,forensics"
            )
        # Values that no run accepts end the study before its first job.
        self.training_of("check")
        cases.corruptions(self.choice.corruptions, self.choice.severities)
        if "adjustment" in self.choice.controls:
            cases.intensities([self.choice.low_intensity])

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of all runs and results."""
        return self.choice.output_dir

    @property
    def pipelines(self) -> dict[str, str]:
        """The twelve pipelines: the study's name of each, and the name of the one that is computed."""
        sharpening = "unsharp_masking_vertical" if self.choice.as_published else "unsharp_masking"
        return {name: name.replace("unsharp_masking", sharpening) for name in PUBLISHED_PIPELINES}

    def training_of(self, run_name: str, **flags: Any) -> TrainConfig:
        """Returns the training of one of the study's runs.

        Args:
            run_name: its folder within the study's.
            **flags: the settings in which it differs from the others.
        """
        data = flat(self.data)
        defaults = {} if self.data.dataset in PUBLISHED_SETS else _SMALL_SETS
        given = {name: value for name, value in flat(self.optimization).items() if value is not None}
        places = {"logdir": str(self.output_dir.parent), "experiment_name": self.output_dir.name, "run_name": run_name}
        return build(
            TrainConfig,
            {
                **data,
                **flat(self.network),
                **PUBLISHED_OPTIMIZATION,
                **defaults,
                **given,
                **places,
                # The published pipelines do not meter.
                "auto": (),
                **flags,
            },
        )

    def evaluation_of(self, training: TrainConfig) -> EvaluationConfig:
        """Returns the evaluation of a run under all pipelines and corruptions."""
        return EvaluationConfig(
            run=(str(training.run_dir),),
            code=training.code,
            against=("pipelines", *(["sensor"] if self.choice.sensor else []), "corruptions"),
            pipelines=tuple(self.pipelines.values()),
            sensor=self.choice.sensor or EvaluationConfig.sensor,
            corruptions=self.choice.corruptions,
            severities=self.choice.severities,
            checkpoint=self.choice.checkpoint,
        )

    def search_of(self, training: TrainConfig, group: str) -> ForensicsConfig:
        """Returns the search for the worst cases of a run over one group of parameters."""
        choice = self.choice
        return build(
            ForensicsConfig,
            run=str(training.run_dir),
            code=training.code,
            output=str(training.run_dir / "forensics" / group),
            analyses=("worst_case",),
            adv_parameters=(group,),
            adv_aux_loss=choice.adv_aux_loss,
            adv_aux_weight=choice.adv_aux_weight,
            checkpoint=choice.checkpoint,
            starts=choice.starts,
            steps=choice.steps,
        )
