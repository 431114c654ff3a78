"""A named step of a pipeline."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence

from jax.typing import ArrayLike
from jaxtyping import Array

from isp import cfa
from isp._engine import reaches
from isp.parameter import Parameter


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Describes one step of a pipeline.

    Stages compare by their attributes, so that equal pipelines share one compiled function.

    Attributes:
        name: The name in traces, plots and perturbations.
        function: `(image, *parameters, **options) -> image`. Best a function of a module: a function that is made anew
            for each pipeline is compiled anew.
        parameters: The parameters by name, in the order of the function's arguments.
        options: Keyword arguments that are fixed at compilation, and must be hashable.
        reach: How many rows or columns away a pixel can influence the result, or a function
            `(*parameters, **options) -> reach`. On CPUs, a large image passes through neighboring stages with a reach
            patch by patch, which takes less memory. Such a stage must keep height and width, and its result must not
            depend on where in the image a pixel is, except for its place in the tile of the color filter array. A stage
            whose reach is None gets the whole image.
        fused_after: Faster functions for this stage together with the stage right before it. The keys are the function
            of that stage and the number of its parameters. A fused function takes the image, the parameters of that
            stage, the parameters of this one, and the options of both. It is used only if these are exactly its
            arguments, and if the two stages have no option of the same name.

    Raises:
        ValueError: If the name is empty or has a slash, if the function or an option cannot be hashed, if a parameter
            is not an `isp.Parameter`, or if the reach is a negative number or none that is whole.

    Example:
        >>> import isp
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
    reach: int | Callable[..., int | None] | None = None
    fused_after: Mapping[tuple[Callable[..., Array], int], Callable[..., Array]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(f"the name of a stage must be text without a slash, got {self.name!r}")
        for name, parameter in dict(self.parameters).items():
            if not isinstance(parameter, Parameter):
                kind = type(parameter).__name__
                raise ValueError(f"parameter {name!r} of stage {self.name!r} must be an isp.Parameter, got {kind}")
        is_count = isinstance(self.reach, int) and not isinstance(self.reach, bool) and self.reach >= 0
        if self.reach is not None and not is_count and not callable(self.reach):
            raise ValueError(
                f"reach of stage {self.name!r} must be a whole number from 0, a function or None, got {self.reach!r}"
            )
        # Copies, so that later changes of the given mappings have no effect.
        for field in ("parameters", "options", "fused_after"):
            object.__setattr__(self, field, dict(getattr(self, field)))
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
        # The order of the parameters counts: it is that of the function's arguments.
        mappings = (self.parameters, self.options, self.fused_after)
        return (self.name, self.function, self.reach, *(tuple(mapping.items()) for mapping in mappings))

    def starting_at(self, values: Mapping[str, ArrayLike | Sequence | None]) -> "Stage":
        """Returns a copy of the stage whose parameters start at other values.

        Args:
            values: A value for each parameter of the stage, by name. Other names are ignored.

        Returns:
            The new stage.

        Example:
            >>> import isp
            >>> import jax.numpy as jnp
            >>> stage = isp.Stage("scaled", jnp.multiply, {"factor": isp.Parameter(1.0, scale="log")})
            >>> stage.starting_at({"factor": 2.0}).parameters["factor"].value
            2.0
        """
        parameters = {
            name: dataclasses.replace(parameter, value=values[name]) for name, parameter in self.parameters.items()
        }
        return dataclasses.replace(self, parameters=parameters)

    def reach_at(self, parameters: Mapping[str, Array]) -> int | None:
        """Computes how far away a pixel can influence the result.

        Args:
            parameters: The values of the stage's parameters, by name. Other names are ignored.

        Returns:
            The number of rows or columns. None if the stage needs the whole image: because it has no reach, or because
            the tile of its `pattern` would not divide the patches of an image.

        Example:
            >>> import isp
            >>> pipeline = isp.static(isp.CAMERAS["drone"], denoise="median_denoising", size=5)
            >>> {stage.name: stage.reach_at(pipeline.parameters()) for stage in pipeline.stages[4:6]}
            {'sharpen': 1, 'denoise': 2}
        """
        pattern = self.options.get("pattern")
        if isinstance(pattern, str) and any(reaches.PERIOD % side for side in cfa.tile(pattern).shape):
            return None
        if not callable(self.reach):
            return self.reach
        return self.reach(*(parameters[name] for name in self.parameters), **self.options)
