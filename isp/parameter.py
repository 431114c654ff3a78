"""A parameter of a stage: where it starts, and every fact that searches, analyses and figures need about it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# How far a parameter on a log scale may move, as a factor: the light intensities measured in the study of Oala et al.
# (TMLR 2023) lie a factor of a hundred apart.
LARGEST_FACTOR = 100.0

# The most elements that are looked at one by one. A parameter of more, such as an interpolation, is looked at as a
# whole.
MOST_ELEMENTS = 9

# The fields of `isp.Camera` that a parameter can start from, and their shapes.
CAMERA_FIELDS = {"black_level": (4,), "white_balance": (3,), "color_matrix": (3, 3)}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A value that can be learned, and every fact that programs need about it.

    Distances from a start are counted in natural ranges, which makes parameters of different units comparable; such a
    distance is an *offset*. On a linear scale, the natural range is `width`. On a log scale it is the value itself:
    offsets are logarithms of a factor, and values keep their sign. Nothing guesses a range: a linear parameter without
    a `width` trains like any other, and is refused where offsets are needed.

    Attributes:
        value: where it starts, a number or an array, which may be traced. None in a pipeline's `facts`: the pipeline
            itself holds the values. Two parameters that differ in nothing else are equal, so that pipelines at other
            values share compiled functions.
        scale: "linear" or "log".
        width: the natural range of a linear parameter, in its unit.
        low: the least valid value. A start below it is also valid.
        high: the greatest valid value. On a log scale, values also stay within a factor of 100 of their start.
        labels: names of the elements along the leading axes, in C order, such as ("red", "green", "blue"); elements
            along other axes are numbered.
        unit: what one value is, such as "gain", "level" or "pixels", in the singular.
        tuned: False for a parameter of too many values to be tuned by hand, which analyses leave alone unless it is
            asked for by name.
        camera: the field of `isp.Camera` that it starts from, if any; it has the shape of that field.
        neutral: the value at which its stage changes nothing, of a linear parameter that is tuned as a whole, by its
            strength: 0 at the neutral value and 1 at the start, as with the kernel of a filter.

    Raises:
        ValueError: facts that contradict each other or the value, or a start of 0 on a log scale.
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
    neutral: Any = None

    def __post_init__(self):
        if self.scale not in ("linear", "log"):
            raise ValueError(f"scale must be 'linear' or 'log', got {self.scale!r}")
        if self.scale == "log" and self.width is not None:
            raise ValueError(
                f"width is the natural range of a linear parameter; a log scale has none, got {self.width}"
            )
        if self.width is not None and not 0 < self.width < math.inf:
            raise ValueError(f"width must be positive and finite, got {self.width}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.camera is not None and self.camera not in CAMERA_FIELDS:
            raise ValueError(f"camera must be one of {', '.join(CAMERA_FIELDS)}, got {self.camera!r}")
        if self.labels is not None:
            self._check_labels()
        if self.neutral is not None:
            if self.width is None:
                raise ValueError("neutral is for a linear parameter with a width, along which a strength moves it")
            # Nested tuples can be hashed; arrays cannot.
            object.__setattr__(self, "neutral", _as_tuples(np.asarray(self.neutral, np.float64).tolist()))
        if self.value is not None:
            self._check_value()

    def _check_labels(self) -> None:
        labels = () if isinstance(self.labels, str) else tuple(self.labels)
        if not labels or len(set(labels)) < len(labels) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"labels must be names that differ, got {self.labels!r}")
        object.__setattr__(self, "labels", labels)

    def _check_value(self) -> None:
        shape = np.shape(self.value)
        if self.labels is not None and _labelled_axes(self.labels, shape) is None:
            raise ValueError(f"labels must be as many as the leading axes of {shape} have, got {len(self.labels)}")
        if self.neutral is not None and np.shape(self.neutral) != shape:
            raise ValueError(f"neutral must have the value's shape {shape}, got {np.shape(self.neutral)}")
        if self.camera is not None and shape != CAMERA_FIELDS[self.camera]:
            wanted = CAMERA_FIELDS[self.camera]
            raise ValueError(f"value must have the shape {wanted} of a camera's {self.camera}, got {shape}")
        if isinstance(self.value, jax.core.Tracer):
            return
        with np.errstate(over="ignore"):  # reported below
            values = np.asarray(self.value, np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"value must be finite, got {values.tolist()}")
        if self.scale == "log" and not values.all():
            raise ValueError(f"a log scale cannot start at 0, which no factor moves; got {values.tolist()}")

    @property
    def has_range(self) -> bool:
        """Whether offsets can be counted."""
        return self.scale == "log" or self.width is not None

    def moved(self, start: ArrayLike, offset: ArrayLike) -> ArrayLike:
        """Computes the value that lies so many natural ranges from a start."""
        if self.scale == "log":
            return start * (math.exp(offset) if isinstance(offset, float) else jnp.exp(offset))
        return start + self._known_width() * offset

    def offset(self, start: ArrayLike, value: ArrayLike) -> ArrayLike:
        """Computes how many natural ranges a value lies from a start; undoes `moved`.

        On a log scale, it is NaN for a value of the other sign.
        """
        if self.scale == "log":
            if isinstance(start, float) and isinstance(value, float):
                return math.log(value / start) if value * start > 0 else math.nan
            return jnp.log(value / start)
        return (value - start) / self._known_width()

    def offset_limits(self, start: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
        """Computes the least and the greatest valid offset of each value; 0, the start itself, is always valid."""
        if self.scale == "linear":
            width = self._known_width()
            return jnp.minimum(self.low - start, 0) / width, jnp.maximum(self.high - start, 0) / width
        reach = math.log(LARGEST_FACTOR)
        if math.isinf(self.low) and math.isinf(self.high):
            return -reach, reach
        # Values keep their sign, so the least magnitude of a negative one is set by the high end.
        negative = jnp.asarray(start) < 0
        least = jnp.maximum(jnp.where(negative, -self.high, self.low), 0) / jnp.abs(start)
        greatest = jnp.maximum(jnp.where(negative, -self.low, self.high), 0) / jnp.abs(start)
        return jnp.clip(jnp.log(least), -reach, 0), jnp.clip(jnp.log(greatest), 0, reach)

    def valid(self, start: ArrayLike, value: ArrayLike) -> ArrayLike:
        """Returns the nearest value from `low` to `high`; a start outside of them extends them.

        A value that was moved to a limit of its offset may lie beyond it by its last digit.
        """
        return jnp.clip(value, jnp.minimum(self.low, start), jnp.maximum(self.high, start))

    def element_names(self, name: str, shape: Sequence[int]) -> list[str]:
        """Names the elements in C order, such as `white_balance.red` or `sharpening_filter.1.2`.

        Args:
            name: the parameter's name, which a single number keeps as it is.
            shape: of the value.
        """
        axes = 0 if self.labels is None else _labelled_axes(self.labels, shape)
        if axes is None:
            raise ValueError(f"labels {self.labels} do not fit a {name} of shape {tuple(shape)}")
        names = []
        for place in np.ndindex(*shape):
            labelled, numbered = place[:axes], place[axes:]
            label = [self.labels[np.ravel_multi_index(labelled, shape[:axes])]] if axes else []
            names.append(".".join([name, *label, *map(str, numbered)]))
        return names

    def _known_width(self) -> float | int:
        if self.width is None:
            raise ValueError("a linear parameter has a natural range only if it declares its width")
        return self.width


def _labelled_axes(labels: Sequence[str], shape: Sequence[int]) -> int | None:
    """Counts the leading axes that so many labels name; returns None if no number of axes fits."""
    return next((axes for axes in range(len(shape), 0, -1) if math.prod(shape[:axes]) == len(labels)), None)


def _as_tuples(values: Any) -> Any:
    return tuple(map(_as_tuples, values)) if isinstance(values, list) else values
