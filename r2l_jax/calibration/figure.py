"""Draws the photon transfer curve."""

import itertools

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.calibration.measure import Calibration

_COLORS = {"red": "tab:red", "green": "tab:green", "blue": "tab:blue", "gray": "black"}


def color_names(calibration: Calibration) -> dict[int, str]:
    """Returns the name of each channel: "gray" if there is only one."""
    channels = sorted({point.channel for point in calibration.points})
    return dict(enumerate(("red", "green", "blue"))) if len(channels) > 1 else {channels[0]: "gray"}


def photon_transfer_curve(calibration: Calibration) -> Figure:
    """Plots the variance added by light against the mean light, in digital numbers, with the fitted line.

    Exposures left out of the fit have hollow markers.
    """
    number, names = calibration.numbers, color_names(calibration)
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.subplots()
    for (channel, name), fitted in itertools.product(names.items(), (True, False)):
        points = [point for point in calibration.points if (point.channel, point.fitted) == (channel, fitted)]
        if points:
            means, variances = np.array([(point.mean, point.variance) for point in points]).T
            label, fill = (name, "full") if fitted else (f"{name}, not fitted", "none")
            axes.plot(means * number, variances * number**2, "o", color=_COLORS[name], fillstyle=fill, label=label)
    gain = calibration.mean("gain") / number
    longest = 1.05 * max(point.mean for point in calibration.points) * number
    label = f"{gain:.4g} electrons per digital number"
    axes.plot([0, longest], [0, longest / gain], color="black", linewidth=1, label=label)
    axes.set(
        xlabel="mean above dark (digital numbers)",
        ylabel="variance above dark (digital numbers²)",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
