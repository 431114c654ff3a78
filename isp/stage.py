"""A named step of a pipeline."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from jax.typing import ArrayLike
from jaxtyping import Array

from isp.parameter import Parameter

Function = TypeVar("Function", bound=Callable[..., Any])

# The attribute in which `local` keeps the distance. Wrappers such as `jax.jit` copy it.
DISTANCE = "_local_distance"


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Describes one step of a pipeline.

    Stages compare by their attributes, so that equal pipelines share one compiled function.

    Attributes:
        name: The name in traces, plots and perturbations.
        function: `(image, *parameters, **options) -> image`. Preferably a module-level function, because redefining
            it triggers recompilation. `isp.local` declares how far it looks.
        parameters: The parameters by name, in the order of the function's arguments.
        options: Keyword arguments that are fixed at compilation, and must be hashable.

    Example:
        >>> def brighten(rgb, gain):
        ...     return gain * rgb
        >>> stage = isp.Stage("brighten", brighten, {"gain": isp.Parameter(1.5, scale="log", unit="gain")})
        >>> isp.parametrized(isp.CAMERAS["drone"]).inserted(stage, after="color_correct").stage_names
        ('demosaic', 'color_correct', 'brighten', 'sharpening', 'gaussian', 'clipped', 'gamma_correct')
    """

    name: str
    function: Callable[..., Array]
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Hashable] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(f"the name of a stage must be text without a slash, got {self.name!r}")
        for name, parameter in dict(self.parameters).items():
            if not isinstance(parameter, Parameter):
                kind = type(parameter).__name__
                raise ValueError(f"parameter {name!r} of stage {self.name!r} must be an isp.Parameter, got {kind}")
        # Copied, so that later changes to the given mappings have no effect.
        object.__setattr__(self, "parameters", dict(self.parameters))
        object.__setattr__(self, "options", dict(self.options))
        options = {f"option {name!r}": value for name, value in self.options.items()}
        for part, value in {"the function": self.function, **options}.items():
            try:
                hash(value)
            except TypeError:
                kind = type(value).__name__
                raise ValueError(f"{part} of stage {self.name!r} must be hashable, got {kind}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Cached, because every call of a pipeline hashes its stages.
        return hash(self._key)

    @functools.cached_property
    def _key(self) -> tuple[Hashable, ...]:
        # The order of the parameters counts, because it is the order of the function's arguments.
        return self.name, self.function, tuple(self.parameters.items()), tuple(self.options.items())

    def starting_at(self, values: Mapping[str, ArrayLike | Sequence | None]) -> "Stage":
        """Returns a copy of the stage whose parameters start at other values.

        Args:
            values: A value for each parameter of the stage, by name. Other names are ignored.
        """
        parameters = {
            name: dataclasses.replace(parameter, value=values[name]) for name, parameter in self.parameters.items()
        }
        return dataclasses.replace(self, parameters=parameters)


def local(distance: int | Callable[..., int | None]) -> Callable[[Function], Function]:
    """Declares how far a stage function looks, so that large images can be processed in patches.

    On CPUs, an image of more than four megapixels passes through neighboring local stages patch by patch, which takes a
    fraction of the memory. A local function must keep height and width, and its result must not depend on the place in
    the image, except for the place in the tile of the color filter array.

    Args:
        distance: How many rows or columns away a pixel can influence the result, such as 0 for a function that treats
            each pixel separately, or 2 for a window of 5x5 pixels. It may be a function of the stage's parameters and
            options, which returns None if the stage needs the whole image. Anything else raises a ValueError.

    Example:
        >>> @isp.local(1)
        ... def means_of_rows(rgb):
        ...     above, below = (jnp.roll(rgb, step, axis=-3) for step in (1, -1))
        ...     return (above + rgb + below) / 3
    """
    is_count = isinstance(distance, int) and not isinstance(distance, bool) and distance >= 0
    if not is_count and not callable(distance):
        raise ValueError(f"distance must be a function or a whole number of at least 0, got {distance!r}")

    def declare(function: Function) -> Function:
        setattr(function, DISTANCE, distance)
        return function

    return declare
