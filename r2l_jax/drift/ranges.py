"""How far the parameters of a pipeline may sensibly move: what makes them comparable, and keeps them valid."""

from typing import NamedTuple

import numpy as np

import isp


class Range(NamedTuple):
    """The natural range of a parameter, in arrays of its shape.

    Attributes:
        width: of the range. Sensitivities are stated per hundredth of it, and searches move by fractions of it.
        low: the least valid value.
        high: the greatest.
    """

    width: np.ndarray
    low: np.ndarray
    high: np.ndarray


# A gain or a strength keeps its sign and its order of magnitude.
_LEAST, _MOST = 0.05, 20.0


def natural_ranges(pipeline: isp.Pipeline) -> dict[str, Range]:
    """The natural range of every parameter, around the value that it has.

    - `black_level`: a tenth of the white level; valid from 0 to 0.95 of it.
    - `colour_correction`, `debayer` and the kernels of filters: 1 for each weight; any value is valid.
    - `additive_layer`: 1, all of the display's range; valid from -1 to 1.
    - all others, gains, gamma and the strengths of filters: the value itself, so that a hundredth is one per cent of
      it; valid from a twentieth of it to twenty times it.
    """
    ranges = {}
    for name, array in pipeline.parameters().items():
        value = np.asarray(array)
        if name == "black_level":
            width, low, high = 0.1, 0.0, 0.95
        elif name in ("colour_correction", "debayer", "sharpening_filter", "gaussian_blur"):
            width, low, high = 1.0, -np.inf, np.inf
        elif name == "additive_layer":
            width, low, high = 1.0, -1.0, 1.0
        else:
            ends = _LEAST * value, _MOST * value
            width, low, high = np.abs(value), np.minimum(*ends), np.maximum(*ends)
        ranges[name] = Range(*(np.broadcast_to(end, value.shape).astype(np.float32) for end in (width, low, high)))
    return ranges
