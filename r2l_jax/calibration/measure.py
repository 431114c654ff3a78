"""Measures a sensor from dark frames and flat frames."""

import dataclasses
from collections.abc import Sequence
from statistics import fmean, pstdev

import numpy as np
from jaxtyping import Float

from r2l_jax.calibration.defects import Defects, classified, deviations, mask, noise_deviations, smooth_surface
from r2l_jax.calibration.frames import Frames, Map, Mask, Moments, Place, Tile, mean_of, places
from r2l_jax.calibration.photon_transfer import Line, Point, fit, linear, mean_error, read_noise
from r2l_jax.calibration.reading import TINY, Flats, group_exposures, read_darks, read_flats, read_light
from r2l_jax.errors import InputError

# The flats' noise must exceed the darks' by this many standard errors.
_SIGNIFICANT = 4
# The black level drifts if the means of the darks deviate by more than this fraction of a site's noise, or of the
# rounding noise.
_DRIFT = 0.2
# Gains are capped where light is below this fraction of the mean, which is outside the lens's image circle.
_LEAST_LIGHT = 0.01
# The digital number of white in files with continuous values.
_NUMBERS = 65535.0


@dataclasses.dataclass(frozen=True)
class Site:
    """Holds the measured values of one place in the tile.

    Channel 0 is red, 1 green and 2 blue. The black level is a fraction of the white level. The gain is the electrons
    from black to white, divided by the distance from the black level to 1; `full_well` is the electrons at the white
    level. The read noise is in electrons, and only an upper bound (`is_bound`) where rounding dominates it. The dark
    signal nonuniformity `dsnu` is the standard deviation in electrons, between sites, of the mean in the dark; the
    photo response nonuniformity `prnu` is the relative one of the response.
    """

    row: int
    column: int
    channel: int
    black_level: float
    gain: float
    full_well: float
    read_noise: float
    is_bound: bool
    dsnu: float
    prnu: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Holds the measured values of a sensor.

    `dark` is the mean dark frame `(H, W)`, as fractions of the white level; `flat` is the gain of each site `(H, W)`,
    with mean 1 over the good sites of each color and 1 at defects. `sites` are the places in the tile, row by row;
    `exposures` are the numbers of flats, in the order of light. `error` is the standard error of the mean gain, as a
    fraction of it, and `numbers` is the digital number of the white level. `bits` is the resolution of the converter,
    None for continuous values. `remarks` are notes for the user, one line each.
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
    remarks: Sequence[str]

    @property
    def is_bound(self) -> bool:
        """Whether the read noise of any place is only an upper bound."""
        return any(site.is_bound for site in self.sites)

    def mean(self, name: str) -> float:
        """Returns the mean of a value of `Site` over the places in the tile."""
        return fmean(getattr(site, name) for site in self.sites)


def measure(dark: Frames, flat: Frames, tile: Tile, threshold: float = 6.0) -> Calibration:
    """Measures a sensor from dark frames, at least two, and flats of an evenly lit surface, at least two per exposure.

    Each frame is read once or twice, one at a time. Frames that cannot come from a sensor raise an InputError. `tile`
    is the channel of each place in the color filter array; a site is defective from `threshold` standard deviations on.
    """
    darks, first_dark, drift, remarks = read_darks(dark, tile)
    light, first_flat = read_light(flat, darks.mean)
    exposures = group_exposures(flat, light)
    in_tile = places(tile, first_dark, first_flat)
    numbers = [place.number for place in in_tile if place.number is not None]
    bad = _noticed_in_the_dark(darks, in_tile, threshold)
    coarsest = max(place.step for place in in_tile)
    if pstdev(drift) > _DRIFT * max(np.sqrt(mean_of(darks.variance, ~bad)), _rounding(coarsest)):
        remarks.append(
            f"the black level drifts by {np.ptp(drift):.2g} of white between the darks; the read noise excludes this, "
            "but the black level and flats may be off by as much: let the camera warm up, and alternate darks and flats"
        )
    flats = read_flats(flat, light, exposures, darks, bad, in_tile, threshold)
    lines = [_line(number, place, flats, darks, bad) for number, place in enumerate(in_tile)]
    _check_lines(flat, exposures, flats, lines)
    defects = _find_defects(darks, flats, lines, bad, in_tile, threshold)
    good = ~mask(defects, darks.mean.shape)
    sites = [_site(place, darks, flats, line, good[place.sites]) for place, line in zip(in_tile, lines, strict=True)]
    number = float(np.median(numbers)) if numbers else _NUMBERS
    return Calibration(
        dark=darks.mean,
        flat=_gains(flats.signal, good, in_tile),
        defects=defects,
        sites=sites,
        points=_points(flats, sites, lines),
        exposures=[len(indices) for indices in exposures],
        error=mean_error(lines),
        numbers=number,
        bits=_bits(number) if numbers else None,
        remarks=remarks,
    )


def _noticed_in_the_dark(darks: Moments, in_tile: Sequence[Place], threshold: float) -> Mask:
    """Makes a map of the sites whose mean or noise deviates in the dark."""
    bad, variances = np.zeros(darks.mean.shape, bool), darks.variance
    for place in in_tile:
        mean, variance = darks.mean[place.sites], variances[place.sites]
        even = np.full_like(variance, np.median(variance))
        noise = noise_deviations(variance, even, darks.count - 1, place.step**2 / 12)
        bad[place.sites] = (abs(deviations(mean, _rounding(place.step))) > threshold) | (noise > threshold)
    return bad


def _rounding(step: float) -> float:
    return max(step / np.sqrt(12), TINY)


def _line(number: int, place: Place, flats: Flats, darks: Moments, bad: Mask) -> Line:
    good = ~bad[place.sites]
    means, variances = flats.means[number], flats.variances[number]
    span = 1 - mean_of(darks.mean[place.sites], good)
    dark_variance, degrees = mean_of(darks.variance[place.sites], good), max(good.sum(), 1) * (darks.count - 1)
    return fit(
        np.r_[0.0, means],
        np.r_[dark_variance, variances],
        np.r_[degrees, flats.samples[number]],
        np.r_[True, linear(means, span)],
        place.step,
    )


def _check_lines(flat: Frames, exposures: Sequence[Sequence[int]], flats: Flats, lines: Sequence[Line]) -> None:
    """Rejects flats if light adds no noise, or if the noise falls at the brightest exposures."""
    slopes = _above_dark(flats, lines).mean(0) / flats.means.mean(0)
    if len(slopes) > 1 and slopes[-1] < 0.5 * np.median(slopes[:-1]):
        names = ", ".join(flat.names[index] for index in exposures[-1][:3])
        raise InputError(f"saturated flats: the noise falls in the brightest ({names}, ...): use less light")
    if not all(0 < line.gain < np.inf for line in lines) or mean_error(lines) * _SIGNIFICANT > 1:
        raise InputError(
            "the gain cannot be measured, because the flats are hardly noisier than the darks: take single exposures "
            "(not averages or copies) with more light"
        )


def _above_dark(flats: Flats, lines: Sequence[Line]) -> Float[np.ndarray, "places exposures"]:
    return flats.variances - np.array([[line.dark_variance] for line in lines])


def _find_defects(
    darks: Moments, flats: Flats, lines: Sequence[Line], bad: Mask, in_tile: Sequence[Place], threshold: float
) -> Defects:
    (dark, light, noise), variances = (np.zeros_like(darks.mean) for _ in range(3)), darks.variance
    for place, line in zip(in_tile, lines, strict=True):
        sites, good, gain = place.sites, ~bad[place.sites], np.float32(line.gain)
        mean, variance = darks.mean[sites], variances[sites]
        dark[sites] = deviations(mean, _rounding(place.step))
        light[sites] = deviations(flats.signal[sites], _rounding(place.step))
        # The dark signal of a hot site has photon-like noise as well.
        excess = np.maximum(mean - mean_of(mean, good), 0) / gain
        unlit = np.float32(mean_of(variance, good)) + excess
        lit = np.float32(line.dark_variance) + excess + np.maximum(flats.of_variance[sites], 0) / gain
        noise[sites] = np.maximum(
            noise_deviations(variance, unlit, darks.count - 1, place.step**2 / 12),
            noise_deviations(flats.variance[sites], lit, flats.degrees, place.step**2 / 12),
        )
    return classified(dark, light, noise, threshold)


def _site(place: Place, darks: Moments, flats: Flats, line: Line, good: Mask) -> Site:
    dark, gain = darks.mean[place.sites], line.gain
    black, dark_variance = mean_of(dark, good), mean_of(darks.variance[place.sites], good)
    uneven = float(dark[good].var(dtype=float)) - dark_variance / darks.count
    signal = flats.signal[place.sites]
    surface = smooth_surface(signal, good)
    lit = good & (surface > 0.1 * mean_of(signal, good))
    # The noise of the flats and of the subtracted darks that remains after averaging.
    left = (line.dark_variance + surface / gain) / flats.count + dark_variance / darks.count
    response = np.square(signal / np.where(lit, surface, 1) - 1) - left / np.square(np.where(lit, surface, 1))
    noise, is_bound = read_noise(dark_variance, gain, place.step)
    return Site(
        row=place.row,
        column=place.column,
        channel=place.channel,
        black_level=black,
        gain=gain,
        full_well=gain * (1 - black),
        read_noise=noise,
        is_bound=is_bound,
        dsnu=gain * float(np.sqrt(max(uneven, 0.0))),
        prnu=float(np.sqrt(max(mean_of(response.astype(np.float32), lit), 0.0))),
    )


def _gains(signal: Map, good: Mask, in_tile: Sequence[Place]) -> Map:
    """Computes the gain that evens out the light at each site, with mean 1 over the good sites of each color."""
    gains = np.ones_like(signal)
    for channel in {place.channel for place in in_tile}:
        of_color = np.zeros_like(good)
        for place in in_tile:
            of_color[place.sites] = good[place.sites] & (place.channel == channel)
        if of_color.any():
            light = signal[of_color].astype(float)
            inverse = 1 / np.maximum(light, _LEAST_LIGHT * light.mean())
            gains[of_color] = inverse / inverse.mean()
    return gains


def _points(flats: Flats, sites: Sequence[Site], lines: Sequence[Line]) -> list[Point]:
    """Averages the photon transfer curves of all places with the same color."""
    fitted = np.stack([linear(means, 1 - site.black_level) for means, site in zip(flats.means, sites, strict=True)])
    added, channels = _above_dark(flats, lines), np.array([site.channel for site in sites])
    return [
        Point(int(channel), float(mean), float(variance), bool(is_fitted))
        for channel in np.unique(channels)
        for mean, variance, is_fitted in zip(
            flats.means[channels == channel].mean(0),
            added[channels == channel].mean(0),
            np.any(fitted[channels == channel], axis=0),
            strict=True,
        )
    ]


def _bits(numbers: float) -> int:
    """Returns the number of bits for whole numbers up to this one."""
    return int(np.clip(np.ceil(np.log2(numbers + 1) - 1e-3), 1, 16))
