"""Sensor drifts without noise and common corruptions, from docs/drift_controls.md and Hendrycks & Dietterich (2019)."""

import numpy as np
from oracles import isp
from scipy import ndimage, special

# The amounts of severities 1 to 5, from the table in docs/drift_controls.md.
AMOUNTS = {
    "overexposure": (0.25, 0.5, 1, 1.5, 2.5),
    "black_level": (16, 40, 80, 160, 320),
    "bits": (7, 6, 5, 4, 3),
    "pattern_shift": (2, 10, 30, 60, 100),
}


# Chromaticities of black bodies of 6504 and 4000 K from CIE tables, and the matrix from CIE XYZ to linear sRGB.
_DAYLIGHT, _LAMP = (0.3134, 0.3236), (0.3805, 0.3768)
WARMER = 1e6 / 4000 - 1e6 / 6504
_TO_SRGB = np.linalg.inv(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def drifted(raw, name, severity, camera):
    """Raw images as a camera with a drift takes them."""
    return taken(raw, {"overexposure": "exposure"}.get(name, name), AMOUNTS[name][severity - 1], camera)


def taken(raw, quantity, amount, camera):
    """Raw images without noise as a camera takes them that differs in one quantity of `CameraState`."""
    *_, height, width = raw.shape
    black, seen = isp.black_levels(camera["black_level"], height, width), isp.colors(camera["pattern"], height, width)
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1])[:, None, None] / 2
    radius = np.hypot(y, x) / np.hypot(height - 1, width - 1) * 2  # 1 in the corners.
    light = (raw - black) / (1 - black)
    if quantity == "exposure":  # Stops.
        light = light * 2.0**amount
    elif quantity in ("red_gain", "blue_gain"):
        light = np.where(seen == {"red_gain": 0, "blue_gain": 2}[quantity], light * 2.0**amount, light)
    elif quantity == "lamp_color":
        light = light * _of_lamp(camera)[seen]
    elif quantity == "vignetting":
        light = light * 2 ** (-amount * radius**2)
    elif quantity == "chromatic_aberration":  # Red comes from nearer to the center, blue from farther away.
        nearer = 1 - amount * 2 / np.hypot(height - 1, width - 1) * np.array([1, 0, -1])[seen]
        light = _at(light, (nearer - 1) * y, (nearer - 1) * x)
    elif quantity == "defocus":
        light = _by_place(light, lambda plane: _gaussian(plane, amount / 2))
    raw = black + (1 - black) * light
    if quantity == "black_level":  # In digital numbers of 12 bits.
        raw = raw + amount / 4095
    elif quantity == "saturation":
        raw = np.minimum(raw, amount)
    elif quantity == "gamma":
        raw = raw**amount
    elif quantity == "bits":
        raw = np.round(raw * (2**amount - 1)) / (2**amount - 1)
    elif (
        quantity == "pattern_shift"
    ):  # The last rows lose a site; the last column gets the values of its left neighbor.
        start = height - round(amount / 100 * height)
        shifted = np.concatenate([raw[..., 1:], raw[..., -2:-1]], -1)
        raw = np.concatenate([raw[..., :start, :], shifted[..., start:, :]], -2)
    return np.clip(raw, 0, 1)


def _of_lamp(camera):
    """The factors on red, green and blue light under a lamp that is `WARMER`; green keeps its light."""

    def of(x, y):
        return np.linalg.inv(camera["color_matrix"]) @ _TO_SRGB @ [x / y, 1, (1 - x - y) / y]

    factors = of(*_LAMP) / of(*_DAYLIGHT)
    return factors / factors[1]


def _by_place(light, function):
    """Applies a function to the sites of each of the four places in a tile of 2x2."""
    found = np.empty_like(light)
    for place in np.ndindex(2, 2):
        sites = (..., slice(place[0], None, 2), slice(place[1], None, 2))
        found[sites] = function(light[sites])
    return found


def _at(light, down, along):
    """The light so many sites farther down and along, interpolated between sites of the same place in a tile."""
    found = np.empty_like(light)
    for place in np.ndindex(2, 2):
        sites = (slice(place[0], None, 2), slice(place[1], None, 2))
        plane = light[sites]
        rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]]
        where = rows + down[sites] / 2, columns + along[sites] / 2
        found[sites] = ndimage.map_coordinates(plane, where, order=1, mode="nearest")
    return found


def _gaussian(plane, sigma):
    """Blurs by the discrete Gaussian kernel (Lindeberg, 1990)."""
    kernel = special.ive(np.arange(-20, 21), sigma**2)
    return ndimage.correlate1d(ndimage.correlate1d(plane, kernel, 0), kernel, 1)


def variance(light, well, read_noise, gain=1):
    """The variance in squared electrons of a site with this light, as a fraction of the full well, at a gain."""
    return gain * light * well + (gain * read_noise) ** 2


def corrupted(images, name, severity):
    """Images under a corruption of the strengths of CIFAR-10-C."""
    if name == "contrast":
        mean, factor = images.mean((-3, -2), keepdims=True), (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
        return np.clip((images - mean) * factor + mean, 0, 1)
    # Brightness is the value of HSV, with which all channels scale.
    value = images.max(-1, keepdims=True)
    brighter = np.clip(value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1], 0, 1)
    return images * brighter / np.maximum(value, 1e-12) + (value < 1e-12) * brighter


def photon_transfer(darks, flats, good):
    """A sensor's numbers from dark frames `(N, H, W)` and flat frames `(E, N, H, W)`, both in digital numbers.

    After EMVA Standard 1288, release 4.0, from the good sites `(H, W)` of one color: the black level; the mean and the
    variance of the light of each exposure; the electrons per digital number, which is the reciprocal of the variance's
    slope; the read noise in electrons, after subtracting the variance of rounding; and the standard deviation of the
    mean dark frame in electrons, after subtracting the variance of the read noise.
    """
    dark, light = darks.mean(0), flats.mean(1) - darks.mean(0)
    noise = darks.var(0, ddof=1)[good].mean()
    means = light[:, good].mean(1)
    variances = flats.var(1, ddof=1)[:, good].mean(1) - noise
    # The error of a variance is proportional to it: points weigh by their reciprocal squares.
    gain = (variances**-2 * means**2).sum() / (variances**-2 * means * variances).sum()
    return {
        "black_level": dark[good].mean(),
        "means": means,
        "variances": variances,
        "electrons_per_number": gain,
        "read_noise_electrons": gain * np.sqrt(noise - 1 / 12),
        "dsnu_electrons": gain * np.sqrt(dark[good].var(ddof=1) - noise / len(darks)),
    }
