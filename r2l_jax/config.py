"""The settings of a training run: data, model and training. Other programs share some of them.

Settings that the published PyTorch program also has keep its names. Each flag of scripts/train.py is a field of one of
these classes, with its default, its help and its bounds; see `cli.flags`.
"""

import dataclasses
import pathlib
from typing import TypeVar

from r2l_jax import jobs, named_code
from r2l_jax.cli.flags import SEED, Settings, replace, setting
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.errors import InputError
from r2l_jax.model.settings import ModelSettings, ProcessingSettings
from r2l_jax.training.settings import AttackSettings, OptimizationSettings, TrackingSettings

# For programs that take a finished run.
CHECKPOINTS = ("best", "last")
WHICH_CHECKPOINT = "checkpoint to load: after the best epoch, or after the last"
# Ends the help of --seed in programs that take trained models.
NOT_OF_TRAINING = "; independent of the training seed, so all models of a group get the same"

CODE = (
    "Python code of the run's custom pipeline, head, task and score, each as <file>.py:<function>; it must be "
    "unchanged since training, and runs only if named here"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """A training run."""

    data: TrainingDataSettings = dataclasses.field(default_factory=TrainingDataSettings)
    processing: ProcessingSettings = dataclasses.field(default_factory=ProcessingSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    optimization: OptimizationSettings = dataclasses.field(default_factory=OptimizationSettings)
    attack: AttackSettings = dataclasses.field(default_factory=AttackSettings)
    tracking: TrackingSettings = dataclasses.field(default_factory=TrackingSettings)

    def __post_init__(self):
        processing, model, attack = self.processing, self.model, self.attack
        trains = self.optimization.epochs > 0
        if not trains and attack.adv_training:
            raise InputError("`adv_training` needs `epochs` of at least 1, got 0")
        if trains and processing.freeze_processor and model.freeze_classifier:
            raise InputError("`freeze_processor` and `freeze_classifier` together leave nothing to train")
        if trains and model.freeze_classifier and not processing.learns:
            raise InputError(f"{processing.flag} has no learned parameters: with `freeze_classifier`, nothing trains")
        is_frozen = not trains or (model.freeze_classifier and not attack.adv_training)
        if is_frozen and not model.has_custom_head and not model.classifier_uri:
            raise InputError(
                f"{'`freeze_classifier`' if trains else '`epochs=0`'} needs a trained head: name one with "
                "`classifier_network=<file>.py:<function>` or `classifier_uri`"
            )
        if attack.adv_training and not processing.learns_pipeline:
            raise InputError(
                f"`adv_training` needs `processing_mode=parametrized` or a `pipeline`, got {processing.processing_mode}"
            )
        if attack.adv_training and processing.freeze_processor:
            raise InputError("`adv_training` trains the processor's parameters, which `freeze_processor` freezes")

    @property
    def run_dir(self) -> pathlib.Path:
        """The folder that holds the run's folds."""
        return pathlib.Path(self.tracking.logdir) / self.tracking.experiment_name / self.tracking.run_name

    @property
    def code(self) -> tuple[str, ...]:
        """The functions in Python files that make the pipeline, the head, the task and the score."""
        names = self.processing.pipeline, self.model.classifier_network, self.model.task, self.model.score
        return tuple(name for name in names if name and named_code.is_file(name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupSettings(Settings):
    """Group of runs."""

    seeds: tuple[int, ...] = setting(
        "train one run per seed, in subfolders seed_<s> of the run's folder: seeds separated by commas, or a number n "
        "for the seeds 1 to n",
        (),
        bound=SEED,
    )
    scheduler: str = setting(f"with --seeds, {jobs.SETTING}", "serial", rare=True, needs="seeds")

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.seeds)) < len(self.seeds) or self.seeds == (0,):
            given = ",".join(map(str, self.seeds))
            raise InputError(f"`seeds` must be distinct seeds, or their number, got {given}")

    def members(self, config: TrainConfig) -> dict[str, TrainConfig]:
        """Returns the settings of each run of a group by the name of its folder. All runs have the same split."""
        optimization = config.optimization
        split = optimization.seed if optimization.split_seed is None else optimization.split_seed
        seeds = range(1, max(self.seeds) + 1) if len(self.seeds) == 1 else self.seeds
        return {
            f"seed_{seed}": replace(
                config, seed=seed, split_seed=split, run_name=f"{config.tracking.run_name}/seed_{seed}"
            )
            for seed in seeds
        }


Finished = TypeVar("Finished", bound="FinishedRun")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun(Settings):
    """Finished run."""

    run: str = setting("folder of a finished run, one of its folds, or a group of seeds")
    data_dir: str | None = setting("data set folder; default: the one used in training", None)
    checkpoint: str = setting(WHICH_CHECKPOINT, "best", choices=CHECKPOINTS)
    output: str | None = setting("folder for the results; default: one in the run's folder", None)
    code: tuple[str, ...] = setting(CODE, ())

    results = "results"

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of the results."""
        return pathlib.Path(self.output) if self.output else pathlib.Path(self.run) / self.results

    def of_member(self: Finished, folder: pathlib.Path) -> Finished:
        """Returns the settings for a group member, whose results go to its own folder or a subfolder of --output."""
        if folder == pathlib.Path(self.run):
            return self
        return replace(self, run=str(folder), output=self.output and str(pathlib.Path(self.output) / folder.name))
