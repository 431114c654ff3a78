"""What the processing must know of a camera, and the two cameras of the published raw data sets."""

import dataclasses
import json
from collections.abc import Sequence

import jax
import numpy as np

from isp.bayer import check_pattern

Figures = Sequence | np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class Camera:
    """The figures that turn one camera's mosaic into linear sRGB.

    The figures may come as arrays or sequences; they are kept as tuples, so that a camera is hashable and can be a
    static argument of a compiled function. Levels are fractions of the white level: a mosaic value of 1 is a saturated
    site.

    Attributes:
        black_level: what a site reads in the dark, one per site of the 2x2 tile in the order (0,0) (0,1) (1,0) (1,1)
            (for RGGB: R, G1, G2, B); each below 1.
        white_balance: gains of R, G and B; none is 0, which would lose a channel.
        color_matrix: white-balanced camera RGB to linear sRGB, out_k = sum_c color_matrix[k][c] * rgb_c.
        pattern: colours of the 2x2 tile in the same order as black_level: "RGGB", "BGGR", "GRBG" or "GBRG".

    Raises:
        ValueError: a figure of another shape, a figure that is not finite, a black level at or above the white level
            of 1, a gain of 0, or an unknown pattern.
    """

    black_level: Figures
    white_balance: Figures
    color_matrix: Figures
    pattern: str = "RGGB"

    def __post_init__(self):
        check_pattern(self.pattern)
        for name, shape in (("black_level", (4,)), ("white_balance", (3,)), ("color_matrix", (3, 3))):
            figures = _figures(name, getattr(self, name), shape)
            # Nested tuples of plain floats hash and print; arrays do not.
            as_tuple = tuple(map(tuple, figures.tolist())) if len(shape) == 2 else tuple(figures.tolist())
            object.__setattr__(self, name, as_tuple)
        if max(self.black_level) >= 1:
            raise ValueError(f"black_level must be below the white level of 1, got {self.black_level}")
        if 0 in self.white_balance:
            raise ValueError(f"white_balance must have no gain of 0, got {self.white_balance}")

    def to_json(self) -> str:
        """The camera as a JSON object of its four fields; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Camera":
        """Reads what `to_json` wrote; `pattern` may be left out.

        Raises:
            ValueError: text that is no JSON object of exactly these fields, or figures that the class refuses.
        """
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"a camera must be a JSON object, got {type(fields).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"a camera has the fields {sorted(known)}, got also {unknown}")
        if missing := sorted(known - {"pattern"} - set(fields)):
            raise ValueError(f"the camera lacks {missing}")
        return cls(**fields)


def _figures(name: str, values, shape: tuple[int, ...]) -> np.ndarray:
    """`values` as float64 of this shape, or a ValueError that names them."""
    try:
        figures = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers of shape {shape}, got {values!r}") from None
    if figures.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {figures.shape}")
    if not np.isfinite(figures).all():
        raise ValueError(f"{name} must be finite, got {figures.tolist()}")
    return figures


# The published figures of the two data sets; the microscope's odd signs are the data set's own.
CAMERAS = {
    "drone": Camera(
        black_level=(0.0625, 0.0626, 0.0625, 0.0626),
        white_balance=(2.86653646, 1.0, 1.73079425),
        color_matrix=(
            (1.50768983, -0.33571374, -0.17197604),
            (-0.23048614, 1.70698738, -0.47650126),
            (-0.03119153, -0.32803956, 1.35923111),
        ),
    ),
    "microscopy": Camera(
        black_level=(9.834368023181512e-06,) * 4,
        white_balance=(-0.6567, 1.9673, 3.5304),
        color_matrix=((-2.0338, 0.0933, 0.4157), (-0.0286, 2.6464, -0.0574), (-0.5516, -0.0947, 2.9308)),
    ),
}
