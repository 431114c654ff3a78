"""The parameters that start from a camera's calibration."""

import itertools

from isp.camera import Camera
from isp.parameter import Parameter

COLORS = ("red", "green", "blue")

# The names of weights from one color to another, ordered by (to, from).
WEIGHTS = tuple(f"{to}_from_{source}" for to, source in itertools.product(COLORS, COLORS))


def black_level(camera: Camera) -> Parameter:
    """Makes the parameter of the black levels.

    Args:
        camera: The camera, whose `black_level` is the start.

    Returns:
        The parameter.

    Example:
        >>> import isp
        >>> isp.camera_parameters.black_level(isp.CAMERAS["drone"]).unit
        'level'
    """
    # The sites of a Bayer tile are numbered; other sensors have levels by color, or a single one.
    labels = COLORS if len(camera.black_level) == len(COLORS) else None
    return Parameter(camera.black_level, width=0.1, low=0, high=0.95, labels=labels, unit="level", camera="black_level")


def white_balance(camera: Camera) -> Parameter:
    """Makes the parameter of the gains of red, green and blue.

    Args:
        camera: The camera, whose `white_balance` is the start.

    Returns:
        The parameter.

    Example:
        >>> import isp
        >>> isp.camera_parameters.white_balance(isp.CAMERAS["drone"]).labels
        ('red', 'green', 'blue')
    """
    return Parameter(camera.white_balance, scale="log", labels=COLORS, unit="gain", camera="white_balance")


def color_matrix(camera: Camera) -> Parameter:
    """Makes the parameter of the matrix from white-balanced camera RGB to linear sRGB.

    Args:
        camera: The camera, whose `color_matrix` is the start.

    Returns:
        The parameter.

    Example:
        >>> import isp
        >>> isp.camera_parameters.color_matrix(isp.CAMERAS["drone"]).labels[1]
        'red_from_green'
    """
    return Parameter(camera.color_matrix, width=1, labels=WEIGHTS, unit="weight", camera="color_matrix")
