"""What drift forensics is asked for."""

import dataclasses
import math
import pathlib

from r2l_jax.config import AUX_LOSSES
from r2l_jax.runtime.errors import InputError

# What the results of each analysis depend on, beside the trained model and the code.
SETTINGS = {
    "sensitivity": (),
    "tolerances": ("tolerance", "map", "seed"),
    "worst_case": (
        "adv_parameters",
        "adv_aux_loss",
        "adv_aux_weight",
        "adv_noise_layer",
        "adv_track_differences",
        "starts",
        "steps",
        "lr",
        "batch_size",
        "samples",
        "track_n_images",
        "seed",
    ),
}
ANALYSES = tuple(SETTINGS)


@dataclasses.dataclass(frozen=True)
class ForensicsConfig:
    """Analyses of how a trained model depends on its processing.

    Attributes are documented by the flags of scripts/forensics.py.

    Raises:
        InputError: values that are not known or out of range.
    """

    run: str
    data_dir: str | None = None
    output: str | None = None
    pipeline: str | None = None
    analyses: tuple[str, ...] = ANALYSES
    check: str | None = None
    tolerance: float = 2.0
    map: tuple[str, ...] = ()
    adv_parameters: tuple[str, ...] = ()
    adv_aux_loss: str = "ssim"
    adv_aux_weight: tuple[float, ...] = (10.0, 100.0, 1000.0)
    adv_noise_layer: bool = False
    adv_track_differences: bool = False
    starts: int = 2
    steps: int = 60
    lr: float = 0.01
    batch_size: int = 16
    samples: int = 512
    track_n_images: int = 5
    seed: int = 0

    def __post_init__(self):
        for name in ("tolerance", "starts", "steps", "lr", "batch_size", "samples", "track_n_images"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, got {self.seed}")
        if not self.analyses or not set(self.analyses) <= set(ANALYSES):
            raise InputError(f"--analyses must be of {', '.join(ANALYSES)}, got {','.join(self.analyses)!r}")
        if self.adv_aux_loss not in AUX_LOSSES:
            raise InputError(f"--adv_aux_loss must be one of {', '.join(AUX_LOSSES)}, got {self.adv_aux_loss!r}")
        if not self.adv_aux_weight or not all(0 <= weight < math.inf for weight in self.adv_aux_weight):
            raise InputError(f"--adv_aux_weight must be numbers of at least 0, got {list(self.adv_aux_weight)}")

    @property
    def output_dir(self) -> pathlib.Path:
        """Where the results go."""
        return pathlib.Path(self.output) if self.output else pathlib.Path(self.run) / "forensics"

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The pipeline of the user's that the run was trained with, if it is named."""
        return (self.pipeline,) if self.pipeline else ()

    def settings(self, analysis: str) -> dict[str, object]:
        """The flags that an analysis's results depend on."""
        return {name: getattr(self, name) for name in SETTINGS[analysis]}
