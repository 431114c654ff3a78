"""The settings of drift forensics."""

import dataclasses
import pathlib

from r2l_jax.config import AUX_LOSSES, FinishedRun
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import NOT_NEGATIVE, POSITIVE, setting

# The settings that the results of each analysis depend on, beside the trained model and the code.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForensicsConfig(FinishedRun):
    """Forensics.

    Raises:
        InputError: values that are not known or out of range.
    """

    analyses: tuple[str, ...] = setting(f"which to do, of {', '.join(ANALYSES)}", ANALYSES, each=ANALYSES)
    check: str | None = setting(
        "only check a camera by the tolerances: a raw file, a JSON file, drone or microscopy", None
    )
    tolerance: float = setting("points (hundredths) of the score that a parameter may cost", 2.0, bound=POSITIVE)
    map: tuple[str, ...] = setting("two parameters whose tolerance to map together", ())
    adv_parameters: tuple[str, ...] = setting(
        "groups to search: all, or parameters; default: all, and each alone that is tuned by hand", ()
    )
    adv_aux_loss: str = setting("how the distance to the default is measured", "ssim", choices=AUX_LOSSES)
    adv_aux_weight: tuple[float, ...] = setting(
        "price of that distance; several are tried", (10.0, 100.0, 1000.0), bound=NOT_NEGATIVE
    )
    adv_noise_layer: bool = setting("also search over an image that is added at the end", False)
    adv_track_differences: bool = setting("write pictures of default, worst case and difference", False)
    starts: int = setting("of each group and weight: the default, and others at random around it", 2, bound=POSITIVE)
    steps: int = setting("of each search", 60, bound=POSITIVE)
    lr: float = setting(
        "about how far a parameter moves in a step, as a fraction of its natural range", 0.01, bound=POSITIVE
    )
    batch_size: int = setting("samples at once, and in a step of one search", 16, bound=POSITIVE)
    samples: int = setting("training samples that searches draw from, at most", 512, bound=POSITIVE)
    track_n_images: int = setting("how many samples the pictures show", 5, bound=POSITIVE)
    seed: int = setting("of samples, starts and batches", 0, bound=NOT_NEGATIVE)

    def __post_init__(self):
        super().__post_init__()
        for name in ("analyses", "adv_aux_weight"):
            if not getattr(self, name):
                raise InputError(f"--{name} is empty")

    def without_effect(self) -> dict[str, str]:
        """Returns the flags that no chosen analysis uses."""
        asked = ("tolerances",) if self.check else self.analyses
        used = {"batch_size"}.union(*(SETTINGS[name] for name in asked))
        where = "in --check" if self.check else f"in {', '.join(self.analyses)}"
        ignored = dict.fromkeys(sorted(set().union(*SETTINGS.values()) - used), where)
        if self.check:
            ignored["analyses"] = where
        if not self.adv_track_differences:
            ignored.setdefault("track_n_images", "without --adv_track_differences")
        return ignored

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of the results."""
        return pathlib.Path(self.output) if self.output else pathlib.Path(self.run) / "forensics"

    def settings(self, analysis: str) -> dict[str, object]:
        """Returns the flags that an analysis's results depend on."""
        return {name: getattr(self, name) for name in SETTINGS[analysis]}
