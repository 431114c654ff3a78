"""The reference with which a monitor compares new images: samples that a run was measured on."""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
import safetensors

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.statistics import Others, Seen, see
from r2l_jax.errors import InputError, warn
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.results.files import write_safetensors
from r2l_jax.training.run import Run

FILE = "reference.safetensors"

# The most samples and the most bytes in a reference, which holds fewer samples of large raw images.
MOST = 512
_BYTES = 2**25

# The kind of samples that are images of a camera that was accepted as it is.
ACCEPTED = "accepted"

# With fewer samples, only the largest drifts would be detected.
LEAST = 32

# The probability of adapting to images without drift.
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Reference:
    """Samples that no model of a run was trained on; or accepted images, without targets and labels.

    Attributes:
        mosaics: their raw images, as fractions of white times 65535.
        targets: their classes or masks.
        labels: the class of each, or of its main object.
        groups: the number of the group of each; samples of one group depend on each other.
        measured: the kind of samples in the run, "test" or "validation"; or "accepted".
        seen: their statistics.
        others: the statistics of images of other groups, if images depend on each other.
    """

    mosaics: np.ndarray
    targets: np.ndarray | None
    labels: np.ndarray | None
    groups: np.ndarray
    measured: str
    seen: Seen
    others: Others | None = None

    def __len__(self) -> int:
        return len(self.mosaics)

    @functools.cached_property
    def raws(self) -> np.ndarray:
        """The raw images in [0, 1]."""
        return self.mosaics.astype(np.float32) / 65535

    def dataset(self, run: Run, raws: np.ndarray) -> RawDataset:
        """Returns the labeled samples as a data set of a run, with other raw images."""
        targets, labels = self.targets, self.labels
        assert targets is not None
        assert labels is not None
        return RawDataset(
            name="reference",
            task=run.about.task,
            classes=run.classes,
            camera=run.camera,
            names=tuple(map(str, range(len(self)))),
            labels=labels,
            read=lambda index: (raws[index], targets[index]),
            groups=self.groups,
        )


def file_of(run: str | os.PathLike) -> pathlib.Path:
    """Returns the file of the reference of a run or a group, in its folder, or of a model's file, beside it."""
    place = pathlib.Path(run)
    return (place.parent if place.is_file() else place) / "monitor" / FILE


def make(run: Run) -> Reference:
    """Takes random samples that no model of a run was trained on, of as many groups as possible.

    If samples depend on each other, the statistics of as many samples of other groups are added, because a set may have
    few groups.

    Raises:
        InputError: the data is missing, or there are too few such samples.
    """
    common = functools.reduce(np.intersect1d, [fold.measured_indices for fold in run])
    dataset = run.dataset
    size = 2 * int(np.prod(run.shape)) + dataset[int(common[0])][1].nbytes if len(common) else 1
    rng, most = np.random.default_rng(0), min(MOST, max(_BYTES // size, LEAST))
    # Images of one group depend on each other, so one of each is taken where there are enough groups.
    distinct = len(np.unique(dataset.groups_of(common)))
    most = min(most, distinct) if distinct >= LEAST else most
    chosen = np.sort(dataset.taking_turns(rng.permutation(common))[:most])
    if len(chosen) < LEAST:
        raise InputError(
            f"a reference needs {LEAST} samples that no model of the run was trained on, got {len(chosen)}: "
            "train with a larger `test_size`"
        )
    raws, targets = dataset.samples(chosen)
    raws = np.asarray(raws)  # Without their frames, as `monitor.py` reads files.
    mosaics = quantized(raws, np.uint16)
    groups = np.unique(dataset.groups_of(chosen), return_inverse=True)[1]
    others = None
    rest = functools.reduce(np.union1d, [part for fold in run for part in (fold.split.train, fold.split.valid)])
    rest = rest[~np.isin(dataset.groups_of(rest), dataset.groups_of(chosen))]
    if distinct < len(common) and len(rest):
        rest = np.sort(dataset.taking_turns(rng.permutation(rest))[:most])
        found = see(run, np.asarray(dataset.samples(rest)[0]))
        others = Others(found.mosaic, found.image, dataset.groups_of(rest))
    seen = see(run, raws, groups)
    return Reference(mosaics, targets, dataset.labels[chosen], groups, run.folds[0].measured, seen, others)


def accepted(run: Run, raws: np.ndarray, groups: np.ndarray | None = None) -> Reference:
    """Makes a reference of images of a camera that is accepted as it is, at most as many as `make` takes.

    Args:
        run: the models.
        raws: the raw images.
        groups: the number of the group of each; None if no image depends on another.

    Raises:
        InputError: they are too few.
    """
    if len(raws) < LEAST:
        raise InputError(f"a reference needs {LEAST} images, got {len(raws)}")
    most = min(len(raws), MOST, max(_BYTES // (2 * raws[0].size), LEAST))
    chosen = np.linspace(0, len(raws) - 1, most).round().astype(int)
    raws, groups = raws[chosen], np.arange(most) if groups is None else groups[chosen]
    return Reference(quantized(raws, np.uint16), None, None, groups, ACCEPTED, see(run, raws, groups))


def replace(reference: Reference, run: Run, file: pathlib.Path) -> pathlib.Path | None:
    """Writes a reference, and returns the file that the old one is kept in, if there is one."""
    kept = None
    if file.exists():
        free = (file.with_stem(f"{file.stem}_{number}") for number in itertools.count(1))
        kept = file.rename(next(each for each in free if not each.exists()))
    write(reference, run, file)
    return kept


def write(reference: Reference, run: Run, file: pathlib.Path) -> None:
    """Writes the samples of a reference with the identity of its models."""
    names = ("mosaics", "targets", "labels", "groups")
    arrays = {name: array for name in names if (array := getattr(reference, name)) is not None}
    if reference.others is not None:
        arrays |= {f"others.{name}": array for name, array in reference.others._asdict().items()}
    write_safetensors(
        file, arrays, {"models": json.dumps([fold.identity for fold in run]), "measured": reference.measured}
    )


def read(run: Run, file: pathlib.Path) -> Reference | None:
    """Reads the reference of a run, and computes its statistics; returns None if its models have none.

    Raises:
        InputError: it is damaged.
    """
    if not file.exists():
        return None
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            about = opened.metadata()
            if json.loads(about["models"]) != [fold.identity for fold in run]:
                return None
            mosaics, groups = map(opened.get_tensor, ("mosaics", "groups"))
            is_labeled = about["measured"] != ACCEPTED
            targets, labels = map(opened.get_tensor, ("targets", "labels")) if is_labeled else (None, None)
            stored = [f"others.{name}" for name in Others._fields]
            others = Others(*map(opened.get_tensor, stored)) if stored[0] in opened.keys() else None  # noqa: SIM118
        seen = see(run, mosaics.astype(np.float32) / 65535, groups)
        return Reference(mosaics, targets, labels, groups, about["measured"], seen, others)
    except (OSError, ValueError, LookupError, TypeError, safetensors.SafetensorError):
        raise InputError(f"{file} is damaged: remove it; the same command makes another from the run's data") from None


def of_run(run: Run, file: pathlib.Path) -> tuple[Reference, bool]:
    """Reads the reference of a run, or makes and writes it; returns whether it was made.

    Raises:
        InputError: the reference is damaged, or it is missing or of other models, and the data to make it is missing.
    """
    found = read(run, file)
    if found is not None:
        return found, False
    try:
        made = make(run)
    except InputError as error:
        why = f"{file} belongs to another model" if file.exists() else f"there is no {file}"
        raise InputError(f"{why}, and it cannot be made: {error}") from None
    write(made, run, file)
    return made, True


def unnoticed(
    run: Run, raws: np.ndarray, find_reference: Callable[[], Reference], groups: np.ndarray | None = None
) -> str | None:
    """Returns a message if no drift is detected in the features of new images, else None.

    Adapting moves the statistics of the normalization layers toward those of new images. If the features have not
    drifted, as after a change of the light that metering has undone, it can only cost accuracy. The confidence of a
    model cannot tell whether it needs adaptation, because it can be confident and wrong. Without a reference, it warns
    and returns None.

    Args:
        run: the models.
        raws: the new raw images, of the training size.
        find_reference: returns the reference, or raises an InputError.
        groups: the number of the group of each raw image; None if it is not known.
    """
    try:
        known = find_reference()
    except InputError as error:
        warn(f"the model is adapted without a test for drift: {error}")
        return None
    new, sizes = see(run, raws, groups), [f"{len(raws)} images", f"{len(known)} clean ones"]
    p_value = alarm.compare(known.seen, new, LEVEL).tests["features"]
    if p_value <= LEVEL:
        return None
    if (counts := alarm.group_counts(known.seen, new)) is not None:
        of_groups = zip(sizes, reversed(counts), strict=True)
        sizes = [f"{size} of {count} group{'s' * (count > 1)}" for size, count in of_groups]
    compared = ", compared with ".join(sizes)
    return f"no drift is detected in the features of {compared} (p = {p_value:.2g})"
