"""How far away a pixel can influence the result of a function, as `isp.Stage` wants to know it.

The functions take the arguments of the stage's function without the image.
"""

from jaxtyping import Array

from isp import cfa
from isp._engine import neighbors
from isp._engine.checks import Scalar

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
