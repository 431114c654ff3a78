"""Measures a sensor from dark frames and flat frames."""

import dataclasses
from collections.abc import Sequence
from statistics import fmean, pstdev

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from r2l_jax.calibration.defects import Defects, classified, deviations, mask, noise_deviations
from r2l_jax.calibration.frames import Frames, Moments, digital_numbers, phases
from r2l_jax.calibration.photon_transfer import Line, Point, fit, linear, mean_error, read_noise
from r2l_jax.calibration.reading import (
    TINY,
    Flats,
    check_counts,
    group_exposures,
    mean_of,
    read_darks,
    read_flats,
    read_light,
)
from r2l_jax.calibration.surface import smooth_surface
from r2l_jax.runtime.errors import InputError

Map = Float32[np.ndarray, "rows cols"]
Tile = Int[np.ndarray, "height width"]

# The noise of the flats must exceed that of the darks by so many of its standard errors.
_SIGNIFICANT = 4
# The black level drifts if the means of the darks deviate by more than this fraction of the noise of a site, or
# of that of rounding.
_DRIFT = 0.2
# Light below this fraction of the mean is not enlarged further: it comes from beyond the edge of the light's circle.
_LEAST_LIGHT = 0.01
# Digital numbers of files without steps.
_NUMBERS = 65535.0


@dataclasses.dataclass(frozen=True)
class Site:
    """Holds the measured values of one place in the tile.

    Attributes:
        row: its row in the tile.
        column: its column in the tile.
        channel: 0 for red, 1 for green, 2 for blue.
        black_level: the mean in the dark, as a fraction of the white level.
        gain: electrons from black to white, divided by the distance from the black level to 1.
        full_well: the electrons at the white level.
        read_noise: the standard deviation of the read-out in electrons.
        dsnu: the dark signal nonuniformity in electrons: the standard deviation of the mean in the dark between sites.
        prnu: the photo response nonuniformity: the relative standard deviation of the response between sites.
    """

    row: int
    column: int
    channel: int
    black_level: float
    gain: float
    full_well: float
    read_noise: float
    dsnu: float
    prnu: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Holds what was measured.

    Attributes:
        dark: the mean dark frame `(H, W)`, as fractions of the white level.
        flat: the gain of each site `(H, W)`, with mean 1 over the good sites of each color, and 1 at defects.
        defects: the defective sites.
        sites: the values of each place in the tile, in the order of rows and columns.
        points: the photon transfer curve of each color, in fractions of the white level.
        exposures: the number of flats at each exposure, in the order of light.
        error: the standard error of the mean gain, as a fraction of it.
        numbers: the digital number of the white level.
        bits: the bits of the converter; None if the values are continuous.
        is_bound: whether the read noise is only an upper bound, because rounding dominates it.
        remarks: what the user must know of the frames, one line each.
    """

    dark: Map
    flat: Map
    defects: Defects
    sites: Sequence[Site]
    points: Sequence[Point]
    exposures: Sequence[int]
    error: float
    numbers: float
    bits: int | None
    is_bound: bool
    remarks: Sequence[str]

    def mean(self, name: str) -> float:
        """Returns the mean of a value of `Site` over the places in the tile."""
        return fmean(getattr(site, name) for site in self.sites)


def measure(dark: Frames, flat: Frames, tile: Tile, threshold: float = 6.0) -> Calibration:
    """Measures a sensor.

    Each frame is read once or twice, one at a time.

    Args:
        dark: frames without light, at least two.
        flat: frames of an evenly lit surface, at least two of each exposure.
        tile: the channel that each place in the tile of the color filter array sees.
        threshold: the number of standard deviations from which a site is defective.

    Raises:
        InputError: frames are too few, too small, of several sizes, saturated, or darker than the darks, or light adds
            no noise to them.
    """
    check_counts(dark, flat)
    darks, first_dark, drift, remarks = read_darks(dark, tile)
    light, first_flat = read_light(flat, darks.mean)
    exposures = group_exposures(flat, light)
    numbers = [
        digital_numbers(np.concatenate([frame[place].ravel() for frame in (first_dark, first_flat)]))
        for _, place in phases(tile)
    ]
    steps = [0.0 if number is None else 1 / number for number in numbers]
    bad = _noticed_in_the_dark(darks, tile, steps, threshold)
    if pstdev(drift) > _DRIFT * max(np.sqrt(mean_of(darks.variance, ~bad)), _rounding(max(steps))):
        remarks.append(
            f"the black level drifts by {np.ptp(drift):.2g} of white between the darks; read noise leaves this out, "
            "but black level and flats can be off by as much: let the camera warm up, and take darks and flats in turn"
        )
    flats = read_flats(flat, light, exposures, darks, bad, tile, steps, threshold)
    lines = _fit_lines(flat, exposures, flats, darks, bad, tile, steps)
    defects = _find_defects(darks, flats, lines, bad, tile, steps, threshold)
    good = ~mask(defects, darks.mean.shape)
    sites, bounds = zip(
        *(
            _site(place, int(tile[position]), position, darks, flats, line, good, step)
            for (position, place), line, step in zip(phases(tile), lines, steps, strict=True)
        ),
        strict=True,
    )
    known = [number for number in numbers if number is not None]
    number = float(np.median(known)) if known else _NUMBERS
    return Calibration(
        dark=darks.mean,
        flat=_gains(flats.signal, good, tile),
        defects=defects,
        sites=sites,
        points=_points(flats, sites, lines, tile),
        exposures=[len(indices) for indices in exposures],
        error=mean_error(lines),
        numbers=number,
        bits=_bits(number) if known else None,
        is_bound=any(bounds),
        remarks=remarks,
    )


def _noticed_in_the_dark(
    darks: Moments, tile: Tile, steps: Sequence[float], threshold: float
) -> Bool[np.ndarray, "rows cols"]:
    """Makes a map of the sites that deviate in the dark, in their mean or in their noise."""
    bad = np.zeros(darks.mean.shape, bool)
    variance = darks.variance
    for (_, place), step in zip(phases(tile), steps, strict=True):
        even = np.full_like(variance[place], np.median(variance[place]))
        noise = noise_deviations(variance[place], even, darks.count - 1, step**2 / 12)
        bad[place] = (abs(deviations(darks.mean[place], _rounding(step))) > threshold) | (noise > threshold)
    return bad


def _rounding(step: float) -> float:
    return max(step / np.sqrt(12), TINY)


def _fit_lines(
    flat: Frames,
    exposures: Sequence[Sequence[int]],
    flats: Flats,
    darks: Moments,
    bad: Bool[np.ndarray, "rows cols"],
    tile: Tile,
    steps: Sequence[float],
) -> list[Line]:
    """Fits the line of each place in the tile; checks that the light adds noise, and does so up to the brightest."""
    lines = []
    variance = darks.variance
    for number, ((_, place), step) in enumerate(zip(phases(tile), steps, strict=True)):
        good = ~bad[place]
        span = 1 - mean_of(darks.mean[place], good)
        means = flats.means[number]
        variances = np.r_[mean_of(variance[place], good), flats.variances[number]]
        degrees = np.r_[max(good.sum(), 1) * (darks.count - 1), flats.samples[number]]
        lines.append(fit(np.r_[0.0, means], variances, degrees, np.r_[True, linear(means, span)], step))
    slopes = _above_dark(flats, lines).mean(0) / flats.means.mean(0)
    if len(slopes) > 1 and slopes[-1] < 0.5 * np.median(slopes[:-1]):
        names = ", ".join(flat.names[index] for index in exposures[-1][:3])
        raise InputError(f"saturated flats: the noise of the brightest ({names}, ...) falls: take them with less light")
    if not all(0 < line.gain < np.inf for line in lines) or mean_error(lines) * _SIGNIFICANT > 1:
        raise InputError(
            "the flats are hardly noisier than the darks, so no gain can be measured: single exposures are needed, not "
            "averages or copies of one, with more light"
        )
    return lines


def _above_dark(flats: Flats, lines: Sequence[Line]) -> Float[np.ndarray, "places exposures"]:
    """Computes the temporal variances that light adds."""
    return flats.variances - np.array([[line.dark_variance] for line in lines])


def _find_defects(
    darks: Moments,
    flats: Flats,
    lines: Sequence[Line],
    bad: Bool[np.ndarray, "rows cols"],
    tile: Tile,
    steps: Sequence[float],
    threshold: float,
) -> Defects:
    dark, light, noise = (np.zeros_like(darks.mean) for _ in range(3))
    variance = darks.variance
    for (_, place), line, step in zip(phases(tile), lines, steps, strict=True):
        good, gain = ~bad[place], np.float32(line.gain)
        dark[place] = deviations(darks.mean[place], _rounding(step))
        light[place] = deviations(flats.signal[place], _rounding(step))
        # The dark signal of a hot site has photon-like noise of its own.
        excess = np.maximum(darks.mean[place] - mean_of(darks.mean[place], good), 0) / gain
        unlit = np.float32(mean_of(variance[place], good)) + excess
        lit = np.float32(line.dark_variance) + excess + np.maximum(flats.of_variance[place], 0) / gain
        noise[place] = np.maximum(
            noise_deviations(variance[place], unlit, darks.count - 1, step**2 / 12),
            noise_deviations(flats.variance[place], lit, flats.degrees, step**2 / 12),
        )
    return classified(dark, light, noise, threshold)


def _site(
    place: tuple[slice, slice],
    channel: int,
    position: tuple[int, int],
    darks: Moments,
    flats: Flats,
    line: Line,
    good: Bool[np.ndarray, "rows cols"],
    step: float,
) -> tuple[Site, bool]:
    """Returns the values of one place in the tile, and whether its read noise is only an upper bound."""
    good, dark, gain = good[place], darks.mean[place], line.gain
    black, dark_variance = mean_of(dark, good), mean_of(darks.variance[place], good)
    noise, is_bound = read_noise(dark_variance, gain, step)
    uneven = float(dark[good].var(dtype=float)) - dark_variance / darks.count
    signal = flats.signal[place]
    surface = smooth_surface(signal, good)
    lit = good & (surface > 0.1 * mean_of(signal, good))
    # The noise that remains after averaging: that of the flats, and that of the darks which were subtracted.
    left = (line.dark_variance + surface / gain) / flats.count + dark_variance / darks.count
    response = np.square(signal / np.where(lit, surface, 1) - 1) - left / np.square(np.where(lit, surface, 1))
    row, column = position
    return (
        Site(
            row=row,
            column=column,
            channel=channel,
            black_level=black,
            gain=gain,
            full_well=gain * (1 - black),
            read_noise=noise,
            dsnu=gain * float(np.sqrt(max(uneven, 0.0))),
            prnu=float(np.sqrt(max(mean_of(response.astype(np.float32), lit), 0.0))),
        ),
        is_bound,
    )


def _gains(signal: Map, good: Bool[np.ndarray, "rows cols"], tile: Tile) -> Map:
    """Computes the gain of each site that evens out the light, with mean 1 over the good sites of each color."""
    gains = np.ones_like(signal)
    for channel in np.unique(tile):
        of_color = np.zeros(signal.shape, bool)
        for position, place in phases(tile):
            of_color[place] = tile[position] == channel
        of_color &= good
        if of_color.any():
            light = signal[of_color].astype(float)
            inverse = 1 / np.maximum(light, _LEAST_LIGHT * light.mean())
            gains[of_color] = inverse / inverse.mean()
    return gains


def _points(flats: Flats, sites: Sequence[Site], lines: Sequence[Line], tile: Tile) -> list[Point]:
    """Averages the photon transfer curves of the places that see one color."""
    spans = np.array([1 - site.black_level for site in sites])
    fitted = np.stack([linear(means, span) for means, span in zip(flats.means, spans, strict=True)])
    points, added = [], _above_dark(flats, lines)
    for channel in np.unique(tile):
        of_color = tile.ravel() == channel
        means, variances = flats.means[of_color].mean(0), added[of_color].mean(0)
        points += [
            Point(int(channel), float(means[index]), float(variances[index]), bool(fitted[of_color, index].any()))
            for index in range(len(means))
        ]
    return points


def _bits(numbers: float) -> int:
    """Returns the bits of whole numbers up to this one."""
    return int(np.clip(np.ceil(np.log2(numbers + 1) - 1e-3), 1, 16))
