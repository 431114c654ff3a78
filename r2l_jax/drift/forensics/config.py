"""Declares the settings of drift forensics."""

import dataclasses

from r2l_jax.config import NOT_OF_TRAINING, FinishedRun
from r2l_jax.names import BY_SHOT, SHOT_FIELDS
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import NOT_NEGATIVE, POSITIVE, Settings, setting
from r2l_jax.training.settings import AUX_LOSSES

ANALYSES = ("sensitivity", "tolerances", "worst_case")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToleranceSettings(Settings):
    """Tolerances."""

    tolerance: float = setting(
        "how many points (hundredths) the score may fall", 2.0, bound=POSITIVE, needs="analyses=tolerances"
    )
    map: tuple[str, ...] = setting(
        "two knobs: also measure the scores while both move; once for each pair",
        (),
        kind="repeated",
        needs="analyses=tolerances",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorstCaseSettings(Settings):
    """Worst cases.

    Raises:
        InputError: no weight.
    """

    adv_parameters: tuple[str, ...] = setting(
        "groups to search: all, or single parameters; default: all, and each parameter that is tuned by hand",
        (),
        needs="analyses=worst_case",
    )
    adv_aux_loss: str = setting(
        "the measure of the distance to the default rendering",
        "ssim",
        choices=AUX_LOSSES,
        needs="analyses=worst_case",
    )
    adv_aux_weight: tuple[float, ...] = setting(
        "the weight of that distance beside the task loss; each of several is tried",
        (10.0, 100.0, 1000.0),
        bound=NOT_NEGATIVE,
        needs="analyses=worst_case",
    )
    adv_noise_layer: bool = setting(
        "also search over an image that is added to the result", False, rare=True, needs="analyses=worst_case"
    )
    adv_track_differences: bool = setting(
        "write pictures of the default, the worst case and their difference", False, needs="analyses=worst_case"
    )
    starts: int = setting(
        "starts of the search for each group and weight: the default, the worst point where one number alone is moved, "
        "and random points around the default",
        2,
        bound=POSITIVE,
        rare=True,
        needs="analyses=worst_case",
    )
    steps: int = setting("steps of each search", 60, bound=POSITIVE, needs="analyses=worst_case")
    step_size: float = setting(
        "about how far a parameter moves in a step, as a fraction of its natural range",
        0.01,
        bound=POSITIVE,
        rare=True,
        needs="analyses=worst_case",
    )
    samples: int = setting(
        "the greatest number of training samples that searches draw from",
        512,
        bound=POSITIVE,
        rare=True,
        needs="analyses=worst_case",
    )
    track_n_images: int = setting(
        "how many samples the pictures show", 5, bound=POSITIVE, rare=True, needs="adv_track_differences"
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.adv_aux_weight:
            raise InputError("--adv_aux_weight is empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForensicsConfig(FinishedRun):
    """Forensics.

    Raises:
        InputError: a value is unknown or out of range.
    """

    analyses: tuple[str, ...] = setting(f"the analyses to make, of {', '.join(ANALYSES)}", ANALYSES, each=ANALYSES)
    by: tuple[str, ...] = setting(
        f"{BY_SHOT}, by default and in the worst cases", (), each=SHOT_FIELDS, needs="analyses=worst_case"
    )
    batch_size: int = setting("samples at once, and in a step of one search", 16, bound=POSITIVE, rare=True)
    seed: int = setting(
        f"the seed of samples, starts and batches{NOT_OF_TRAINING}",
        0,
        bound=NOT_NEGATIVE,
        rare=True,
        needs="analyses=tolerances|worst_case",
    )
    tolerances: ToleranceSettings = ToleranceSettings()
    worst_case: WorstCaseSettings = WorstCaseSettings()
    results = "forensics"

    def __post_init__(self):
        super().__post_init__()
        if not self.analyses:
            raise InputError("--analyses is empty")
