"""The settings of a study."""

import dataclasses
import pathlib
from typing import Any

from r2l_jax import jobs
from r2l_jax.cli.flags import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Settings,
    build,
    flat,
    setting,
    with_defaults,
)
from r2l_jax.config import TrainConfig
from r2l_jax.data.settings import PUBLISHED_SETS, SYNTHETIC_SETS, DataSettings
from r2l_jax.errors import InputError
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.names import CHANGES, CORRUPTIONS, INTENSITIES, SEVERITIES
from r2l_jax.training.settings import PARAMETERS, PUBLISHED_OPTIMIZATION, OptimizationSettings

CONTROLS = ("synthesis", "forensics", "adjustment")

# The published data sets of raw images, which every control needs.
DATASETS = (*SYNTHETIC_SETS, "Folder", *(name for name in PUBLISHED_SETS if not name.endswith("RGB")))

# The groups of parameters that the study searched, and weights of the distance over the range of the study's figure.
GROUPS = ("all", *(name for name in PARAMETERS if name != "debayer"))
WEIGHTS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyData(DataSettings):
    """Splits."""

    dataset: str = setting("the data set", "Synthetic", choices=DATASETS)
    n_splits: int = setting("number of random splits on which each model is trained", 5, bound=POSITIVE)
    train_size: float = setting("fraction of the samples to train on", 0.8, bound=FRACTION, rare=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptimization(with_defaults(OptimizationSettings, PUBLISHED_OPTIMIZATION)):
    """Optimization."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyChoice(Settings):
    """Study."""

    output: str = setting("folder for all runs and results", "runs/study")
    controls: tuple[str, ...] = setting(
        "drift controls to run: synthesis (models of twelve static pipelines, tested under all twelve and under "
        "corruptions), forensics (worst cases for each weight of the distance), adjustment (learned and frozen "
        "processing at low intensity)",
        CONTROLS,
        each=CONTROLS,
    )
    dry_run: bool = setting("only print the jobs", False)
    scheduler: str = setting(jobs.SETTING, "serial")
    corruptions: tuple[str, ...] = setting(
        f"for synthesis: some of the corruptions {', '.join(CORRUPTIONS)}",
        CHANGES,
        each=CORRUPTIONS,
        needs="controls=synthesis",
    )
    severities: tuple[int, ...] = setting(
        "for synthesis: severities of the corruptions", (3,), each=SEVERITIES, needs="controls=synthesis"
    )
    adv_aux_weight: tuple[float, ...] = setting(
        "for forensics: weights of the distance from the default rendering (the study's lambda)",
        WEIGHTS,
        bound=NOT_NEGATIVE,
        rare=True,
        needs="controls=forensics",
    )
    adv_parameters: tuple[str, ...] = setting(
        "for forensics: parameters to search, all together or single ones",
        GROUPS,
        each=("all", *PARAMETERS),
        needs="controls=forensics",
    )
    steps: int = setting(
        "for forensics: steps of each search", 40, bound=POSITIVE, rare=True, needs="controls=forensics"
    )
    low_intensity: float = setting(
        "for adjustment: measured intensity of raw images",
        0.01,
        each=INTENSITIES,
        rare=True,
        needs="controls=adjustment",
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("controls", "corruptions", "severities", "adv_aux_weight", "adv_parameters"):
            if not getattr(self, name):
                raise InputError(f"`{name}` is empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """A study.

    Raises:
        InputError: values contradict each other or are out of range.
    """

    choice: StudyChoice = StudyChoice()
    data: StudyData = StudyData()
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    optimization: StudyOptimization = StudyOptimization()

    def __post_init__(self):
        super().__post_init__()
        if "adjustment" in self.choice.controls and self.data.dataset == "Folder":
            raise InputError(
                "`controls=adjustment` needs a low intensity, and `dataset=Folder` has only one intensity: give "
                "`controls=synthesis,forensics`"
            )
        # Settings that are not valid for a run end the study before its first job.
        self.training_of("check", "check")

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of all runs and results."""
        return pathlib.Path(self.choice.output)

    def training_of(self, control: str, name: str, **flags: Any) -> TrainConfig:
        """Returns the training of one of the study's runs.

        Args:
            control: the control that it belongs to.
            name: its name.
            **flags: the settings in which it differs from the others.
        """
        places = {"logdir": str(self.output_dir), "experiment_name": control, "run_name": name}
        shared = {**flat(self.data), **flat(self.network), **flat(self.optimization)}
        # The published pipelines do not meter.
        return build(TrainConfig, {**shared, **places, "auto": (), **flags})
