"""The settings of a training run; other programs share some of them.

Names follow the published PyTorch program where it has the same setting; its optimization is
`PUBLISHED_OPTIMIZATION`. Each flag of scripts/train.py is
a field here, with its default, its help and its bounds; see `runtime.flags`.
"""

import dataclasses
import functools
import pathlib
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from r2l_jax.names import DEMOSAICING, DENOISING, INTENSITIES, SHARPENING
from r2l_jax.runtime import jobs, named_code
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import FRACTION, NOT_NEGATIVE, POSITIVE, Settings, build, redeclared, replace, setting

if TYPE_CHECKING:
    from r2l_jax.optimizers import Optimizer
    from r2l_jax.pipelines import NamedPipeline
else:
    NamedPipeline = Optimizer = Any  # importing them would delay a program's help

SYNTHETIC_SETS = ("Synthetic", "SyntheticSegmentation")
PUBLISHED_SETS = ("Microscopy", "MicroscopyRGB", "Drone", "DroneSegmentation", "DroneSegmentationFull")
DATASETS = (*SYNTHETIC_SETS, "Folder", *PUBLISHED_SETS)

SYNTHETIC_IMAGES = 600
SYNTHETIC_SIZE = 128

PROCESSING_MODES = ("parametrized", "static", "neural_network", "none")

# The modes whose images have one pixel for each 2x2 tile of the mosaic.
HALF_SIZE_MODES = ("neural_network", "none")

# What the stages before a pipeline can meter.
AUTO = ("exposure", "white_balance")

# The purposes of camera augmentation, see `model.camera_augmentation`.
PURPOSES = ("light", "optics", "readout")

# The flags of --processing_mode=static, named as in the published program: the step whose algorithm each chooses, and
# its default algorithm.
STATIC_FLAGS = {
    "sp_debayer": ("demosaic", "bilinear"),
    "sp_sharpening": ("sharpen", "sharpening_filter"),
    "sp_denoising": ("denoise", "gaussian_denoising"),
}

PIPELINE_NAMES = (
    "parametrized, full, algorithms for demosaicing, sharpening and denoising such as "
    "bilinear.sharpening_filter.median_denoising, or your own function make(camera) -> isp.Pipeline, my_isp.py:make"
)

# For programs that take a finished run.
CHECKPOINTS = ("best", "last")
WHICH_CHECKPOINT = "the state of the run after its best or its last epoch"
# Ends the help of --seed in programs that take trained models.
NOT_OF_TRAINING = "; it is not the seed of the training, so that models of all seeds get the same"

CODE = (
    "the Python code of the run's own pipeline and head, each as <file>.py:<function>; it must be unchanged since the "
    "training, and is not run unless it is named here"
)

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
CLASS_WEIGHTS = ("none", "balanced")
AUGMENTATIONS = ("none", "weak", "strong")
CLASSIFIERS = ("ResNet18", "ResNet34", "Resnet50")
# What a training can record of some samples, and how.
TRACKED = ("processing", "gradients", "predictions", "arrays", "every_epoch")
PRECISIONS = ("float32", "bfloat16")
ENCODERS = ("resnet18", "resnet34", "resnet50")

# The parameters of the parametrized pipeline. Making the pipeline would start JAX before several hosts are connected.
PARAMETERS = (
    *("black_level", "debayer", "white_balance", "colour_correction"),
    *("sharpening_filter", "gaussian_blur", "gamma_correct"),
)

# How an image's distance from its default rendering is measured, see `drift.search.frozen.deviation`.
AUX_LOSSES = ("ssim", "l2", "l2_sum")

# The settings of adversarial training that have a default only with it.
_ATTACK_DEFAULTS = {"adv_parameters": "all", "adv_aux_loss": "ssim", "adv_aux_weight": 1.0}

# The optimization of the published program, which are also the settings of configs/published.flags.
PUBLISHED_OPTIMIZATION: Mapping[str, Any] = types.MappingProxyType(
    {
        **{"lr": 1e-5, "epochs": 3, "batch_size": 32, "augmentation": "none"},
        **{"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0, "ema": 0.0},
        **{"label_smoothing": 0.0, "class_weights": "none"},
    }
)

# The settings of gradient descent that adversarial training does not use.
_DESCENT_ALONE = (
    *("optimizer", "weight_decay", "schedule", "warmup_epochs", "label_smoothing", "class_weights", "ema", "patience"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Data set."""

    dataset: str = setting(f"one of {', '.join(DATASETS)}", "Synthetic")
    data_dir: str | None = setting(
        "folder of the data set; a synthetic one is also written there; default: your cache folder", None
    )
    download: bool = setting("download a published data set from Zenodo if it is not there", False, rare=True)
    camera: str | None = setting(
        "for Folder: drone, microscopy, a JSON file, or auto (each file's own calibration); default: auto", None
    )
    tile_size: int | None = setting(
        "for Folder: side of the square tiles cut from frames to segment, or of the center cut from files to classify; "
        "default: 256, or the shortest side if it is smaller",
        None,
        rare=True,
    )
    unprocess: bool = setting(
        "for Folder: its files are JPEG or PNG pictures, which become mosaics of --camera once, in your cache folder",
        False,
        rare=True,
    )
    synthetic_images: int | None = setting(
        f"number of scenes in a synthetic data set; default: {SYNTHETIC_IMAGES}", None, rare=True
    )
    synthetic_size: int | None = setting(
        f"height and width of its scenes in pixels; default: {SYNTHETIC_SIZE}", None, rare=True
    )

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values; a Folder without a camera has the calibration of its files, as a run records it."""
        is_auto = values.get("dataset") == "Folder" and values.get("camera") is None
        return {**values, "camera": "auto"} if is_auto else values

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of `datasets.load` that say where the samples come from, without the name of the data set."""
        names = ("data_dir", "camera", "tile_size", "unprocess", "synthetic_images", "synthetic_size")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingDataSettings(DataSettings):
    """Training data."""

    iso: float | tuple[float, ...] = setting(
        f"the measured intensity to use, of {', '.join(map('{:g}'.format, INTENSITIES))}, or several, separated by "
        "commas: batches mix them, and splits keep all mosaics of a scene together",
        1.0,
    )
    n_splits: int = setting("number of random splits to train on, each a fold of its own", 1, bound=POSITIVE, rare=True)
    train_size: float = setting(
        "fraction of the samples to train on, of those that --test_size leaves", 0.8, bound=FRACTION, rare=True
    )
    test_size: float = setting(
        "samples kept from training and from the choice of the best epoch, on which all controls then measure: "
        "a share if below 1, else a number",
        0.0,
        bound=NOT_NEGATIVE,
    )
    split: str | None = setting(
        "your own split: a JSON file with the names of images in lists train, test and, if you like, valid",
        None,
        rare=True,
    )
    state_dict_uri: str | None = setting("earlier run whose splits are used again", None, rare=True)
    test_run: bool = setting(
        "use only one batch of training samples and one batch of validation samples", False, rare=True
    )

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values; a single intensity becomes a number, as runs record it, and several are in order."""
        values, iso = super().completed(values), values.get("iso")
        if not isinstance(iso, tuple):
            return values
        return {**values, "iso": iso[0] if len(iso) == 1 else tuple(sorted(iso))}

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.isos)) < max(len(self.isos), 1):
            given = ",".join(map("{:g}".format, self.isos))
            raise InputError(f"--iso must be one or several intensities, each once, got {given or 'none'}")
        if self.test_size > 1 and not self.test_size.is_integer():
            raise InputError(f"--test_size must be a share below 1 or a whole number, got {self.test_size:g}")
        if self.split and self.state_dict_uri:
            raise InputError("--split and --state_dict_uri both give the splits: leave one of them out")
        if self.split and self.test_size:
            raise InputError("--split gives the test samples: leave --test_size out")
        if self.test_size and self.state_dict_uri:
            raise InputError("--state_dict_uri gives the splits, with the test samples: leave --test_size out")

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of `DataSettings.source`, with the intensity or intensities."""
        return {**super().source, "iso": self.iso}

    @property
    def isos(self) -> tuple[float, ...]:
        """The intensities, also if there is only one."""
        return self.iso if isinstance(self.iso, tuple) else (self.iso,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessingChoice(Settings):
    """Processing."""

    processing_mode: str | None = setting("", None, choices=PROCESSING_MODES)
    sp_debayer: str | None = setting(
        "with --processing_mode=static, the demosaicing; default: bilinear", None, choices=DEMOSAICING, rare=True
    )
    sp_sharpening: str | None = setting(
        "with --processing_mode=static, the sharpening; default: sharpening_filter", None, choices=SHARPENING, rare=True
    )
    sp_denoising: str | None = setting(
        "with --processing_mode=static, the denoising; default: gaussian_denoising", None, choices=DENOISING, rare=True
    )
    pipeline: str | None = setting(
        f"a pipeline by name, instead of --processing_mode and --sp_*: {PIPELINE_NAMES}", None
    )
    half_size: bool = setting(
        "demosaic and shrink in one step: one pixel for each 2x2 sites of the mosaic, or 3x3 sites for X-Trans",
        False,
        rare=True,
    )

    auto: tuple[str, ...] = setting(
        "meter each raw image before the pipeline: exposure, white_balance, or none; see isp.metering",
        (),
        each=AUTO,
    )

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values, adding the mode and its algorithms if they are missing, because a run records them."""
        given = {name: value for name, value in values.items() if value is not None}
        if "pipeline" in given:
            return values
        mode = given.get("processing_mode", "parametrized")
        algorithms = {name: default for name, (_, default) in STATIC_FLAGS.items()} if mode == "static" else {}
        if given.get("half_size"):
            algorithms.pop("sp_debayer", None)
        return {**values, "processing_mode": mode, **algorithms, **given}

    def __post_init__(self):
        super().__post_init__()
        if self.half_size and self.processing_mode in HALF_SIZE_MODES:
            raise InputError(
                f"--half_size: the images of --processing_mode={self.processing_mode} already have that size"
            )
        if self.auto and self.processing_mode in HALF_SIZE_MODES:
            raise InputError(f"--auto meters before a pipeline: --processing_mode={self.processing_mode} has none")
        if self.half_size and self.sp_debayer is not None:
            raise InputError(f"--half_size takes the place of --sp_debayer={self.sp_debayer}: leave one of them out")
        if self.pipeline is not None:
            given = [name for name in ("processing_mode", *STATIC_FLAGS) if getattr(self, name) is not None]
            if given:
                raise InputError(f"--pipeline={self.pipeline} is the processing: leave --{' and --'.join(given)} out")
        for name in STATIC_FLAGS:
            if self.processing_mode not in ("static", None) and getattr(self, name) is not None:
                raise InputError(f"--{name} is for --processing_mode=static, got {self.flag}")

    @property
    def flag(self) -> str:
        """The flag that chose the processing, with its value."""
        given = {"processing_mode": self.processing_mode, "pipeline": self.pipeline}
        return " ".join(f"--{name}={value}" for name, value in given.items() if value is not None)

    @functools.cached_property
    def named_pipeline(self) -> NamedPipeline | None:
        """The chosen pipeline, found once; None for a mode of `HALF_SIZE_MODES`.

        Raises:
            InputError: no pipeline has this name, or its file cannot be read or run.
        """
        from r2l_jax.pipelines import find_pipeline

        if self.processing_mode in HALF_SIZE_MODES:
            return None
        static = ".".join(getattr(self, name) or default for name, (_, default) in STATIC_FLAGS.items())
        found = find_pipeline(static if self.processing_mode == "static" else self.pipeline or "parametrized")
        return found.half_sized() if self.half_size else found

    @property
    def images_are_half_size(self) -> bool:
        """Whether images have one pixel for each block of sites of the mosaic."""
        return self.half_size or self.processing_mode in HALF_SIZE_MODES


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessingSettings(ProcessingChoice):
    """Processing."""

    processing_mode: str | None = setting(
        "parametrized: the learnable pipeline; static: classical algorithms; neural_network: a U-Net++ on half-size "
        "RGB from the mosaic; none: this RGB unchanged; default: parametrized, unless --pipeline is given",
        None,
        choices=PROCESSING_MODES,
    )
    auto: tuple[str, ...] | None = redeclared(  # pyright: ignore[reportIncompatibleVariableOverride]
        ProcessingChoice,
        "auto",
        None,
        "; default: both, or with --processor_uri what that run meters; none for a head that stays as it is, without a "
        "pipeline, and for one that meters by itself",
    )
    processor_uri: str | None = setting(
        "earlier run; training starts from its processor and normalization", None, rare=True
    )
    freeze_processor: bool = setting("do not train the processor's parameters", False, rare=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.learns and self.processor_uri:
            raise InputError(f"{self.flag} has no learned parameters that --processor_uri could provide")

    @property
    def learns_pipeline(self) -> bool:
        """Whether the processor is a pipeline whose parameters can be trained."""
        return self.processing_mode in ("parametrized", None)

    @property
    def learns(self) -> bool:
        """Whether the processor has parameters to train, and a batch norm after it."""
        return self.learns_pipeline or self.processing_mode == "neural_network"

    @property
    def is_fixed(self) -> bool:
        """Whether training leaves the processor as it is."""
        return self.freeze_processor or not self.learns


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings):
    """Network."""

    classifier_network: str = setting(
        f"for classification, the head: {', '.join(CLASSIFIERS)}; for any task, a head of your own: my_head.py:make, "
        "a function make(classes, rngs) that returns a flax.nnx.Module, which is trained, or a torch.nn.Module, which "
        "is frozen; or timm:<name>, which is frozen; or model.onnx, which is frozen and has no gradients",
        "ResNet18",
    )
    smp_encoder: str | None = setting(
        "for segmentation: the encoder of the U-Net++; default: resnet34", None, choices=ENCODERS, rare=True
    )
    precision: str = setting(
        "the type in which the head computes; parameters, statistics, losses and the pipeline are float32",
        "float32",
        choices=PRECISIONS,
        rare=True,
    )
    classifier_pretrained: bool = setting(
        "start the head's ResNet from torchvision's ImageNet weights, downloaded from the Hugging Face hub; its last "
        "layer, or the decoder, still starts from random values",
        False,
        rare=True,
    )
    pretrained_weights: str | None = setting(
        "for --classifier_pretrained without network access: a safetensors file of the weights, with torchvision's "
        "names; for --classifier_network=timm:<name>: one with timm's names",
        None,
        rare=True,
    )

    classes: str | None = setting(
        "for a head of your own that tells other classes apart: a text file with the names of its outputs, one in each "
        "line; or pairs <class of the data>:<output>, with + between several outputs, as in cat:281+282,dog:207",
        None,
        rare=True,
    )

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values, with the name of a known network in its own spelling."""
        known = {name.lower(): name for name in CLASSIFIERS}
        given = values.get("classifier_network")
        return values if given is None else {**values, "classifier_network": known.get(given.lower(), given)}

    @property
    def has_own_head(self) -> bool:
        """Whether the head comes from the user's file or from a package, see `model.heads`."""
        return self.classifier_network not in CLASSIFIERS

    @property
    def encoder(self) -> str:
        """The encoder of a segmentation network."""
        return self.smp_encoder or "resnet34"

    def __post_init__(self):
        super().__post_init__()
        name = self.classifier_network
        if self.has_own_head:
            if not (named_code.is_file(name) or name.startswith("timm:") or name.endswith(".onnx")):
                raise InputError(
                    f"--classifier_network must be one of {', '.join(CLASSIFIERS)}, a function of a file such as "
                    f"my_head.py:make, timm:<name>, or a file model.onnx, got {name!r}"
                )
            for other in ("smp_encoder", "precision", "classifier_pretrained"):
                if getattr(self, other) != getattr(type(self), other):
                    raise InputError(f"--{other} is for the known networks: leave it out with the head {name}")
        elif self.classes:
            raise InputError(f"--classes is for a head of your own, got --classifier_network={name}")
        if self.pretrained_weights and not (self.classifier_pretrained or name.startswith("timm:")):
            raise InputError(
                "--pretrained_weights is for --classifier_pretrained: give --classifier_pretrained as well"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings(NetworkSettings):
    """Model."""

    classifier_uri: str | None = setting(
        "earlier run; training starts from its head; if the classes differ, the last layer starts anew", None, rare=True
    )
    freeze_classifier: bool = setting("do not change the head's parameters and batch statistics", False, rare=True)

    def __post_init__(self):
        super().__post_init__()
        if self.classifier_pretrained and self.classifier_uri:
            raise InputError("--classifier_pretrained and --classifier_uri both set the head's start: leave one out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationSettings(Settings):
    """Optimization."""

    lr: float = setting("the learning rate", 1e-3, bound=POSITIVE)
    epochs: int = setting(
        "passes over the training samples; 0 trains nothing, and measures a trained head as it is",
        30,
        bound=NOT_NEGATIVE,
    )
    optimizer: str = setting("sgd has a Nesterov momentum of 0.9", "adamw", choices=OPTIMIZERS, rare=True)
    weight_decay: float | None = setting(
        "with --optimizer=adamw or sgd, the decay of the head's kernels; default: 0.05 with adamw",
        None,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    schedule: str = setting(
        "how the learning rate changes: constant, or a cosine that falls to 0 in the last epoch",
        "cosine",
        choices=SCHEDULES,
        rare=True,
    )
    warmup_epochs: float | None = setting(
        "the number of epochs over which the learning rate rises from 0; default: a fifteenth of --epochs",
        None,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    patience: int = setting(
        "stop after this many validations in a row without a better score; 0 trains all epochs",
        0,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    label_smoothing: float | None = setting(
        "for classification: in training, this share of each target is spread over all classes; default: 0.1",
        None,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    class_weights: str | None = setting(
        "for classification: balanced gives rare classes more weight in the training loss, by their number of samples; "
        "default: balanced",
        None,
        choices=CLASS_WEIGHTS,
        rare=True,
    )
    ema: float = setting(
        "use a moving average of the weights over the updates, with this decay; 0 uses the last weights",
        0.98,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    batch_size: int = setting("samples per update, over all devices", 8, bound=POSITIVE)
    augmentation: str = setting(
        "weak: flips and right-angle turns; strong: also noise and smoothing", "weak", choices=AUGMENTATIONS
    )
    camera_augmentation: tuple[str, ...] = setting(
        "take each raw image again with random light (down to 1/24, and its photon noise), optics (vignetting, blur), "
        "readout (black level, read noise), several of them, or none",
        (),
        each=PURPOSES,
    )
    check_val_every_n_epoch: int = setting("validate after every n-th epoch and the last", 1, bound=POSITIVE, rare=True)
    seed: int = setting(
        "the seed of the splits, the initial weights, the order of samples and the augmentation; the default is that "
        "of the published program and of the first of --seeds",
        1,
        bound=NOT_NEGATIVE,
    )
    split_seed: int | None = setting("the seed of the splits; default: --seed", None, bound=NOT_NEGATIVE, rare=True)

    def build(self, epoch_steps: int) -> Optimizer:
        """Makes the optimizer of a run with this many updates per epoch."""
        from r2l_jax.optimizers import LearningRate, Optimizer

        end = self.epochs * epoch_steps if self.schedule == "cosine" else None
        warmup = self.epochs / 15 if self.warmup_epochs is None else self.warmup_epochs
        decay = self.weight_decay
        if decay is None:
            decay = 0.05 if self.optimizer == "adamw" else 0.0
        return Optimizer(self.optimizer, LearningRate(self.lr, round(warmup * epoch_steps), end), decay)

    def __post_init__(self):
        super().__post_init__()
        if self.weight_decay and self.optimizer == "adam":
            raise InputError(f"--weight_decay is for --optimizer=adamw or sgd, got --optimizer={self.optimizer}")
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            raise InputError(f"--warmup_epochs={self.warmup_epochs:g} is more than --epochs={self.epochs}")
        for name in ("label_smoothing", "ema"):
            if (value := getattr(self, name)) is not None and value >= 1:
                raise InputError(f"--{name} must be below 1, got {value:g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSettings(Settings):
    """Adversarial training."""

    adv_training: bool = setting(
        "search for the processing that breaks a model: only the processor is trained, to raise the task loss. It "
        "starts from the camera's values or --processor_uri, and --lr is in natural ranges of the parameters. The head "
        "of --classifier_uri and all batch statistics are frozen, even without --freeze_classifier (the published "
        "program then stops). The best epoch has the lowest score",
        False,
        rare=True,
    )
    adv_parameters: str | None = setting(
        "with --adv_training, a list of the parameters that may move: all, additive_layer, or parameters of the "
        f"pipeline, such as {', '.join(PARAMETERS)}; default: {_ATTACK_DEFAULTS['adv_parameters']}",
        None,
        rare=True,
    )
    adv_aux_loss: str | None = setting(
        "with --adv_training, how deviation from the default rendering is measured: ssim: 1 minus the structural "
        "similarity (the published program minimizes the similarity itself); l2: the mean squared difference; l2_sum: "
        "the sum over a batch, as in the published program, which is l2 times the batch size, height, width and 3; "
        f"default: {_ATTACK_DEFAULTS['adv_aux_loss']}",
        None,
        choices=AUX_LOSSES,
        rare=True,
    )
    adv_aux_weight: float | None = setting(
        "with --adv_training, the weight of the deviation relative to the task loss; "
        f"default: {_ATTACK_DEFAULTS['adv_aux_weight']:g}",
        None,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    adv_noise_layer: bool = setting(
        "with --adv_training, also train an image that is added to the pipeline's images", False, rare=True
    )
    adv_track_differences: bool = setting(
        "with --adv_training, record pictures in the default rendering and under attack, and their difference",
        False,
        rare=True,
    )

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values; for adversarial training, with its missing settings added, because a run records them."""
        given = {name: value for name, value in values.items() if value is not None}
        return {**values, **_ATTACK_DEFAULTS, **given} if given.get("adv_training") else values

    def __post_init__(self):
        super().__post_init__()
        for field in dataclasses.fields(self):
            if not self.adv_training and getattr(self, field.name) is not field.default:
                raise InputError(f"--{field.name} is for --adv_training: give --adv_training as well")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingSettings(Settings):
    """Tracking."""

    experiment_name: str = setting("folder of runs that belong together", "experiment")
    run_name: str = setting("folder of this run, within the experiment's folder", "run")
    logdir: str = setting("folder of all experiments, for TensorBoard", "runs", rare=True)
    overwrite: bool = setting("start over instead of continuing a run of this name", False)
    log_model: bool = setting(
        "write checkpoints (true or false); without them a run cannot be continued", True, kind="value", rare=True
    )
    keep_optimizer: bool = setting(
        "keep the optimizer's state (twice the size of the model) when a run is finished, so that the run can be "
        "continued with more --epochs",
        False,
        rare=True,
    )
    save_locally: bool = setting(
        "also write the best model as model.safetensors, which r2l_jax.load reads without the run's folder",
        False,
        rare=True,
    )
    track: tuple[str, ...] = setting(
        "what to record of a few samples: processing, the picture after every stage; gradients, of the "
        "loss for these pictures; predictions, with targets; arrays, all of this also as .npy; every_epoch, not only "
        "the last",
        (),
        each=TRACKED,
        switches={
            "track_processing": "processing",
            "track_processing_gradients": "gradients",
            "track_predictions": "predictions",
            "track_save_tensors": "arrays",
            "track_every_epoch": "every_epoch",
        },
    )
    track_n_images: int = setting("how many samples to record, of all classes in turn", 5, bound=POSITIVE, rare=True)

    @property
    def records(self) -> bool:
        """Whether pictures of samples are recorded."""
        return not {"processing", "gradients", "predictions"}.isdisjoint(self.track)

    def __post_init__(self):
        super().__post_init__()
        for name in ("experiment_name", "run_name"):
            path = pathlib.PurePath(getattr(self, name))
            if not path.parts or path.is_absolute() or ".." in path.parts:
                raise InputError(f"--{name} must be a folder's name, got {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """A training run.

    Raises:
        InputError: values that contradict each other or are out of range.
    """

    data: TrainingDataSettings = TrainingDataSettings()
    processing: ProcessingSettings = dataclasses.field(default_factory=functools.partial(build, ProcessingSettings))
    model: ModelSettings = ModelSettings()
    optimization: OptimizationSettings = OptimizationSettings()
    attack: AttackSettings = AttackSettings()
    tracking: TrackingSettings = TrackingSettings()

    def __post_init__(self):
        processing, model, attack = self.processing, self.model, self.attack
        trains = self.optimization.epochs > 0
        if not trains and attack.adv_training:
            raise InputError("--adv_training is a training: give it --epochs")
        if not trains and not model.has_own_head and not model.classifier_uri:
            raise InputError(
                "--epochs=0 measures a trained head: name one by --classifier_network=<file>.py:<function> or "
                "--classifier_uri"
            )
        if trains and processing.freeze_processor and model.freeze_classifier:
            raise InputError("--freeze_processor and --freeze_classifier together leave nothing to train")
        if trains and model.freeze_classifier and not processing.learns:
            raise InputError(f"{processing.flag} learns nothing: with --freeze_classifier nothing is left to train")
        if model.classifier_pretrained and model.freeze_classifier and not attack.adv_training:
            raise InputError(
                "--freeze_classifier would freeze the layers that --classifier_pretrained leaves random: train them "
                "first"
            )
        if attack.adv_training and not processing.learns_pipeline:
            raise InputError(
                f"--adv_training needs --processing_mode=parametrized or a --pipeline, got {processing.processing_mode}"
            )
        if attack.adv_training:
            for name in _DESCENT_ALONE:
                usual = getattr(OptimizationSettings(), name), PUBLISHED_OPTIMIZATION.get(name)
                if (value := getattr(self.optimization, name)) not in usual:
                    raise InputError(f"--{name}={value} is for training; --adv_training has an optimizer of its own")
        if attack.adv_training and processing.freeze_processor:
            raise InputError("--adv_training moves the processor's parameters, which --freeze_processor keeps")
        if self.tracking.track and not (self.tracking.records or attack.adv_track_differences):
            raise InputError(
                f"--track={','.join(self.tracking.track)} records nothing: add processing, gradients or predictions, "
                "or give --adv_track_differences"
            )

    @property
    def run_dir(self) -> pathlib.Path:
        """The folder of the run's folds."""
        return pathlib.Path(self.tracking.logdir) / self.tracking.experiment_name / self.tracking.run_name

    @property
    def code(self) -> tuple[str, ...]:
        """The functions of Python files that make the pipeline and the head."""
        names = self.processing.pipeline, self.model.classifier_network
        return tuple(name for name in names if name and named_code.is_file(name))


Finished = TypeVar("Finished", bound="FinishedRun")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupSettings(Settings):
    """Many trainings."""

    seeds: tuple[int, ...] = setting(
        "train a group of runs that differ in their seeds alone, in folders seed_<s> of the run's folder: the seeds, "
        "separated by commas, or a number n for 1 to n",
        (),
        bound=NOT_NEGATIVE,
    )
    scheduler: str = setting(f"with --seeds, {jobs.SETTING}", "serial", rare=True)

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.seeds)) < len(self.seeds) or self.seeds == (0,):
            given = ",".join(map(str, self.seeds))
            raise InputError(f"--seeds must be seeds that differ, or their number, got {given}")

    def members(self, config: TrainConfig) -> dict[str, TrainConfig]:
        """Returns the trainings of a group by the names of their folders: their samples are split in one way."""
        optimization = config.optimization
        split = optimization.seed if optimization.split_seed is None else optimization.split_seed
        seeds = range(1, max(self.seeds) + 1) if len(self.seeds) == 1 else self.seeds
        return {
            f"seed_{seed}": replace(
                config, seed=seed, split_seed=split, run_name=f"{config.tracking.run_name}/seed_{seed}"
            )
            for seed in seeds
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingProgram(Settings):
    """The flags of train.py."""

    training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    group: GroupSettings = GroupSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun(Settings):
    """Finished run."""

    run: str = setting("folder of a finished run, of one of its folds, or of a group of trainings")
    data_dir: str | None = setting("folder of the data set; default: where it was in training", None)
    checkpoint: str = setting(WHICH_CHECKPOINT, "best", choices=CHECKPOINTS)
    output: str | None = setting("folder for the results; default: one in the run's folder", None)
    code: tuple[str, ...] = setting(CODE, ())

    # The folder of the results, within the run's folder.
    results = "results"

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of the results."""
        return pathlib.Path(self.output) if self.output else pathlib.Path(self.run) / self.results

    def of_member(self: Finished, folder: pathlib.Path) -> Finished:
        """Returns the settings for a member of a group: its results go to its own folder, or to one in --output."""
        if folder == pathlib.Path(self.run):
            return self
        return replace(self, run=str(folder), output=self.output and str(pathlib.Path(self.output) / folder.name))
