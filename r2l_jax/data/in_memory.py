"""Data sets of arrays in memory."""

import dataclasses
import hashlib
import os
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

import isp
from r2l_jax.data.files.decoding import check_finite
from r2l_jax.data.files.known_camera import find_camera
from r2l_jax.data.files.masks import IGNORED
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets.datasets import given
from r2l_jax.errors import InputError, warn

# If more than this fraction of integers exceed the white level, it may be a mistake.
_ABOVE = 0.01


def from_arrays(
    raws: Any,
    targets: Any,
    camera: isp.Camera | str | os.PathLike,
    classes: Sequence[str] | None = None,
    groups: Any = None,
    white_level: float | int | None = None,
) -> RawDataset:
    """Makes a data set of arrays in memory, which must not change afterwards.

    The kind of `targets` decides the task:

    - labels `(N,)`, integers or names, for classification;
    - masks `(N, H, W)` for segmentation: of one object, 0 and one other value; or, if `classes` names several, of their
      indices, and 255 where pixels are ignored;
    - boxes `(N, K, 5)` for detection: x1, y1, x2, y2 in pixels and the class, which is -1 in empty rows; a sixth column
      may be 1 for a crowd;
    - numbers `(N, M)` in floating point, for a task of your own.

    Args:
        raws: raw images `(N, H, W)` with even H and W: in floating point, from 0 to 1, or integers.
        camera: the `isp.Camera` of all raw images, or a JSON file, "drone" or "microscopy".
        classes: the names of the classes in the order of their indices, of the object, or of the numbers. Boxes need
            them; the classes of labels are by default their values in increasing order.
        groups: the group of each raw image, such as its patient, any hashable values. By default, all are independent.
        white_level: the divisor of integers, at which the sensor saturates; by default the camera's.

    Raises:
        InputError: an array of another shape, type or range; NaN or infinity; integers without a white level; or other
            labels than the classes.
    """
    known = find_camera(str(camera)) if isinstance(camera, str | os.PathLike) else camera
    if known is None:
        raise InputError("`camera` must be an isp.Camera, drone, microscopy or a JSON file for arrays, got auto")
    raws, targets = _array("raws", raws), _array("targets", targets)
    divisor = _divisor(raws, known.white_level, white_level)
    if targets.ndim < 1 or len(targets) != len(raws):
        raise InputError(f"`targets` must have one for each of {len(raws)} raw images, got shape {targets.shape}")
    names = None if classes is None else tuple(classes)
    if names is not None and (isinstance(classes, str) or not names or len(set(names)) < len(names)):
        raise InputError(f"`classes` must be a sequence of different names, got {classes!r}")
    labels = np.zeros(len(raws), np.int32)
    if targets.ndim == 1:
        task, (names, labels) = "classification", _labels(targets, names)
        targets = labels
    elif targets.shape == raws.shape:
        task, names = "segmentation", names or ("object",)
        targets = _masks(targets, names)
    elif targets.ndim == 3 and targets.shape[2] in (5, 6):
        task, (names, targets) = "detection", _boxes(targets, names, raws.shape[1:])
    elif targets.ndim == 2 and targets.dtype.kind == "f":
        task, (names, targets) = "numbers", _numbers(targets, names)
    else:
        raise InputError(
            f"`targets` must be labels (N,), masks {raws.shape}, boxes (N, K, 5) or floating-point numbers (N, M), got "
            f"{targets.dtype} of shape {targets.shape}"
        )

    def read(index: int) -> Sample:
        raw = raws[index]
        return raw.astype(np.float32, copy=False) if divisor is None else fractions(raw, divisor), targets[index]

    digest = hashlib.sha256(str(divisor).encode())
    for array in (raws, targets):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    dataset = RawDataset(
        name="Arrays",
        task=task,
        classes=names,
        # Raw images are fractions of the white level from here on.
        camera=dataclasses.replace(known, white_level=None),
        names=tuple(map(str, range(len(raws)))),
        labels=labels,
        read=read,
        white_level=known.white_level if divisor is None else divisor,
        groups=None if groups is None else _known(groups),
        source=digest.hexdigest(),
    )
    # Runs that were trained on these arrays find them.
    given(dataset)
    return dataset


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # The parts have different shapes.
        raise InputError(f"`{name}` must be one array: {error}") from None


def _divisor(raws: np.ndarray, of_camera: float | int | None, given: float | int | None) -> float | int | None:
    """Checks raw images; returns the white level of integers, and None for floating point."""
    if raws.ndim != 3 or not raws.size or raws.shape[1] % 2 or raws.shape[2] % 2:
        raise InputError(f"`raws` must be raw images (N, H, W) with even H and W, got shape {raws.shape}")
    if raws.dtype.kind not in "fiu":
        raise InputError(f"`raws` must be floating point or integers, got {raws.dtype}")
    if raws.dtype.kind == "f":
        if given is not None:
            raise InputError("`white_level` is for integers: floating-point `raws` must be fractions of it")
        for index, raw in enumerate(raws):
            _check(raw, (raw >= 0) & (raw <= 1), "`raws` must be from 0 to 1 in floating point", index)
        return None
    white = of_camera if given is None else given
    if None not in (given, of_camera) and given != of_camera:
        warn(f"`raws` are divided by `white_level={given:g}`, and not by the camera's, {of_camera:g}")
    if white is None:
        raise InputError("`raws` are integers: give the `white_level` at which the sensor saturates, such as 4095")
    if not 0 < white < np.inf:
        raise InputError(f"`white_level` must be positive, got {white}")
    check_integers(raws, white)
    return white


def check_integers(raws: np.ndarray, white: float | int) -> None:
    """Raises an InputError if any of the integers `(N, H, W)` is negative; warns if many exceed the white level."""
    above = 0
    for index, raw in enumerate(raws):
        _check(raw, raw >= 0, "`raws` must not be negative", index)
        above += np.count_nonzero(raw > white)
    if above > _ABOVE * raws.size:
        share = f"{above / raws.size:.0%} of the numbers in `raws` exceed"
        warn(f"{share} `white_level={white:g}` and are clipped: is it the level at which the sensor saturates?")


def fractions(raws: np.ndarray, white: float | int) -> np.ndarray:
    """Divides integers by the white level; those above it are saturated."""
    found = np.divide(raws, white, np.empty(raws.shape, np.float32), dtype=np.float64, casting="same_kind")
    return np.minimum(found, 1)


def _check(values: np.ndarray, valid: np.ndarray, expected: str, index: int) -> None:
    """Raises an InputError with the first value of image `index` that is not valid, and its place."""
    if not valid.all():
        row, column = np.argwhere(~valid)[0].tolist()
        raise InputError(f"{expected}, got {values[row, column]} at image {index}, row {row}, column {column}")


def _labels(targets: np.ndarray, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names of the classes, and the index of each label's."""
    values = targets.tolist()
    named = all(isinstance(value, str) for value in values)
    if not named and targets.dtype.kind not in "biu":
        raise InputError(f"`targets` (N,) must be labels, integers or names, got {targets.dtype}; numbers are (N, M)")
    known = sorted(set(values)) if names is None else names if named else range(len(names))
    if len(known) < 2:
        raise InputError(f"`targets` must be of at least two classes, got {', '.join(map(str, known))}")
    numbers = {value: number for number, value in enumerate(known)}
    for index, value in enumerate(values):
        if value not in numbers:
            said = ", ".join(names or ()) if named else f"0 to {len(known) - 1}, the indices of `classes`"
            raise InputError(f"`targets` must be {'among ' if named else ''}{said}, got {value!r} at {index}")
    return names or tuple(map(str, known)), np.array([numbers[value] for value in values], np.int32)


def _masks(targets: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    if targets.dtype.kind not in "biu":
        raise InputError(f"`targets` must be masks of integers, got {targets.dtype}")
    if len(names) == 1:
        if len(values := sorted(set().union(*(np.unique(mask).tolist() for mask in targets)) - {0})) > 1:
            found = ", ".join(map(str, values[:5]))
            raise InputError(f"masks of one object must have one value besides 0, got {found}: name several `classes`")
        return np.asarray(targets != 0, np.uint8)
    for index, mask in enumerate(targets):
        valid = (mask == IGNORED) | (mask >= 0) & (mask < len(names))
        _check(mask, valid, f"masks must be from 0 to {len(names) - 1}, or {IGNORED}", index)
    return targets.astype(np.uint8)


def _boxes(
    targets: np.ndarray, names: tuple[str, ...] | None, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    if names is None:
        raise InputError("boxes need `classes`, the names of the classes in the order of their indices")
    boxes = np.pad(_finite(targets), ((0, 0), (0, 0), (0, 6 - targets.shape[2])))
    left, top, right, bottom, kind, crowd = np.moveaxis(boxes, -1, 0)
    height, width = shape
    inside = (left >= 0) & (left < right) & (right <= width) & (top >= 0) & (top < bottom) & (bottom <= height)
    valid = inside & np.isin(kind, range(len(names))) & np.isin(crowd, (0, 1)) | (kind == -1)
    if not valid.all():
        image, row = np.argwhere(~valid)[0].tolist()
        raise InputError(
            f"boxes must be x1, y1, x2, y2 in pixels, with an area and inside {height}x{width}, and a class from 0 to "
            f"{len(names) - 1}, or -1 in empty rows, got {targets[image, row].tolist()} at {image}, {row}"
        )
    if (kind >= 0).any() and boxes[kind >= 0, :4].max() <= 1:
        raise InputError("boxes must be in pixels, but all are fractions")
    boxes[kind == -1] = [0, 0, 0, 0, -1, 0]
    return names, boxes


def _numbers(targets: np.ndarray, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], np.ndarray]:
    names = names or tuple(map(str, range(targets.shape[1])))
    if len(names) != targets.shape[1]:
        raise InputError(f"`classes` must name each of {targets.shape[1]} numbers, got {len(names)}")
    return names, _finite(targets)


def _finite(targets: np.ndarray) -> np.ndarray:
    if targets.dtype.kind not in "fiu":
        raise InputError(f"`targets` of shape {targets.shape} must be numbers, got {targets.dtype}")
    check_finite(targets, "`targets`")
    return targets.astype(np.float32)


def _known(groups: Any) -> list[Any]:
    """Returns the groups; raises an InputError for NaN, which stands for a missing value and equals no other."""
    found = list(groups)
    for index, group in enumerate(found):
        if not isinstance(group, Hashable) or group != group:
            raise InputError(f"`groups` must have a hashable group for each raw image, got {group!r} at {index}")
    return found
