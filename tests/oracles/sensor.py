"""Sensor drifts without noise and common corruptions, from docs/drift_controls.md and Hendrycks & Dietterich (2019)."""

import numpy as np
from oracles import isp

# The amounts of severities 1 to 5, from the table in docs/drift_controls.md.
AMOUNTS = {
    "overexposure": (0.25, 0.5, 1, 1.5, 2.5),
    "black_level": (16, 40, 80, 160, 320),
    "bits": (7, 6, 5, 4, 3),
    "pattern_shift": (2, 10, 30, 60, 100),
}


def drifted(raw, name, severity, camera):
    """Raw images as a camera with a drift takes them."""
    amount, black = AMOUNTS[name][severity - 1], isp.black_levels(camera["black_level"], *raw.shape[-2:])
    if name == "overexposure":  # Bright sites saturate; noise grows with the light.
        raw = black + (raw - black) * 2.0**amount
    elif name == "black_level":  # In digital numbers of 12 bits.
        raw = raw + amount / 4095
    elif name == "bits":
        raw = np.round(raw * (2**amount - 1)) / (2**amount - 1)
    else:  # The last rows lose a site; the last column gets the values of its left neighbor.
        start = raw.shape[-2] - round(amount / 100 * raw.shape[-2])
        shifted = np.concatenate([raw[..., 1:], raw[..., -2:-1]], -1)
        raw = np.concatenate([raw[..., :start, :], shifted[..., start:, :]], -2)
    return np.clip(raw, 0, 1)


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
