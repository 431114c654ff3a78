"""The calibration values of a camera that processing needs, and the two cameras of the published raw data sets."""

import dataclasses
import functools
import itertools
import json
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from isp import cfa
from isp.cfa import COLORS
from isp.parameter import CAMERA_FIELDS, Parameter

Values = Sequence | np.ndarray | jax.Array

# The names of weights from one color to another, ordered by (to, from).
WEIGHTS = tuple(f"{to}_from_{source}" for to, source in itertools.product(COLORS, COLORS))


@dataclasses.dataclass(frozen=True)
class Camera:
    """Holds the calibration values that turn a camera's raw image into linear sRGB.

    Values may be given as arrays or sequences. They are kept as tuples, so a camera is hashable and can be a static
    argument of a compiled function. Levels are fractions of the white level: a saturated site has the value 1. Black
    levels of 1 or more are digital numbers, which are divided by the `white_level` given with them. In JSON, all levels
    beside a `white_level` are digital numbers.

    Attributes:
        black_level: The value of a dark site, below 1. For a Bayer pattern, one for each site of the 2x2 tile in the
            order (0, 0), (0, 1), (1, 0), (1, 1); for RGGB these are R, G1, G2, B. For other color filter arrays, one
            each for R, G and B; for a sensor without color filters, a single one.
        white_balance: The gains of R, G and B. A gain of 0 raises an error, because it would lose the channel. A sensor
            without color filters needs none.
        color_matrix: The matrix from white-balanced camera RGB to linear sRGB:
            out_k = sum_c color_matrix[k][c] * rgb_c. A sensor without color filters needs none.
        pattern: The color filter array, see `isp.cfa`: a Bayer pattern such as "RGGB", rows of colors such as
            "RRGG/RRGG/GGBB/GGBB", or "MONO". It is kept in the spelling of `isp.cfa.canonical`.
        white_level: The digital number of a saturated site in files, which readers divide by, such as 1023. If None,
            readers take it from the file or, if the file states none, from the range of its samples.
        full_well: The number of electrons at which a site reads as 1. None means unknown; `isp.sensor` then uses 15000.
        read_noise: The standard deviation of the read-out noise in electrons. None means unknown; `isp.sensor` then
            uses 4.
        bits: The bits of the analog-to-digital converter, 1 to 16. None means unknown; `isp.sensor` then uses 12.

    Example:
        >>> camera = isp.Camera(black_level=[0.06] * 4, white_balance=[2.0, 1.0, 1.5], color_matrix=np.eye(3))
        >>> camera.white_balance
        (2.0, 1.0, 1.5)
        >>> camera.pattern
        'RGGB'
    """

    black_level: Values
    white_balance: Values | None = None
    color_matrix: Values | None = None
    pattern: str = "RGGB"
    white_level: float | int | None = None
    full_well: float | int | None = None
    read_noise: float | int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", cfa.canonical(self.pattern))
        for name, check in _CHECKS.items():
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, check(name, given))
        levels = cfa.black_level_shape(self.pattern)
        for name, shape in (("black_level", levels), ("white_balance", (3,)), ("color_matrix", (3, 3))):
            given = getattr(self, name)
            if given is None and self.pattern == cfa.MONO:
                given = np.ones(3) if name == "white_balance" else np.eye(3)
            values = _checked(name, given, shape)
            if name == "black_level":
                values = _fractions(values, self.white_level if values.max() >= 1 else None)
            object.__setattr__(self, name, _as_tuples(values))
        if 0 in np.asarray(self.white_balance):
            raise ValueError(f"white_balance must have no gain of 0, got {self.white_balance}")

    def parameters(self, *names: str) -> dict[str, Parameter]:
        """Makes the parameters that start from the calibration.

        Args:
            *names: Some of `black_level`, `white_balance` and `colour_correction`.
        """
        made = {
            "black_level": Parameter(
                self.black_level,
                width=0.1,
                low=0,
                high=0.95,
                labels=cfa.level_names(self.pattern),
                unit="level",
                camera="black_level",
            ),
            "white_balance": Parameter(
                self.white_balance, scale="log", labels=COLORS, unit="gain", camera="white_balance"
            ),
            "colour_correction": Parameter(
                self.color_matrix, width=1, labels=WEIGHTS, unit="weight", camera="color_matrix"
            ),
        }
        return {name: made[name] for name in names}

    def to_json(self) -> str:
        """Writes the camera as a JSON object, which `from_json` reads.

        The object has all fields that are not None. If there is a `white_level`, the black levels are digital numbers
        as well.
        """
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if self.white_level is not None:
            # Twelve digits hide the division's rounding error, so 64 is written as 64.
            fields["black_level"] = [float(f"{level * self.white_level:.12g}") for level in self.black_level]
        return json.dumps(fields, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Camera":
        """Reads a camera from the JSON object that `to_json` writes; fields with a default may be missing.

        Args:
            text: The JSON text. With a `white_level`, its black levels are digital numbers, which are divided by it.

        Raises:
            ValueError: `text` is no JSON object, lacks a field, or has an unknown or invalid one.

        Example:
            >>> camera = isp.Camera.from_json(
            ...     '{"black_level": [64, 64, 64, 64], "white_level": 1024, "white_balance": [2, 1, 2],'
            ...     ' "color_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}'
            ... )
            >>> camera.black_level
            (0.0625, 0.0625, 0.0625, 0.0625)
        """
        try:
            fields = json.loads(text)
        except RecursionError:
            raise ValueError("a camera must be a JSON object, got one that is nested too deeply") from None
        if not isinstance(fields, dict):
            raise ValueError(f"a camera must be a JSON object, got {type(fields).__name__}")
        figures = cls.figures_of(fields)
        needed = {"black_level"} if figures.get("pattern") == cfa.MONO else {*CAMERA_FIELDS}
        if missing := sorted(needed - set(fields)):
            raise ValueError(f"the camera lacks {missing}")
        return cls(**figures)

    @classmethod
    def figures_of(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Reads some or all of a camera's values from the fields of a JSON object.

        Args:
            fields: Some of the fields that `to_json` writes. With a `white_level`, the black levels are digital
                numbers.

        Returns:
            Keyword arguments for this class, one for each field, with levels as fractions of the white level.

        Raises:
            ValueError: A field is unknown, or its value is invalid.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"a camera may have only the fields {sorted(known)}, got {unknown}")
        figures = {name: value for name, value in fields.items() if value is not None}
        shapes = dict(CAMERA_FIELDS)
        if "pattern" in figures:
            figures["pattern"] = cfa.canonical(figures["pattern"])
            shapes["black_level"] = (cfa.black_level_shape(figures["pattern"]),)
        for name in _CHECKS.keys() & figures.keys():
            figures[name] = _CHECKS[name](name, figures[name])
        for name in shapes.keys() & figures.keys():
            figures[name] = _checked(name, figures[name], *shapes[name])
        if "black_level" in figures:
            figures["black_level"] = _fractions(figures["black_level"], figures.get("white_level"))
        return {name: _as_tuples(value) for name, value in figures.items()}


def _number(name: str, given: object, may_be_zero: bool = False) -> float:
    """Returns the value as a float; raises a ValueError unless it is finite and greater than 0, or 0 if allowed."""
    if not isinstance(given, numbers.Real) or isinstance(given, bool):
        raise ValueError(f"{name} must be a number, got {given!r:.100}")
    value = _checked(name, [given], (1,)).item()
    if value < 0 or (value == 0 and not may_be_zero):
        raise ValueError(f"{name} must {'not be negative' if may_be_zero else 'be greater than 0'}, got {value:g}")
    return value


def _bits(name: str, given: object) -> int:
    """Returns the bits as an int; raises a ValueError unless they are a whole number from 1 to 16."""
    if not isinstance(given, numbers.Integral) or isinstance(given, bool) or int(given) not in range(1, 17):
        raise ValueError(f"{name} must be a whole number from 1 to 16, got {given!r:.100}")
    return int(given)


# The fields that are single numbers and may be unknown.
_CHECKS: dict[str, Callable[[str, object], float | int]] = {
    "white_level": _number,
    "full_well": _number,
    "read_noise": functools.partial(_number, may_be_zero=True),
    "bits": _bits,
}


def _fractions(black: np.ndarray, white: float | None) -> np.ndarray:
    """Divides black levels by the white level if there is one; raises a ValueError unless they are below white."""
    if black.max() < (white or 1):
        return black / (white or 1)
    if white is not None:
        raise ValueError(f"black_level must be below the white_level of {white:g}, got {black.tolist()}")
    raise ValueError(
        f"black_level must be a fraction of the white level below 1, got {black.tolist()}: for digital numbers, give "
        "the white_level as well, such as white_level=4095"
    )


def _as_tuples(value: Any) -> Any:
    """Turns an array into nested tuples of plain floats, which can be hashed and printed."""
    if not isinstance(value, np.ndarray):
        return value
    return tuple(map(tuple, value.tolist())) if value.ndim == 2 else tuple(value.tolist())


def _checked(name: str, given: object, *shapes: tuple[int, ...]) -> Any:
    """Returns the values as float64; raises a ValueError unless they are finite numbers of one of these shapes."""
    wanted = " or ".join(map(str, shapes))
    if given is None:
        raise ValueError(f"{name} is missing, numbers of shape {wanted}")
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be numbers of shape {wanted}, got {given!r:.100}") from None
    if values.shape not in shapes:
        raise ValueError(f"{name} must have shape {wanted}, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values.tolist()}")
    return values


# The published calibration values of the two data sets. The microscope's negative signs were published with them.
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
