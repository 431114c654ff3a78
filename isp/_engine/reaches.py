"""How far away a pixel can influence the result of a stage: values for `isp.Stage.reach`.

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

    Means over windows of cells are taken twice, and each reaches half a window farther. The interpolation reaches one
    cell farther, and a pixel's own cell counts as well.
    """
    return None if PERIOD % cell else (2 * (size // 2) + 2) * cell
