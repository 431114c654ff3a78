"""Declares the settings of drift forensics."""

import dataclasses
import pathlib

from r2l_jax.config import AUX_LOSSES, FinishedRun
from r2l_jax.names import BY_SHOT, SHOT_FIELDS
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import NOT_NEGATIVE, POSITIVE, setting

# The settings that the results of each analysis depend on. They also depend on the trained model and the code.
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
        InputError: a value is unknown or out of range.
    """

    analyses: tuple[str, ...] = setting(f"the analyses to make, of {', '.join(ANALYSES)}", ANALYSES, each=ANALYSES)
    check: str | None = setting(
        "only compare a camera with the tolerances: a raw file, a JSON file, drone or microscopy", None
    )
    tolerance: float = setting("how many points (hundredths) the score may fall", 2.0, bound=POSITIVE)
    map: tuple[str, ...] = setting("two knobs of which to map the scores while both move", ())
    adv_parameters: tuple[str, ...] = setting(
        "groups to search: all, or single parameters; default: all, and each parameter that is tuned by hand", ()
    )
    adv_aux_loss: str = setting("the measure of the distance to the default rendering", "ssim", choices=AUX_LOSSES)
    adv_aux_weight: tuple[float, ...] = setting(
        "the weight of that distance beside the task loss; each of several is tried",
        (10.0, 100.0, 1000.0),
        bound=NOT_NEGATIVE,
    )
    adv_noise_layer: bool = setting("also search over an image that is added to the result", False)
    adv_track_differences: bool = setting("write pictures of the default, the worst case and their difference", False)
    starts: int = setting(
        "starts of the search for each group and weight: the default, and random points around it", 2, bound=POSITIVE
    )
    steps: int = setting("steps of each search", 60, bound=POSITIVE)
    lr: float = setting(
        "about how far a parameter moves in a step, as a fraction of its natural range", 0.01, bound=POSITIVE
    )
    batch_size: int = setting("samples at once, and in a step of one search", 16, bound=POSITIVE)
    samples: int = setting("the greatest number of training samples that searches draw from", 512, bound=POSITIVE)
    track_n_images: int = setting("how many samples the pictures show", 5, bound=POSITIVE)
    by: tuple[str, ...] = setting(f"{BY_SHOT}, by default and in the worst cases", (), each=SHOT_FIELDS)
    seed: int = setting("the seed of samples, starts and batches", 0, bound=NOT_NEGATIVE)

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
            ignored["analyses"] = ignored["by"] = where
        if not self.adv_track_differences:
            ignored.setdefault("track_n_images", "without --adv_track_differences")
        return ignored

    @property
    def output_dir(self) -> pathlib.Path:
        """The folder of the results."""
        return pathlib.Path(self.output) if self.output else pathlib.Path(self.run) / "forensics"

    def settings(self, analysis: str) -> dict[str, object]:
        """Returns the flags that the results of an analysis, or of `shots`, depend on."""
        if analysis == "shots":
            searches = self.settings("worst_case") if "worst_case" in self.analyses else {}
            return {"by": self.by, **searches}
        return {name: getattr(self, name) for name in SETTINGS[analysis]}
