"""What the single values of a pipeline's parameters are called."""

from collections.abc import Sequence

import numpy as np

COLOURS = ("red", "green", "blue")

# Its 81 weights are more than a few images determine, and not what a camera's maker tunes: it is not moved by itself,
# nor if nothing is asked for.
INTERPOLATION = "debayer"

# Parameters of more values, such as an interpolation or a kernel, are looked at as a whole.
MOST = 9


def names(parameter: str, shape: Sequence[int]) -> list[str]:
    """The names of a parameter's values, in C order, such as `white_balance.red`.

    A single value is called like its parameter. Gains are called by their colour, weights of colours by
    `colour_correction.red_from_green`, those of the interpolation by `debayer.red_from_green.<row>.<column>`, and all
    others by their place: `black_level.<place in the CFA pattern>`, `sharpening_filter.<row>.<column>`.

    Args:
        parameter: its name in `isp.parametrized` or `isp.static`.
        shape: of its value.
    """
    return [".".join([parameter, *_place(parameter, place)]) for place in np.ndindex(*shape)]


def _place(parameter: str, place: tuple[int, ...]) -> list[str]:
    if parameter == "white_balance":
        return [COLOURS[place[0]]]
    if parameter in ("colour_correction", INTERPOLATION):
        to, source, *rest = place
        return [f"{COLOURS[to]}_from_{COLOURS[source]}", *map(str, rest)]
    return [str(index) for index in place]
