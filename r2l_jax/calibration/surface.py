"""The smooth surface of a map: the fall-off of light and lens."""

import numpy as np
from jaxtyping import Bool, Float32

Plane = Float32[np.ndarray, "rows cols"]

# The highest power of a row or column.
_DEGREE = 4


def smooth_surface(values: Plane, good: Bool[np.ndarray, "rows cols"]) -> Plane:
    """Fits a smooth surface to the good sites of a map.

    Returns:
        The polynomial of the fourth degree in rows and columns that deviates least.
    """
    rows, cols = (
        np.vander(np.linspace(-1, 1, size) if size > 1 else np.zeros(1), 2 * _DEGREE + 1, increasing=True)
        for size in values.shape
    )
    i, j = np.array([(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]).T
    # All sums of the normal equations are sums over the rows, for each column, of products of powers.
    sums = rows.T @ good @ cols
    of_values = rows.T @ np.where(good, values, 0) @ cols
    normal = sums[i[:, None] + i, j[:, None] + j]
    coefficients = np.zeros((_DEGREE + 1, _DEGREE + 1))
    coefficients[i, j] = np.linalg.lstsq(normal, of_values[i, j], rcond=None)[0]
    rows, cols = rows[:, : _DEGREE + 1], cols[:, : _DEGREE + 1]
    return (rows @ coefficients @ cols.T).astype(np.float32)
