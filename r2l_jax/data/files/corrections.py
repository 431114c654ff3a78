"""Corrections of sensor faults in whole frames: dark signal, uneven response, and defective sites.

`scripts/calibrate.py` measures them. All frames have the size and orientation of the measured ones.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int, Num

import isp
from r2l_jax.data.files.decoding import check_finite, reading
from r2l_jax.data.files.tiff import read_tiff
from r2l_jax.errors import InputError
from r2l_jax.results.files import read_csv

Mosaic = Float32[np.ndarray, "rows cols"]

# A defect is replaced from at least this many sites of its color, defective or not.
_NEIGHBORS = 4
# The number of neighbor values held at once.
_AT_ONCE = 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Corrections:
    """Holds the known faults of one sensor.

    `dark` is the mean dark frame `(H, W)`, as fractions of the white level, and `flat` the positive gain of each site
    `(H, W)`, around 1 in each color; None leaves out that correction. `defects` are the rows and columns `(N, 2)` of
    sites whose values are meaningless.
    """

    dark: Float32[np.ndarray, "_ _"] | None = None
    flat: Float32[np.ndarray, "_ _"] | None = None
    defects: Int[np.ndarray, "sites 2"] = dataclasses.field(default_factory=lambda: np.zeros((0, 2), int))

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the contents, under which corrected frames can be cached."""
        digest = hashlib.sha256()
        for array in (self.dark, self.flat, self.defects.astype("<i8")):
            digest.update(b"none" if array is None else f"{array.shape} {array.dtype.str}".encode())
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def apply(self, mosaic: Mosaic, camera: isp.Camera) -> Mosaic:
        """Corrects a whole frame of a camera, `(H, W)` in [0, 1], before tiles are cut from it.

        Subtracts the deviation of each site's dark value from the camera's black level, multiplies the light above
        black by the site's gain, replaces the light of each defect with the median light of its nearest good sites of
        the same color, and clips the result to [0, 1]. A saturated site whose gain is below 1 reads less than 1
        afterwards.
        """
        rows, cols = mosaic.shape
        for name, array in (("dark", self.dark), ("flat", self.flat)):
            if array is not None and array.shape != mosaic.shape:
                raise InputError(f"the frame must have the shape {array.shape} of {name}, got {mosaic.shape}")
        outside = ((self.defects < 0) | (self.defects >= mosaic.shape)).any(1)
        if outside.any():
            row, col = self.defects[outside][0]
            raise InputError(f"the camera's defect at row {row}, column {col} is outside of the frame of {rows}x{cols}")
        levels = np.asarray(camera.black_level, np.float32)
        black = np.asarray(isp.cfa.black_levels(levels, camera.pattern, *mosaic.shape))
        light = mosaic - (black if self.dark is None else self.dark)
        if self.flat is not None:
            light *= self.flat
        if len(self.defects):
            _replace(light, self.defects, isp.cfa.tile(camera.pattern))
        light += black
        return np.clip(light, 0, 1, out=light)


def read(folder: Path, dark: str | None, flat: str | None, defects: str | None) -> Corrections:
    """Reads corrections from the files that a camera's JSON file in a folder names, if any.

    `dark` and `flat` are floating-point TIFF files, and `defects` is a CSV file with the columns `row` and `column`.
    """
    dark_map, gains = (None if file is None else _read_map(folder / file) for file in (dark, flat))
    if gains is not None and gains.min() <= 0:
        raise InputError(f"{folder / str(flat)}: gains must be greater than 0, got {gains.min():g}")
    sites = {} if defects is None else {"defects": _read_defects(folder / defects)}
    return Corrections(dark_map, gains, **sites)


def _read_map(path: Path) -> Mosaic:
    with reading(path):
        values = read_tiff(path)
        if values.ndim != 2 or values.dtype.kind != "f":
            raise InputError(f"must be one channel in floating point, got {values.dtype} of shape {values.shape}")
        check_finite(values)
        return values.astype(np.float32)


def _read_defects(path: Path) -> Int[np.ndarray, "sites 2"]:
    with reading(path):
        sites = [(int(line["row"]), int(line["column"])) for line in read_csv(path)]
        return np.array(sites, int).reshape(-1, 2)


def _replace(light: Mosaic, defects: Int[np.ndarray, "sites 2"], tile: Int[np.ndarray, "height width"]) -> None:
    """Replaces each defect in place with the median of the nearby good sites of its color."""
    good = np.ones(light.shape, bool)
    good[tuple(defects.T)] = False
    new = light.copy()
    for phase in np.ndindex(*tile.shape):
        left, radius = defects[(defects % tile.shape == phase).all(1)], 1
        while len(left) and radius < 2 * max(light.shape):
            offsets = _same_color(tile, phase, radius)
            if len(offsets) < _NEIGHBORS:
                radius += 1
                continue
            parts = np.array_split(left, -(-len(left) * len(offsets) // _AT_ONCE))
            medians = np.concatenate([_median_of_good(light, good, part, offsets) for part in parts])
            is_known = np.isfinite(medians)
            new[tuple(left[is_known].T)] = medians[is_known]
            left, radius = left[~is_known], 2 * radius
    light[...] = new


def _same_color(tile: Int[np.ndarray, "_ _"], phase: tuple[int, ...], radius: int) -> Int[np.ndarray, "neighbors 2"]:
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
) -> Num[np.ndarray, " sites"]:
    """Returns the median of each site's good neighbors within the frame; infinity if there are none."""
    places = sites[:, None] + offsets
    inside = np.all((places >= 0) & (places < light.shape), -1)
    rows, cols = np.moveaxis(np.where(inside[..., None], places, 0), -1, 0)
    values = np.ma.array(light[rows, cols], mask=~(inside & good[rows, cols]))
    return np.ma.filled(np.ma.median(values, 1), np.inf)
