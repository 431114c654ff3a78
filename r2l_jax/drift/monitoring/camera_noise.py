"""The noise of raw images whose camera states none, measured in scenes."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import uniform_filter1d
from scipy.optimize import nnls

import isp

# The least read-out noise that is told from none, in electrons.
_LEAST = 0.05


def states_noise(camera: isp.Camera) -> bool:
    """Tells whether a camera states its noise."""
    return camera.full_well is not None and camera.read_noise is not None


def with_noise(camera: isp.Camera, mosaics: Float[np.ndarray, "n height width"]) -> isp.Camera:
    """Returns a camera with the noise of its raw images; a camera that states its noise is returned as it is.

    The noise is measured at eight levels, by the median second difference along rows, minus the second difference in
    the next row with the same colors, which shows the same structure. Only sites count where it is smallest two such
    rows above, since only structure reaches that far. A line is fitted to most of the variances.
    """
    if states_noise(camera):
        return camera
    light = np.asarray(isp.sensor.site_light(mosaics, camera))
    down, along = isp.cfa.tile(camera.pattern).shape
    left, right = (np.roll(light, shift, 2) for shift in (-along, along))
    level, second = (left + light + right) / 3, left - 2 * light + right
    second = abs(second - np.roll(second, down, 1))
    around = np.roll(uniform_filter1d(second, 8, axis=2), 2 * down, 1).ravel()
    level, second = level.ravel(), second.ravel()
    order = np.argsort(level)
    # Leaves out the highest levels, which may be white, unless there are no others.
    lower = order[level[order] < 0.95 * level.max()]
    parts = np.array_split(lower if len(lower) >= 8 else order, 8)
    parts = [part[around[part] <= np.quantile(around[part], 0.3)] for part in parts]
    levels = np.array([level[part].mean() for part in parts])
    # The median of normal noise is 0.6745 standard deviations; two second differences have 12 times its variance.
    variances = np.array([(np.median(second[part]) / 0.6745) ** 2 / 12 for part in parts]) + 1e-12
    columns = np.stack([np.maximum(levels, 0), np.ones_like(levels)], 1) / variances[:, None]

    def near(chosen: Sequence[int]) -> Bool[np.ndarray, " levels"]:
        return abs(columns @ nnls(columns[chosen], np.ones(len(chosen)))[0] - 1) < 0.1

    # Structure raises the noise at some levels, so the line need only fit most of them.
    chosen = max(map(near, map(list, itertools.combinations(range(len(levels)), 2))), key=np.sum)
    gain, dark = nnls(columns[chosen], np.ones(chosen.sum()))[0]
    full_well = float(1 / max(gain, 1e-9))
    return dataclasses.replace(camera, full_well=full_well, read_noise=max(full_well * float(dark) ** 0.5, _LEAST))


def converted(state: isp.CameraState, camera: isp.Camera, other: isp.Camera) -> isp.CameraState:
    """Converts the noise of a state from the electrons of a camera to those of another one, for the same raw images."""
    (full_well, read_noise, _), (well, noise, _) = map(isp.sensor.noise_of, (camera, other))
    read, rows = state.read_noise, state.row_noise
    if read is not None:
        read = (1 + (read**2 - 1) * (read_noise * well / (noise * full_well)) ** 2) ** 0.5
    return dataclasses.replace(state, read_noise=read, row_noise=None if rows is None else rows * well / full_well)
