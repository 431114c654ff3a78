"""Declares the settings of drift forensics."""

import dataclasses
import functools

from r2l_jax.cli.flags import NOT_NEGATIVE, POSITIVE, SEED, Settings, setting
from r2l_jax.config import NOT_OF_TRAINING, FinishedRun
from r2l_jax.errors import InputError
from r2l_jax.names import BY_SHOT, SHOT_FIELDS
from r2l_jax.training.settings import AUX_LOSSES

ANALYSES = ("sensitivity", "tolerances", "worst_case")


# The flags of each analysis have an effect only with it.
_of_tolerances = functools.partial(setting, needs="analyses=tolerances")
_of_worst_case = functools.partial(setting, needs="analyses=worst_case")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToleranceSettings(Settings):
    """Tolerances."""

    tolerance: float = _of_tolerances("tolerated drop of the score, in points (hundredths)", 2.0, bound=POSITIVE)
    map: tuple[str, ...] = _of_tolerances(
        "two knobs to move together, for a map of the scores; repeat the flag for more pairs", (), kind="repeated"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorstCaseSettings(Settings):
    """Worst cases.

    Raises:
        InputError: no weight is given.
    """

    adv_parameters: tuple[str, ...] = _of_worst_case(
        "groups to search: all, or single parameters; default: all, and each parameter that is tuned by hand", ()
    )
    adv_aux_loss: str = _of_worst_case("measure of the distance from the default rendering", "ssim", choices=AUX_LOSSES)
    adv_aux_weight: tuple[float, ...] = _of_worst_case(
        "weights of that distance relative to the task loss, each of which is tried",
        (10.0, 100.0, 1000.0),
        bound=NOT_NEGATIVE,
    )
    adv_noise_layer: bool = _of_worst_case(
        "also search over an image that is added to the processed image", False, rare=True
    )
    adv_track_differences: bool = _of_worst_case(
        "write pictures of the default, the worst case and their difference", False
    )
    starts: int = _of_worst_case(
        "searches for each group and weight: from the default, from the worst point at which a single value is moved, "
        "and from random points around the default",
        2,
        bound=POSITIVE,
        rare=True,
    )
    steps: int = _of_worst_case("steps of each search", 60, bound=POSITIVE)
    step_size: float = _of_worst_case(
        "about how far a parameter moves in a step, as a fraction of its natural range", 0.01, bound=POSITIVE, rare=True
    )
    samples: int = _of_worst_case(
        "maximum number of training samples that searches draw from", 512, bound=POSITIVE, rare=True
    )
    track_n_images: int = setting(
        "number of samples in the pictures", 5, bound=POSITIVE, rare=True, needs="adv_track_differences"
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.adv_aux_weight:
            raise InputError("`adv_aux_weight` is empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForensicsConfig(FinishedRun):
    """Forensics.

    Raises:
        InputError: a value is unknown or out of range.
    """

    analyses: tuple[str, ...] = setting(f"analyses to run, some of {', '.join(ANALYSES)}", ANALYSES, each=ANALYSES)
    by: tuple[str, ...] = setting(
        f"{BY_SHOT}; under the default and in the worst cases", (), each=SHOT_FIELDS, needs="analyses=worst_case"
    )
    batch_size: int = setting("samples at once, and in each step of a search", 16, bound=POSITIVE, rare=True)
    seed: int = setting(
        f"the seed of samples, starts and batches{NOT_OF_TRAINING}",
        0,
        bound=SEED,
        rare=True,
        needs="analyses=tolerances|worst_case",
    )
    tolerances: ToleranceSettings = ToleranceSettings()
    worst_case: WorstCaseSettings = WorstCaseSettings()
    results = "forensics"

    def __post_init__(self):
        super().__post_init__()
        if not self.analyses:
            raise InputError("`analyses` is empty")
