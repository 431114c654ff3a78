"""The settings of drift adjustment."""

import dataclasses
import functools

from r2l_jax.cli.flags import NOT_NEGATIVE, POSITIVE, SEED, Settings, setting
from r2l_jax.config import NOT_OF_TRAINING, FinishedRun
from r2l_jax.drift.settings import Case, DriftSettings
from r2l_jax.errors import InputError

# The rows of tables: the model as it is, the baseline with the statistics of the new images alone, and the methods by
# the names of --method, each of which continues from the one before.
NOTHING, ALL_STATISTICS = "nothing", "all statistics"
METHODS = {"statistics": "mixed statistics", "processing": "processing", "labels": "labels"}


# The number of steps of a search, and their size in natural ranges.
BY_LABELS, BY_FEATURES = (120, 0.01), (40, 0.03)

# The name of the drift to real data, given by --drifted_data_dir.
DATA = "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSettings(Settings):
    """Methods of test-time adaptation."""

    method: str = setting(
        "statistics: mix the drifted images' batch-norm statistics with the training statistics (AdaBN); processing: "
        "also tune the processing until the features look as in training; labels: then tune it with labels; all: every "
        "method that --unlabeled and --labeled allow",
        "all",
        choices=(*METHODS, "all"),
    )
    unlabeled: int = setting(
        "number of unlabeled images to adapt to: 0, at least 8, or at least 2 with --force", 64, bound=NOT_NEGATIVE
    )
    labeled: int = setting(
        "number of labeled images to adapt to, which are the first of the unlabeled ones", 0, bound=NOT_NEGATIVE
    )
    force: bool = setting(
        "adapt even if the images look unlike a mixture of the training classes, or show no drift", False
    )
    parameters: tuple[str, ...] = setting(
        "parameters to adapt, or all; default: those that are tuned by hand (see isp.Parameter)", ()
    )
    steps: int | None = setting(
        f"steps of each search; default: {BY_LABELS[0]} with labels, {BY_FEATURES[0]} without",
        None,
        bound=POSITIVE,
        rare=True,
    )
    batch_size: int = setting("samples at once, and in each step of a search", 16, bound=POSITIVE, rare=True)
    seed: int = setting(
        f"the seed of the labeled images, the batches and the noise{NOT_OF_TRAINING}", 0, bound=SEED, rare=True
    )

    def __post_init__(self):
        super().__post_init__()
        if self.unlabeled == 1:
            raise InputError("`unlabeled` must be 0 or at least 2, got 1: one image has no statistics")
        if self.method == "labels" and not self.labeled:
            raise InputError("`method=labels` needs labeled images: give `labeled`, such as `labeled=32`")
        if self.method in ("statistics", "processing") and not self.unlabeled:
            raise InputError(f"`method={self.method}` needs images without labels, got `unlabeled=0`")
        if not self.labeled and not self.unlabeled:
            raise InputError("nothing to adapt to: give `unlabeled` or `labeled`")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are tried, in order; the last one is the result."""
        if not self.unlabeled:
            return ("labels",)
        most = "labels" if self.labeled else "processing"
        return tuple(METHODS)[: [*METHODS].index(most if self.method == "all" else self.method) + 1]

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of tables: the model as it is, the baseline and the methods, whose last one is the result."""
        return (NOTHING, *([ALL_STATISTICS] if self.unlabeled else []), *(METHODS[name] for name in self.methods))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdjustmentConfig(DriftSettings, FinishedRun):
    """Drift adjustment: adapts to each drift that is named."""

    drifted_data_dir: str | None = setting(
        "adapt to other data of the same classes: a folder with a sub-folder of raw files for each class, or with "
        "images/ and masks/; for the published sets, a folder in their layout",
        None,
    )
    drifted_camera: str | None = setting(
        "camera of --drifted_data_dir, as for --camera of train.py; default: the training camera; after training on an "
        "embedded set, each file's own for camera formats",
        None,
    )
    searches: MethodSettings = MethodSettings()
    results = "adjustment"

    def __post_init__(self):
        super().__post_init__()
        if self.drifted_camera and not self.drifted_data_dir:
            raise InputError("`drifted_camera` is the camera of `drifted_data_dir`: give `drifted_data_dir` as well")
        if not self.drifts:
            raise InputError(
                "no drift to adapt to: give `intensities`, `exposures`, `pipelines`, `sensor`, `cameras` or "
                "`drifted_data_dir`"
            )

    @functools.cached_property
    def drifts(self) -> tuple[Case, ...]:
        """The drifts, each once."""
        from r2l_jax.drift import cases

        known = [case for of_kind in self.known_cases.values() for case in of_kind]
        return tuple(dict.fromkeys([*known, *([cases.Case(DATA, DATA)] if self.drifted_data_dir else [])]))
