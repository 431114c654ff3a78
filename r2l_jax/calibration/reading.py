"""Reads dark and flat frames one at a time, and computes their sums and averages at each exposure."""

import dataclasses
import itertools
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from jaxtyping import Float, Float32

from r2l_jax.calibration.defects import noise_deviations
from r2l_jax.calibration.frames import Frames, Map, Mask, Moments, Place, Tile, mean_of
from r2l_jax.errors import InputError

# Flats whose mean light differs by less than this fraction are one exposure.
SAME_EXPOSURE = 0.03
# A flat is saturated if more than this fraction of its sites reads the white level.
_SATURATED = 0.001
# A flat is saturated below the white level if more than this fraction of its sites reads its highest value, and that
# value is this many times as frequent as the next one.
_PILED_UP, _TIMES = 0.01, 5
# The minimum number of tiles of a frame in each direction.
_FEWEST_TILES = 4
# Darks are below this fraction of the white level.
_BRIGHT = 0.5
# The smallest standard deviation: the error of rounding to float32.
TINY = 1e-7


def read_darks(dark: Frames, tile: Tile) -> tuple[Moments, Map, list[float], list[str]]:
    """Returns the darks' moments, the first dark, each dark's mean minus the first one's, and remarks.

    All frames are shifted to one level, so that a drifting black level does not count as noise.
    """
    if len(dark) < 2:
        raise InputError(f"at least two dark frames are needed (more are better), got {len(dark)}")
    frames = dark.of()
    first = next(frames)
    least = _FEWEST_TILES * np.array(tile.shape)
    if (first.shape < least).any():
        raise InputError(f"frames must be at least {least[0]}x{least[1]}, got {first.shape[0]}x{first.shape[1]}")
    moments, zeros, drift = Moments(first.shape), 0.0, []
    for frame in itertools.chain([first], frames):
        drift.append(float((frame - first).mean(dtype=float)))
        moments.add(frame - np.float32(drift[-1]))
        zeros += (frame <= 0).mean() / len(dark)
    moments.mean += np.float32(fmean(drift))
    if (middle := float(np.median(moments.mean))) > _BRIGHT:
        raise InputError(
            f"the darks must have a median below {_BRIGHT:g} of white, got {middle:.2g}: are `dark` and `flat` swapped?"
        )
    remarks = []
    if zeros > 0.01:
        remarks.append(
            f"{zeros:.0%} of the values in the dark are 0: the camera clips the noise below black, so the black level "
            "and read noise do not describe the sensor"
        )
    return moments, first, drift, remarks


def read_light(flat: Frames, dark: Map) -> tuple[list[float], Map]:
    """Returns the mean light of each flat, and the first flat; rejects flats without light or with saturated sites."""
    usable = dark < np.median(dark) + 0.5 * (1 - np.median(dark))
    light, first = [], dark
    for name, frame in zip(flat.names, flat.of(dark.shape), strict=True):
        first = first if light else frame
        light.append(float((frame - dark)[usable].mean(dtype=float)))
        if light[-1] <= 0:
            raise InputError(f"the darks are as bright as the flat {name}: are `dark` and `flat` swapped?")
        if share := _saturated(frame[usable]):
            raise InputError(f"saturated flats: {share:.1%} of the sites in {name}: use less light")
    return light, first


def _saturated(values: Float32[np.ndarray, " sites"]) -> float:
    """Returns the fraction of saturated sites, or 0 if they are too few to matter."""
    highest = values.max()
    share = float((values == highest).mean())
    if highest >= 1 and share > _SATURATED:
        return share
    lower = values[values < highest]
    if share < _PILED_UP or not lower.size:
        return 0.0
    return share if share > _TIMES * float((values == lower.max()).mean()) else 0.0


def group_exposures(flat: Frames, light: Sequence[float]) -> list[list[int]]:
    """Groups the indices of flats by mean light, in increasing order; rejects an exposure with a single flat."""
    groups: list[list[int]] = []
    for index in np.argsort(light, kind="stable").tolist():
        if groups and light[index] <= (1 + SAME_EXPOSURE) * light[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    if alone := [group[0] for group in groups if len(group) < 2]:
        raise InputError(
            f"each exposure needs at least two flats with means within {SAME_EXPOSURE:.0%}, got only "
            f"{flat.names[alone[0]]} with a mean of {light[alone[0]]:.4g} of white"
        )
    return groups


@dataclasses.dataclass(frozen=True)
class Flats:
    """The mean light `(H, W)` of all flats, their temporal variance within exposures, and the mean with its weights.

    `means`, `variances` and their degrees of freedom `samples` are averages over good sites at each exposure.
    """

    count: int
    signal: Map
    degrees: int
    variance: Map
    of_variance: Map
    means: Float[np.ndarray, "places exposures"]
    variances: Float[np.ndarray, "places exposures"]
    samples: Float[np.ndarray, "places exposures"]


def read_flats(
    flat: Frames,
    light: Sequence[float],
    exposures: Sequence[Sequence[int]],
    darks: Moments,
    bad: Mask,
    places: Sequence[Place],
    threshold: float,
) -> Flats:
    """Sums up the flats of each exposure, given as indices; averages leave out the sites that deviate in the dark."""
    signal, squares, of_variance = (np.zeros_like(darks.mean) for _ in range(3))
    averages = np.zeros((3, len(places), len(exposures)))
    for exposure, indices in enumerate(exposures):
        moments = Moments(darks.mean.shape)
        mean = fmean(light[index] for index in indices)
        for index, frame in zip(indices, flat.of(darks.mean.shape, indices), strict=True):
            # A lamp flickers a little, so all flats of an exposure are scaled to the same light.
            moments.add(darks.mean + (frame - darks.mean) * np.float32(mean / light[index]))
        degrees, of_exposure = moments.count - 1, moments.mean - darks.mean
        signal += moments.count * of_exposure
        squares += moments.squares
        of_variance += degrees * of_exposure
        for number, place in enumerate(places):
            averages[:, number, exposure] = _averages(of_exposure, moments, darks, ~bad, place, threshold)
    count = sum(map(len, exposures))
    degrees = count - len(exposures)
    signal /= np.float32(count)
    squares /= np.float32(degrees)
    of_variance /= np.float32(degrees)
    return Flats(count, signal, degrees, squares, of_variance, *averages)


def _averages(
    signal: Map, moments: Moments, darks: Moments, good: Mask, place: Place, threshold: float
) -> tuple[float, float, float]:
    """Computes mean light, temporal variance, and its degrees of freedom over the good sites of a place."""
    signal, variance, good = signal[place.sites], moments.variance[place.sites], good[place.sites]
    dark = mean_of(darks.variance[place.sites], good)
    slope = max(mean_of(variance, good) - dark, 0.0) / max(mean_of(signal, good), TINY)
    expected = np.float32(dark) + np.maximum(signal, 0) * np.float32(slope)
    rounding = max(place.step**2 / 12, TINY**2)
    # Sites that flicker only in light would add to the variance.
    good = good & (noise_deviations(variance, expected, moments.count - 1, rounding) <= threshold)
    return mean_of(signal, good), mean_of(variance, good), float(good.sum() * (moments.count - 1))
