"""Everything that defines a training run."""

import dataclasses
import functools
import math
import pathlib

from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.processing import STATIC_FLAGS, check_processing, pipeline_name
from r2l_jax.runtime.errors import InputError

CLASSIFIERS = ("ResNet18", "ResNet34", "Resnet50")
ENCODERS = ("resnet18", "resnet34", "resnet50")

# How an image's distance from its default rendering is measured, see `drift.frozen.deviation`.
AUX_LOSSES = ("ssim", "l2")

# The settings of adversarial training, with their defaults in the published program.
ADV_DEFAULTS = {"adv_parameters": "all", "adv_aux_loss": "ssim", "adv_aux_weight": 1.0}

# Fields that may differ when a run is continued: where things are, how much is recorded, and how long it trains.
# Pipelines are compared by what they are, not by the name of their file.
FREE_TO_CHANGE = frozenset(
    {"logdir", "data_dir", "pipeline", "download", "epochs", "overwrite", "save_locally", "adv_track_differences"}
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. The names and defaults are those of the published PyTorch program where it has them.

    Attributes are documented by the flags of scripts/train.py.

    Raises:
        InputError: values that contradict each other or are out of range.
    """

    experiment_name: str = "classification learnable pipeline"
    run_name: str = "test run"
    logdir: str = "runs"
    data_dir: str | None = None
    download: bool = False
    overwrite: bool = False
    seed: int = 1

    dataset: str = "Synthetic"
    iso: float = 1.0
    camera: str | None = None
    tile_size: int | None = None
    synthetic_images: int | None = None
    synthetic_size: int | None = None
    n_splits: int = 1
    train_size: float = 0.8
    state_dict_uri: str | None = None
    test_run: bool = False

    lr: float = 1e-5
    epochs: int = 3
    batch_size: int = 32
    augmentation: str = "none"
    check_val_every_n_epoch: int = 1

    processing_mode: str | None = None
    pipeline: str | None = None
    sp_debayer: str | None = None
    sp_sharpening: str | None = None
    sp_denoising: str | None = None
    processor_uri: str | None = None
    freeze_processor: bool = False
    classifier_network: str = "ResNet18"
    classifier_uri: str | None = None
    freeze_classifier: bool = False
    smp_encoder: str | None = None
    classifier_pretrained: bool = False
    pretrained_weights: str | None = None

    adv_training: bool = False
    adv_parameters: str | None = None
    adv_aux_loss: str | None = None
    adv_aux_weight: float | None = None
    adv_noise_layer: bool = False
    adv_track_differences: bool = False

    log_model: bool = True
    save_locally: bool = False
    track_processing: bool = False
    track_processing_gradients: bool = False
    track_predictions: bool = False
    track_save_tensors: bool = False
    track_every_epoch: bool = False
    track_n_images: int = 5

    def __post_init__(self):
        for name in ("epochs", "batch_size", "n_splits", "check_val_every_n_epoch", "lr", "track_n_images"):
            if getattr(self, name) <= 0:
                raise InputError(f"--{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, got {self.seed}")
        if not 0 < self.train_size < 1:
            raise InputError(f"--train_size must be between 0 and 1, got {self.train_size}")
        if self.freeze_processor and self.freeze_classifier:
            raise InputError("--freeze_processor and --freeze_classifier together leave nothing to train")
        for name, known in (("classifier_network", CLASSIFIERS), ("smp_encoder", (None, *ENCODERS))):
            if getattr(self, name) not in known:
                raise InputError(
                    f"--{name} must be one of {', '.join(filter(None, known))}, got {getattr(self, name)!r}"
                )
        if self.processing_mode is None and self.pipeline is None:
            object.__setattr__(self, "processing_mode", "parametrized")
        check_processing(self.processing_mode, self.static_algorithms, self.pipeline)
        if self.processing_mode == "static":
            # What a run records of itself names its algorithms, given or not.
            for flag, (_, default) in STATIC_FLAGS.items():
                object.__setattr__(self, flag, getattr(self, flag) or default)
        if not self.learns_processing and self.freeze_classifier:
            raise InputError(
                f"--processing_mode={self.processing_mode} learns nothing: with --freeze_classifier nothing is left "
                "to train"
            )
        if not self.learns_processing and self.processor_uri:
            raise InputError(
                f"--processing_mode={self.processing_mode} learns nothing that --processor_uri could provide"
            )
        if self.classifier_pretrained and self.classifier_uri:
            raise InputError("--classifier_pretrained and --classifier_uri both say what the head starts from")
        if self.classifier_pretrained and self.freeze_classifier and not self.adv_training:
            raise InputError(
                "--freeze_classifier would keep the random layers that --classifier_pretrained leaves: train them first"
            )
        if self.pretrained_weights and not self.classifier_pretrained:
            raise InputError("--pretrained_weights is where --classifier_pretrained finds its weights: give that, too")
        self._check_adversarial()
        for name in ("experiment_name", "run_name"):
            path = pathlib.PurePath(getattr(self, name))
            if not path.parts or path.is_absolute() or ".." in path.parts:
                raise InputError(f"--{name} must be a folder's name, got {getattr(self, name)!r}")
        for name in ("track_save_tensors", "track_every_epoch"):
            if getattr(self, name) and not self.records:
                raise InputError(
                    f"--{name} is about what --track_processing, --track_processing_gradients, --track_predictions "
                    "and --adv_track_differences record: give one of them, too"
                )

    def _check_adversarial(self) -> None:
        if not self.adv_training:
            untouched = dict.fromkeys(ADV_DEFAULTS) | {"adv_noise_layer": False, "adv_track_differences": False}
            for name, value in untouched.items():
                if getattr(self, name) is not value:
                    raise InputError(f"--{name} is for --adv_training: give that, too")
            return
        for name, default in ADV_DEFAULTS.items():
            # What a run records of itself names them, given or not.
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if not self.learns_pipeline:
            raise InputError(
                f"--adv_training needs --processing_mode=parametrized or a --pipeline, got {self.processing_mode}"
            )
        if self.freeze_processor:
            raise InputError("--adv_training moves the processor's parameters, which --freeze_processor keeps")
        if self.adv_aux_loss not in AUX_LOSSES:
            raise InputError(f"--adv_aux_loss must be one of {', '.join(AUX_LOSSES)}, got {self.adv_aux_loss!r}")
        if not 0 <= self.adv_aux_weight < math.inf:
            raise InputError(f"--adv_aux_weight must be at least 0, and finite, got {self.adv_aux_weight}")

    @property
    def records(self) -> bool:
        """Whether anything is recorded of the data set's first samples."""
        return (
            self.track_processing
            or self.track_processing_gradients
            or self.track_predictions
            or self.adv_track_differences
        )

    @property
    def learns_pipeline(self) -> bool:
        """Whether the processor is a pipeline whose parameters can be trained."""
        return self.processing_mode in ("parametrized", None)

    @property
    def learns_processing(self) -> bool:
        """Whether the processor has parameters to train, and a batch norm after it."""
        return self.learns_pipeline or self.processing_mode == "neural_network"

    @property
    def takes_statistics(self) -> bool:
        """Whether images are normalised by statistics known before training: before a network, or without learning."""
        return not self.learns_pipeline

    @property
    def data_settings(self) -> dict[str, object]:
        """What `datasets.load` takes beside the data set's name."""
        names = ("data_dir", "iso", "camera", "tile_size", "synthetic_images", "synthetic_size")
        return {name: getattr(self, name) for name in names}

    @property
    def processing(self) -> str:
        """The flag that chose the processing."""
        return f"--processing_mode={self.processing_mode}" if self.pipeline is None else f"--pipeline={self.pipeline}"

    @functools.cached_property
    def named_pipeline(self) -> NamedPipeline | None:
        """The pipeline that processes, None for a mode of half size.

        Raises:
            InputError: a file of the user's that cannot be read or run.
        """
        name = pipeline_name(self.processing_mode, self.static_algorithms, self.pipeline)
        return None if name is None else find_pipeline(name)

    @property
    def encoder(self) -> str:
        """The encoder of a segmentation network."""
        return self.smp_encoder or "resnet34"

    @property
    def static_algorithms(self) -> dict[str, str | None]:
        """The algorithms given for a static pipeline, by their flags."""
        return {flag: getattr(self, flag) for flag in STATIC_FLAGS}

    @property
    def run_dir(self) -> pathlib.Path:
        """Where the run's folds, checkpoints and results go."""
        return pathlib.Path(self.logdir) / self.experiment_name / self.run_name

    def differences(self, earlier: dict) -> list[str]:
        """What keeps this run from continuing an earlier one, as "name was old, is new"."""
        fixed = {
            field.name
            for field in dataclasses.fields(self)
            if field.name not in FREE_TO_CHANGE and not field.name.startswith("track_")
        }
        # A flag that an earlier version did not have stood at its default.
        before = dataclasses.asdict(TrainConfig()) | earlier
        return [
            f"{name} was {before[name]!r}, is {getattr(self, name)!r}"
            for name in sorted(fixed)
            if before[name] != getattr(self, name)
        ]
