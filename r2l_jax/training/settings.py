"""The settings of training and tracking."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from r2l_jax.cli.flags import NOT_NEGATIVE, POSITIVE, SEED, Settings, setting
from r2l_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from r2l_jax.model.tasks import Task
    from r2l_jax.optimizers import Optimizer
else:
    Task = Optimizer = Any  # importing them would delay a program's help

# The purposes of camera augmentation, see `model.augment.re_expose`.
PURPOSES = ("exposure", "light", "optics", "readout")

# The parameters of the parametrized pipeline. Making the pipeline would start JAX before several hosts are connected.
PARAMETERS = (
    *("black_level", "debayer", "white_balance", "colour_correction"),
    *("sharpening_filter", "gaussian_blur", "gamma_correct"),
)

# Measures of an image's deviation from its default rendering, see `drift.search.frozen.deviation`.
AUX_LOSSES = ("ssim", "l2", "l2_sum")

# The optimization of the published program, which are also the settings of configs/published.flags.
PUBLISHED_OPTIMIZATION: dict[str, Any] = {
    **{"lr": 1e-5, "epochs": 3, "batch_size": 32, "augmentation": "none"},
    **{"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0, "ema": 0.0},
    **{"label_smoothing": 0.0, "class_weights": "none"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationSettings(Settings):
    """Optimization."""

    lr: float = setting("learning rate", 1e-3, bound=POSITIVE)
    epochs: int = setting(
        "passes over the training samples; 0 evaluates a trained head without training", 30, bound=NOT_NEGATIVE
    )
    optimizer: str = setting("sgd has a Nesterov momentum of 0.9", "adamw", choices=("adam", "adamw", "sgd"), rare=True)
    weight_decay: float = setting(
        "weight decay of the head's kernels, with --optimizer=adamw",
        0.05,
        bound=NOT_NEGATIVE,
        rare=True,
        needs="optimizer=adamw",
    )
    schedule: str = setting(
        "learning rate schedule: constant, or cosine, which falls to 0 in the last epoch",
        "cosine",
        choices=("constant", "cosine"),
        rare=True,
    )
    warmup_epochs: float = setting(
        "warmup of the learning rate from 0: a fraction of --epochs if below 1, else a number of epochs",
        1 / 15,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    label_smoothing: float = setting(
        "fraction of each training target that is spread over all classes, for classification",
        0.1,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    class_weights: str = setting(
        "class weights in the classification loss: balanced weighs classes inversely to their frequency",
        "balanced",
        choices=("none", "balanced"),
        rare=True,
    )
    ema: float = setting(
        "decay of the exponential moving average of the weights over the updates; 0 uses the last weights",
        0.98,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    batch_size: int = setting("samples per update, over all devices", 8, bound=POSITIVE)
    augmentation: str = setting(
        "image augmentation; weak: flips and 90-degree rotations; strong: also noise and smoothing",
        "weak",
        choices=("none", "weak", "strong"),
    )
    camera_augmentation: tuple[str, ...] | None = setting(
        "take each raw image again in other light and with another camera: exposure (half a stop less to 1.5 more), "
        "light (down to 1/24, up to 1.5 stops more), optics (vignetting, blur), readout (read and row noise, black "
        "level), several of them, or none; default: exposure where --auto meters",
        None,
        each=PURPOSES,
    )
    check_val_every_n_epoch: int = setting("validate after every n-th epoch and the last", 1, bound=POSITIVE, rare=True)
    seed: int = setting(
        "seed of the splits, the initial weights, the order of samples and the augmentation; defaults to the seed of "
        "the published program",
        1,
        bound=SEED,
    )
    split_seed: int | None = setting("seed of the splits; default: --seed", None, bound=SEED, rare=True)

    def build(self, epoch_steps: int) -> Optimizer:
        """Makes the optimizer of a run with this many updates per epoch."""
        from r2l_jax.optimizers import LearningRate, Optimizer

        end = self.epochs * epoch_steps if self.schedule == "cosine" else None
        warmup = self.warmup_epochs * (self.epochs if self.warmup_epochs < 1 else 1)
        return Optimizer(self.optimizer, LearningRate(self.lr, round(warmup * epoch_steps), end), self.weight_decay)

    def loss_of(self, task: Task, labels: "np.ndarray", freezes_head: bool) -> Task:
        """Returns a task with the training loss for samples with these labels, see `Task.for_training`."""
        guesses = freezes_head and bool(self.camera_augmentation)
        return task.for_training(labels, self.label_smoothing, self.class_weights == "balanced", guesses)

    def __post_init__(self):
        super().__post_init__()
        if 1 <= self.warmup_epochs > self.epochs:
            raise InputError(f"`warmup_epochs` must be at most `epochs={self.epochs}`, got {self.warmup_epochs:g}")
        for name in ("label_smoothing", "ema"):
            if (value := getattr(self, name)) >= 1:
                raise InputError(f"`{name}` must be below 1, got {value:g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSettings(Settings):
    """Adversarial training."""

    adv_training: bool = setting(
        "search for the processing that breaks a model: only the processor is trained, to increase the task loss. It "
        "starts from the camera's values or --processor_uri, and --lr is in natural ranges of the parameters. The head "
        "of --classifier_uri and all batch statistics are frozen, even without --freeze_classifier (unlike in the "
        "published program, which then stops). The best epoch has the lowest score",
        False,
        rare=True,
    )
    adv_parameters: str = setting(
        "parameters to train with --adv_training: all, or a list of additive_layer and parameters of the pipeline, "
        f"such as {', '.join(PARAMETERS)}",
        "all",
        rare=True,
        needs="adv_training",
    )
    adv_aux_loss: str = setting(
        "measure of deviation from the default rendering with --adv_training: ssim: 1 minus the structural similarity "
        "(the published program minimizes the similarity itself); l2: the mean squared difference; l2_sum: the sum "
        "over a batch, as in the published program, which is l2 times the batch size, height, width and 3",
        "ssim",
        choices=AUX_LOSSES,
        rare=True,
        needs="adv_training",
    )
    adv_aux_weight: float = setting(
        "weight of the deviation relative to the task loss, with --adv_training",
        1.0,
        bound=NOT_NEGATIVE,
        rare=True,
        needs="adv_training",
    )
    adv_noise_layer: bool = setting(
        "also train an image that is added to the pipeline's images, with --adv_training",
        False,
        rare=True,
        needs="adv_training",
    )
    adv_track_differences: bool = setting(
        "record pictures in the default rendering and under attack, and their difference, with --adv_training",
        False,
        rare=True,
        needs="adv_training",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingSettings(Settings):
    """Tracking."""

    experiment_name: str = setting("folder for runs that belong together", "experiment", rare=True)
    run_name: str = setting("folder for this run, inside the experiment's folder", "run")
    logdir: str = setting("folder for all experiments, as for TensorBoard's --logdir", "runs", rare=True)
    overwrite: bool = setting("start over instead of resuming an existing run of this name", False)
    log_model: bool = setting(
        "write checkpoints (true or false); a run without checkpoints cannot be resumed", True, kind="value", rare=True
    )
    save_locally: bool = setting(
        "also write the best model as model.safetensors, which r2l_jax.load reads without the run's folder",
        False,
        rare=True,
    )
    track: tuple[str, ...] = setting(
        "what to record for a few samples: processing, the picture after every stage; gradients, of the loss with "
        "respect to these pictures; predictions, with targets; arrays, all of these also as .npy; every_epoch, not "
        "only the last",
        (),
        each=("processing", "gradients", "predictions", "arrays", "every_epoch"),
        switches={
            "track_processing": "processing",
            "track_processing_gradients": "gradients",
            "track_predictions": "predictions",
            "track_save_tensors": "arrays",
            "track_every_epoch": "every_epoch",
        },
    )
    track_n_images: int = setting(
        "number of samples to record, cycling through the classes", 5, bound=POSITIVE, rare=True, needs="track"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("experiment_name", "run_name"):
            path = pathlib.PurePath(getattr(self, name))
            if not path.parts or path.is_absolute() or ".." in path.parts:
                raise InputError(f"`{name}` must be a relative folder name, got {getattr(self, name)!r}")
