"""A stage parameter: its initial value, scale, valid range, unit and labels."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from isp._kernels.checks import is_traced

# The largest factor by which a parameter on a log scale may move. The light intensities that were measured in the study
# of Oala et al. (TMLR 2023) differ by a factor of a hundred.
LARGEST_FACTOR = 100.0

# The largest number of elements that are analyzed one by one. A parameter with more elements, such as an interpolation
# kernel, is analyzed as a whole.
MOST_ELEMENTS = 9

# The fields of `isp.Camera` that a parameter can start from, and their shapes. The number of black levels depends on
# the color filter array.
CAMERA_FIELDS = {
    "black_level": ((4,), (3,), (1,)),
    "white_balance": ((3,),),
    "color_matrix": ((3, 3),),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Declares a learnable value with its scale, valid range, unit and labels.

    The natural range of a parameter is a typical change of its value: `width` on a linear scale, and a factor of e on a
    log scale. The distance of a value from the start, in natural ranges, is its *offset*, which makes parameters with
    different units comparable. On a log scale, offsets are logarithms of a factor, and values keep their sign. Ranges
    are never guessed: a linear parameter without a `width` can be trained, but raises an error where offsets are
    needed.

    Two parameters that differ only in `value` are equal, so that pipelines at other values share compiled functions.

    Attributes:
        value: The start, a number or an array, which may be traced. It is None in `Pipeline.declarations`, because the
            pipeline itself holds the values.
        scale: "linear" or "log".
        width: The natural range of a linear parameter, in its unit.
        low: The smallest valid value. A start below it is valid as well.
        high: The largest valid value. On a log scale, values also stay within a factor of 100 of their start.
        labels: Names of the elements along the leading axes, in C order, such as ("red", "green", "blue"). Elements
            along other axes are numbered.
        unit: The unit of one value in the singular, such as "gain", "level" or "pixels".
        tuned: False for a parameter with too many values to tune by hand. Analyses use it only if it is requested by
            name.
        camera: The field of `isp.Camera` that the parameter starts from, if any. It has the shape of that field.
        neutral: The value at which the stage changes nothing, such as the kernel of a filter that copies its input. It
            is given for a linear parameter that is tuned as a whole by its strength: 0 at the neutral value, 1 at the
            start.

    Example:
        >>> gains = isp.Parameter((2.0, 1.0, 1.5), scale="log", labels=("red", "green", "blue"), unit="gain")
        >>> gains.has_range
        True
        >>> strength = isp.Parameter(0.0, width=0.5, low=-1, high=2)
        >>> strength.moved(1.0, 0.5)
        1.25
    """

    value: ArrayLike | Sequence | None = dataclasses.field(compare=False)
    scale: Literal["linear", "log"] = "linear"
    width: float | int | None = None
    low: float | int = -math.inf
    high: float | int = math.inf
    labels: Sequence[str] | None = None
    unit: str = ""
    tuned: bool = True
    camera: str | None = None
    neutral: ArrayLike | Sequence | None = None

    def __post_init__(self) -> None:
        if self.scale not in ("linear", "log"):
            raise ValueError(f"scale must be 'linear' or 'log', got {self.scale!r}")
        if self.scale == "log" and self.width is not None:
            raise ValueError(
                f"width is the natural range of a linear parameter; it must be None on a log scale, got {self.width}"
            )
        if self.width is not None and not 0 < self.width < math.inf:
            raise ValueError(f"width must be positive and finite, got {self.width}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.camera is not None and self.camera not in CAMERA_FIELDS:
            raise ValueError(f"camera must be one of {', '.join(CAMERA_FIELDS)}, got {self.camera!r}")
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels))
        if self.neutral is not None:
            if self.width is None:
                raise ValueError("neutral must be None unless the parameter is linear and has a width")
            # Nested tuples can be hashed; arrays cannot.
            object.__setattr__(self, "neutral", _as_tuples(np.asarray(self.neutral, np.float64).tolist()))
        if self.value is not None:
            self._check_value(self.value)

    def _check_value(self, value: ArrayLike | Sequence) -> None:
        shape = np.shape(value)
        if self.labels is not None and _labeled_axes(self.labels, shape) is None:
            raise ValueError(f"labels must name each element of the leading axes of {shape}, got {len(self.labels)}")
        if self.neutral is not None and np.shape(self.neutral) != shape:
            raise ValueError(f"neutral must have the value's shape {shape}, got {np.shape(self.neutral)}")
        if self.camera is not None and shape not in CAMERA_FIELDS[self.camera]:
            wanted = " or ".join(map(str, CAMERA_FIELDS[self.camera]))
            raise ValueError(f"value must have the shape {wanted} of a camera's {self.camera}, got {shape}")
        if is_traced(value):
            return
        with np.errstate(over="ignore"):  # An overflow is reported below.
            values = np.asarray(value, np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"value must be finite, got {values.tolist()}")
        if self.scale == "log" and not values.all():
            raise ValueError(f"value must not be 0 on a log scale, as no factor changes 0, got {values.tolist()}")

    @property
    def has_range(self) -> bool:
        """Returns whether offsets can be computed: on a log scale, or with a `width`."""
        return self.scale == "log" or self.width is not None

    def moved(self, start: ArrayLike, offset: ArrayLike) -> ArrayLike:
        """Computes the value at an offset from a start."""
        if self.scale == "log":
            return start * (math.exp(offset) if isinstance(offset, float) else jnp.exp(offset))
        return start + self._known_width() * offset

    def offset(self, start: ArrayLike, value: ArrayLike) -> ArrayLike:
        """Computes the offset of a value from a start; undoes `moved`.

        Returns:
            The number of natural ranges between them. On a log scale, NaN for a value of the other sign.
        """
        if self.scale == "log":
            if isinstance(start, float) and isinstance(value, float):
                return math.log(value / start) if value * start > 0 else math.nan
            return jnp.log(value / start)
        difference = value - start  # pyright: ignore[reportOperatorIssue]  # ArrayLike includes NumPy's booleans.
        return difference / self._known_width()

    def offset_limits(self, start: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
        """Computes the smallest and the largest valid offset of each value.

        Returns:
            The two limits. 0, the offset of the start itself, is always between them.
        """
        if self.scale == "linear":
            width = self._known_width()
            return jnp.minimum(self.low - start, 0) / width, jnp.maximum(self.high - start, 0) / width
        reach = math.log(LARGEST_FACTOR)
        if math.isinf(self.low) and math.isinf(self.high):
            return -reach, reach
        # Values keep their sign, so `high` limits how small the magnitude of a negative value can be.
        negative = jnp.asarray(start) < 0
        least = jnp.maximum(jnp.where(negative, -self.high, self.low), 0) / jnp.abs(start)
        greatest = jnp.maximum(jnp.where(negative, -self.low, self.high), 0) / jnp.abs(start)
        return jnp.clip(jnp.log(least), -reach, 0), jnp.clip(jnp.log(greatest), 0, reach)

    def valid(self, start: ArrayLike, value: ArrayLike) -> Array:
        """Clips a value to the range from `low` to `high`, extended by the start.

        Rounding may put a value that was moved to its offset limit slightly beyond `low` or `high`.
        """
        return jnp.clip(value, jnp.minimum(self.low, start), jnp.maximum(self.high, start))

    def moved_validly(self, start: ArrayLike, offset: ArrayLike) -> Array:
        """Computes the value at the nearest valid offset from a start."""
        return self.valid(start, self.moved(start, jnp.clip(offset, *self.offset_limits(start))))

    def element_names(self, name: str, shape: Sequence[int]) -> list[str]:
        """Names the elements in C order, such as `white_balance.red` or `sharpening_filter.1.2`.

        Args:
            name: The parameter's name. It is the element name of a single number.
            shape: The shape of the value. Labels that do not fit it raise a ValueError.

        Example:
            >>> isp.Parameter((2.0, 1.0), labels=("red", "green")).element_names("gain", (2,))
            ['gain.red', 'gain.green']
        """
        labels = self.labels or ()
        axes = _labeled_axes(labels, shape) if labels else 0
        if axes is None:
            raise ValueError(f"labels {self.labels} do not fit a {name} of shape {tuple(shape)}")
        names = []
        for place in np.ndindex(*shape):
            labeled, numbered = place[:axes], place[axes:]
            label = [labels[int(np.ravel_multi_index(labeled, tuple(shape[:axes])))]] if axes else []
            names.append(".".join([name, *label, *map(str, numbered)]))
        return names

    def _known_width(self) -> float | int:
        if self.width is None:
            raise ValueError("a linear parameter must declare a width, the unit of its offsets")
        return self.width


def _checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(labels, str) else tuple(labels)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"labels must be distinct names, got {labels!r}")
    return names


def _labeled_axes(labels: Sequence[str], shape: Sequence[int]) -> int | None:
    """Counts the leading axes that the labels name; returns None if no number of axes fits."""
    return next((axes for axes in range(len(shape), 0, -1) if math.prod(shape[:axes]) == len(labels)), None)


def _as_tuples(values: float | list) -> float | tuple:
    return tuple(map(_as_tuples, values)) if isinstance(values, list) else values
