"""The settings of data sets.

Settings modules import no numerical packages, which would delay `--help`.
"""

import dataclasses
from typing import Any

from r2l_jax.cli.flags import FRACTION, NOT_NEGATIVE, POSITIVE, Settings, setting
from r2l_jax.errors import InputError
from r2l_jax.names import INTENSITIES

SYNTHETIC_SETS = ("Synthetic", "SyntheticSegmentation")
PUBLISHED_SETS = ("Microscopy", "MicroscopyRGB", "Drone", "DroneSegmentation", "DroneSegmentationFull")
# The value of --n_splits for which each group is left out once.
LEAVE_ONE_OUT = "groups"

DATASETS = (*SYNTHETIC_SETS, "Folder", *PUBLISHED_SETS)

# Begins the names of data sets that a Python caller holds in memory.
IN_MEMORY = "memory:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Data set."""

    dataset: str = setting(f"one of {', '.join(DATASETS)}", "Synthetic")
    data_dir: str | None = setting(
        "data set folder, where a synthetic data set is also written; default: the user's cache folder", None
    )
    download: bool = setting(
        "download a published data set from Zenodo if it is missing",
        False,
        rare=True,
        needs=f"dataset={'|'.join(PUBLISHED_SETS)}",
    )
    camera: str = setting(
        "for Folder: drone, microscopy, a JSON file, or auto, which reads the calibration from each file",
        "auto",
        needs="dataset=Folder",
    )
    tile_size: int | None = setting(
        "for Folder: side of the square tiles that frames with masks are cut into, or of the center crop of files to "
        "classify; default: 256, or the shortest side of any file to classify if that is smaller",
        None,
        needs="dataset=Folder",
    )
    classes: tuple[str, ...] | None = setting(
        "the classes of masks, in the order of their values from 0 on; pixels of 255 are ignored; default: the classes "
        "in the folder's classes.json or, without that file, one object; SyntheticSegmentation offers nucleus, "
        "cytoplasm and red cell beside the background, and by default has one object, the white cell",
        None,
        rare=True,
        needs="dataset=Folder|SyntheticSegmentation",
    )
    group: str | None = setting(
        "for Folder: which samples depend on each other, such as cells of one patient: folder (each class folder has "
        "one for each group), a pattern whose first group matches a part of the file name, such as '(p\\d+)_', or a "
        "CSV file with the columns name and group; splits keep groups together, and intervals count groups; by "
        "default, the tiles of a frame belong together",
        None,
        needs="dataset=Folder",
    )
    annotations: str | None = setting(
        "for Folder: COCO JSON file with boxes in pixels for a detector, whose images are the raw files of the folder; "
        "or CSV file with the columns name and numbers, for --task",
        None,
        rare=True,
        needs="dataset=Folder",
    )
    synthetic_images: int = setting(
        "number of scenes in the synthetic data set",
        600,
        bound=POSITIVE,
        rare=True,
        needs=f"dataset={'|'.join(SYNTHETIC_SETS)}",
    )
    synthetic_size: int = setting(
        "height and width of the synthetic scenes in pixels",
        128,
        bound=POSITIVE,
        rare=True,
        needs=f"dataset={'|'.join(SYNTHETIC_SETS)}",
    )

    @property
    def has_intensities(self) -> bool:
        """Whether the data set's raw images were taken at several light intensities."""
        return self.dataset != "Folder" and not self.dataset.startswith(IN_MEMORY)

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of `datasets.load` that say where the samples come from, without the name of the data set."""
        names = ("data_dir", "camera", "tile_size", "classes", "group", "annotations")
        names += ("synthetic_images", "synthetic_size")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingDataSettings(DataSettings):
    """Training data."""

    iso: tuple[float, ...] = setting(
        f"light intensity, one of {', '.join(map('{:g}'.format, INTENSITIES))}, or several, separated by commas: "
        "batches mix them, and splits keep all raw images of a scene together",
        (1.0,),
        rare=True,
        needs="!dataset=Folder",
    )
    n_splits: int | str = setting(
        "number of random splits, each trained as one fold; groups: one fold for each group, which validates on it",
        1,
        rare=True,
    )
    train_size: float = setting(
        "fraction of the samples outside of --test_size to train on", 0.8, bound=FRACTION, rare=True
    )
    test_size: float = setting(
        "held-out test samples, used neither for training nor to choose the best epoch, on which all drift controls "
        "then measure: a fraction if below 1, else a number",
        0.0,
        bound=NOT_NEGATIVE,
        needs="!split !test_groups !state_dict_uri",
    )
    test_groups: tuple[str, ...] = setting(
        "the groups to test on, such as p7,p8 of the patients of --group, in place of a drawn --test_size",
        (),
        rare=True,
        needs="!split !state_dict_uri",
    )
    split: str | None = setting(
        "a custom split: a JSON file with lists of image names under train, test and, optionally, valid",
        None,
        rare=True,
        needs="!state_dict_uri",
    )
    state_dict_uri: str | None = setting("earlier run whose splits to reuse", None, rare=True)
    test_run: bool = setting(
        "use only one batch of training samples and one batch of validation samples", False, rare=True
    )

    def __post_init__(self):
        super().__post_init__()
        if str(self.n_splits).isdecimal():
            object.__setattr__(self, "n_splits", int(self.n_splits))
        if self.n_splits != LEAVE_ONE_OUT and not (isinstance(self.n_splits, int) and 0 < self.n_splits < 2**31):
            raise InputError(f"`n_splits` must be a positive number or {LEAVE_ONE_OUT}, got {self.n_splits}")
        if self.n_splits == LEAVE_ONE_OUT and self.state_dict_uri is not None:
            raise InputError(f"`n_splits` must be a number with `state_dict_uri`, got {LEAVE_ONE_OUT}")
        # Sorted, since equal runs must record equal settings.
        object.__setattr__(self, "iso", tuple(sorted(self.iso)))
        if len(set(self.iso)) < max(len(self.iso), 1):
            named = ",".join(map("{:g}".format, self.iso))
            raise InputError(f"`iso` must be one or more distinct intensities, got {named or 'none'}")
        if self.test_size > 1 and not self.test_size.is_integer():
            raise InputError(f"`test_size` must be a fraction below 1 or a whole number, got {self.test_size:g}")

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of `DataSettings.source`, with the intensities."""
        return {**super().source, "iso": self.iso}
