"""The settings of how a model is trained and recorded."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import NOT_NEGATIVE, POSITIVE, Settings, setting

if TYPE_CHECKING:
    import numpy as np

    from r2l_jax.model.tasks import Task
    from r2l_jax.optimizers import Optimizer
else:
    Task = Optimizer = Any  # importing them would delay a program's help

# The purposes of camera augmentation, see `model.camera_augmentation`.
PURPOSES = ("light", "optics", "readout")

# The parameters of the parametrized pipeline. Making the pipeline would start JAX before several hosts are connected.
PARAMETERS = (
    *("black_level", "debayer", "white_balance", "colour_correction"),
    *("sharpening_filter", "gaussian_blur", "gamma_correct"),
)

# How an image's distance from its default rendering is measured, see `drift.search.frozen.deviation`.
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

    lr: float = setting("the learning rate", 1e-3, bound=POSITIVE)
    epochs: int = setting(
        "passes over the training samples; 0 trains nothing, and measures a trained head as it is",
        30,
        bound=NOT_NEGATIVE,
    )
    optimizer: str = setting("sgd has a Nesterov momentum of 0.9", "adamw", choices=("adam", "adamw", "sgd"), rare=True)
    weight_decay: float = setting(
        "with --optimizer=adamw, the decay of the head's kernels",
        0.05,
        bound=NOT_NEGATIVE,
        rare=True,
        needs="optimizer=adamw",
    )
    schedule: str = setting(
        "how the learning rate changes: constant, or a cosine that falls to 0 in the last epoch",
        "cosine",
        choices=("constant", "cosine"),
        rare=True,
    )
    warmup_epochs: float = setting(
        "the epochs over which the learning rate rises from 0: their share of --epochs if below 1, else their number",
        1 / 15,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    label_smoothing: float = setting(
        "for classification: in training, this share of each target is spread over all classes",
        0.1,
        bound=NOT_NEGATIVE,
        rare=True,
    )
    class_weights: str = setting(
        "for classification: balanced gives rare classes more weight in the training loss, by their number of samples",
        "balanced",
        choices=("none", "balanced"),
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
        "weak: flips and right-angle turns; strong: also noise and smoothing",
        "weak",
        choices=("none", "weak", "strong"),
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
        warmup = self.warmup_epochs * (self.epochs if self.warmup_epochs < 1 else 1)
        return Optimizer(self.optimizer, LearningRate(self.lr, round(warmup * epoch_steps), end), self.weight_decay)

    def loss_of(self, task: Task, labels: "np.ndarray", freezes_head: bool) -> Task:
        """Returns a task with the training loss for samples with these labels, see `Task.for_training`."""
        guesses = freezes_head and bool(self.camera_augmentation)
        return task.for_training(labels, self.label_smoothing, self.class_weights == "balanced", guesses)

    def __post_init__(self):
        super().__post_init__()
        if 1 <= self.warmup_epochs > self.epochs:
            raise InputError(f"--warmup_epochs={self.warmup_epochs:g} is more than --epochs={self.epochs}")
        for name in ("label_smoothing", "ema"):
            if (value := getattr(self, name)) >= 1:
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
    adv_parameters: str = setting(
        "with --adv_training, a list of the parameters that may move: all, additive_layer, or parameters of the "
        f"pipeline, such as {', '.join(PARAMETERS)}",
        "all",
        rare=True,
        needs="adv_training",
    )
    adv_aux_loss: str = setting(
        "with --adv_training, how deviation from the default rendering is measured: ssim: 1 minus the structural "
        "similarity (the published program minimizes the similarity itself); l2: the mean squared difference; l2_sum: "
        "the sum over a batch, as in the published program, which is l2 times the batch size, height, width and 3",
        "ssim",
        choices=AUX_LOSSES,
        rare=True,
        needs="adv_training",
    )
    adv_aux_weight: float = setting(
        "with --adv_training, the weight of the deviation relative to the task loss",
        1.0,
        bound=NOT_NEGATIVE,
        rare=True,
        needs="adv_training",
    )
    adv_noise_layer: bool = setting(
        "with --adv_training, also train an image that is added to the pipeline's images",
        False,
        rare=True,
        needs="adv_training",
    )
    adv_track_differences: bool = setting(
        "with --adv_training, record pictures in the default rendering and under attack, and their difference",
        False,
        rare=True,
        needs="adv_training",
    )


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
        "how many samples to record, of all classes in turn", 5, bound=POSITIVE, rare=True, needs="track"
    )

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
