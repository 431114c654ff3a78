"""Corrections of a sensor's own faults in whole frames: dark signal, uneven response, and defective sites.

`scripts/calibrate.py` measures them. All frames have the size of the measured ones, in the sensor's orientation.
"""

import csv
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int, Num

import isp
from r2l_jax.data.files.decoding import reading
from r2l_jax.data.files.tiff import read_tiff
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import read_csv

Mosaic = Float32[np.ndarray, "rows cols"]

# A defect is replaced from at least this many sites of its color, defective or not.
_NEIGHBORS = 4
# How many values of neighbors are held at once.
_AT_ONCE = 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Corrections:
    """Holds the known faults of one sensor.

    Attributes:
        dark: the mean dark frame `(H, W)`, as fractions of the white level; None corrects no dark signal.
        flat: the gain of each site `(H, W)`, positive, around 1 in each color; None corrects no response.
        defects: the rows and columns `(N, 2)` of the sites whose values are meaningless.
    """

    dark: Float32[np.ndarray, "_ _"] | None = None
    flat: Float32[np.ndarray, "_ _"] | None = None
    defects: Int[np.ndarray, "sites 2"] = dataclasses.field(default_factory=lambda: np.zeros((0, 2), int))

    def __post_init__(self):
        shapes = {array.shape for array in (self.dark, self.flat) if array is not None}
        if len(shapes) > 1:
            raise InputError(f"dark and flat must have the same size, got {_size(self.dark)} and {_size(self.flat)}")
        if self.defects.size and self.defects.min() < 0:
            row, column = self.defects[self.defects.min(1) < 0][0]
            raise InputError(f"the row and column of a defect must not be negative, got {row} and {column}")
        for shape in shapes:
            self._check_defects(shape)

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the contents, under which corrected frames can be cached."""
        digest = hashlib.sha256()
        for array in (self.dark, self.flat, self.defects.astype("<i8")):
            digest.update(b"none" if array is None else f"{array.shape} {array.dtype.str}".encode())
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def apply(self, mosaic: Mosaic, camera: isp.Camera) -> Mosaic:
        """Corrects a whole frame.

        Subtracts the deviation of each site's dark value from the camera's black level, multiplies the light above
        black by the site's gain, and replaces the light of each defect with the median light of its nearest good sites
        of the same color. A saturated site whose gain is below 1 reads less than 1 afterwards.

        Args:
            mosaic: the frame `(H, W)` in [0, 1], before tiles are cut from it.
            camera: the frame's camera, whose `pattern` and `black_level` apply.

        Returns:
            The corrected frame, clipped to [0, 1].

        Raises:
            InputError: the frame's size is not the size of the dark and the flat, or a defect lies outside the frame.
        """
        for name, array in (("dark", self.dark), ("flat", self.flat)):
            if array is not None and array.shape != mosaic.shape:
                raise InputError(
                    f"the frame is {_size(mosaic)}, but the camera's {name} is {_size(array)}: they must be equal"
                )
        self._check_defects(mosaic.shape)
        levels = np.asarray(camera.black_level, np.float32)
        black = np.asarray(isp.cfa.black_levels(levels, camera.pattern, *mosaic.shape))
        light = mosaic - (black if self.dark is None else self.dark)
        if self.flat is not None:
            light *= self.flat
        if len(self.defects):
            _replace(light, self.defects, isp.cfa.tile(camera.pattern))
        light += black
        return np.clip(light, 0, 1, out=light)

    def _check_defects(self, shape: Sequence[int]) -> None:
        outside = (self.defects >= shape).any(1)
        if outside.any():
            row, column = self.defects[outside][0]
            raise InputError(
                f"the frame is {shape[0]}x{shape[1]}, but the camera has a defect at row {row} and column {column}"
            )


def read(folder: Path, dark: str | None, flat: str | None, defects: str | None) -> Corrections:
    """Reads corrections from the files that a camera's JSON file names.

    Args:
        folder: the folder of the JSON file, from which relative names start.
        dark: the name of the TIFF file of the mean dark frame, in floating point; None for none.
        flat: the name of the TIFF file of the gains, in floating point; None for none.
        defects: the name of the CSV file of defects, with the columns `row` and `column`; None for none.

    Raises:
        InputError: a file cannot be read or is of another kind, or the files do not fit each other. The message names
            the file.
    """
    arrays = {
        name: _read_map(folder / file) if file is not None else None for name, file in (("dark", dark), ("flat", flat))
    }
    if arrays["flat"] is not None and arrays["flat"].min() <= 0:
        raise InputError(f"{folder / str(flat)}: gains must be greater than 0, got {arrays['flat'].min():g}")
    sites = {} if defects is None else {"defects": _read_defects(folder / defects)}
    try:
        return Corrections(**arrays, **sites)
    except InputError as error:
        names = " and ".join(str(folder / file) for file in (dark, flat, defects) if file is not None)
        raise InputError(f"{names}: {error}") from None


def _read_map(path: Path) -> Mosaic:
    values = read_tiff(path)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise InputError(f"{path} must be one channel in floating point, got {values.dtype} of shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds values that are not finite")
    return values.astype(np.float32)


def _read_defects(path: Path) -> Int[np.ndarray, "sites 2"]:
    with reading(path, "table of defects"):
        try:
            sites = [(int(line["row"]), int(line["column"])) for line in read_csv(path)]
        except (ValueError, LookupError, TypeError, csv.Error):
            raise InputError("a table of defects must have whole numbers in the columns row and column") from None
        return np.array(sites, int).reshape(-1, 2)


def _size(array: np.ndarray | None) -> str:
    return "none" if array is None else f"{array.shape[0]}x{array.shape[1]}"


def _replace(light: Mosaic, defects: Int[np.ndarray, "sites 2"], tile: Int[np.ndarray, "height width"]) -> None:
    """Replaces each defect in place with the median of the good sites of its color nearby."""
    good = np.ones(light.shape, bool)
    good[tuple(defects.T)] = False
    new = light.copy()
    phases = defects % tile.shape
    for phase in np.ndindex(*tile.shape):
        left = defects[(phases == phase).all(1)]
        radius = _first_radius(tile, phase)
        while len(left) and radius < 2 * max(light.shape):
            offsets = _same_color(tile, phase, radius)
            chunk = max(1, _AT_ONCE // len(offsets))
            found = [
                _median_of_good(light, good, left[start : start + chunk], offsets)
                for start in range(0, len(left), chunk)
            ]
            medians, is_known = (np.concatenate(parts) for parts in zip(*found, strict=True))
            new[tuple(left[is_known].T)] = medians[is_known]
            left, radius = left[~is_known], 2 * radius
    light[...] = new


def _first_radius(tile: Int[np.ndarray, "height width"], phase: tuple[int, ...]) -> int:
    """Returns half the side of the smallest square around a site that holds enough other sites of its color."""
    radius = 1
    while len(_same_color(tile, phase, radius)) < _NEIGHBORS:
        radius += 1
    return radius


def _same_color(
    tile: Int[np.ndarray, "height width"], phase: tuple[int, ...], radius: int
) -> Int[np.ndarray, "neighbors 2"]:
    """Returns the offsets to the other sites of the same color in a square around a site at this place in the tile."""
    span = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
    rows, cols = ((offsets + phase) % tile.shape).T
    return offsets[(tile[rows, cols] == tile[phase]) & offsets.any(1)]


def _median_of_good(
    light: Mosaic,
    good: Bool[np.ndarray, "rows cols"],
    sites: Int[np.ndarray, "sites 2"],
    offsets: Int[np.ndarray, "neighbors 2"],
) -> tuple[Num[np.ndarray, " sites"], Bool[np.ndarray, " sites"]]:
    """Returns the median of each site's good neighbors within the frame, and whether it has any."""
    places = sites[:, None] + offsets
    inside = np.all((places >= 0) & (places < light.shape), -1)
    rows, cols = np.moveaxis(np.where(inside[..., None], places, 0), -1, 0)
    values = np.sort(np.where(inside & good[rows, cols], light[rows, cols], np.inf), 1)
    count = np.isfinite(values).sum(1)
    upper, lower = np.minimum(count // 2, len(offsets) - 1), np.maximum(count - 1, 0) // 2
    every = np.arange(len(sites))
    with np.errstate(invalid="ignore"):
        return (values[every, lower] + values[every, upper]) / 2, count > 0
