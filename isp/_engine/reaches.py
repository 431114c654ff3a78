"""How far away a pixel can influence the result of a function, as `isp.Stage` wants to know it.

The functions take the arguments of the stage's function without the image.
"""

from jaxtyping import Array

from isp import cfa
from isp._engine import neighbors
from isp._engine.checks import Scalar

# Patches of an image start at multiples of this, and thus with whole tiles of all color filter arrays of real sensors.
PERIOD = 12

BILINEAR = 2
MALVAR = 2
MENON = 8


def of_kernel(kernel: Array, *_: Array, **__: object) -> int:
    """Returns the reach of a correlation with a kernel `(..., rows, cols)`, the function's first parameter."""
    return max(kernel.shape[-2:]) // 2


def of_window(*_: Scalar, size: int) -> int:
    """Returns the reach of a filter whose window has the side `size`."""
    return size // 2


def of_patches(_: Scalar, patch_size: int, patch_distance: int) -> int:
    """Returns the reach of non-local means."""
    return patch_distance + patch_size // 2


def of_defects(_: Scalar, pattern: str, **__: object) -> int:
    """Returns the reach of the repair of defective sites."""
    return neighbors.reach(cfa.tile(pattern))


def of_local_tone_map(*_: Scalar, size: int = 9, cell: int = 4, **__: object) -> int | None:
    """Returns the reach of the guided filter, or None if patches would not start with whole cells.

    Two rounds of window means and the interpolation reach so many cells away from the pixel's own cell.
    """
    return None if PERIOD % cell else (2 * (size // 2) + 2) * cell
