"""An image signal processor as an ordered list of named stages, whose parameters can be learned."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from isp import bayer
from isp._engine import stencil
from isp.parameter import Parameter


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One step of a pipeline. Stages compare by value, so that equal pipelines share one compiled function.

    Attributes:
        name: what traces, figures and perturbations call it.
        function: `(image, *parameters, **options) -> image`, best a module-level function: one that is made anew for
            each pipeline is compiled anew.
        parameters: the parameters that it takes, by name, in the order of the function's arguments.
        options: its static keyword arguments, which can be hashed.
        fused_after: faster functions for this stage and the one right before it, by the function of that stage and the
            number of its parameters. Such a function takes the image, the parameters of that stage and then of this
            one, and the options of both. It takes the place of two stages only if it has an argument for all of these
            and no other, and no option is in both.

    Raises:
        ValueError: a name that is empty or has a slash, a function or an option that cannot be hashed, or a parameter
            without its facts.
    """

    name: str
    function: Callable[..., Array]
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Hashable] = dataclasses.field(default_factory=dict)
    fused_after: Mapping[tuple[Callable[..., Array], int], Callable[..., Array]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self):
        if not self.name or "/" in self.name:
            raise ValueError(f"the name of a stage must be text without a slash, got {self.name!r}")
        for name, parameter in dict(self.parameters).items():
            if not isinstance(parameter, Parameter):
                kind = type(parameter).__name__
                raise ValueError(f"parameter {name!r} of stage {self.name!r} must be an isp.Parameter, got {kind}")
        # Copies, so that nobody changes them from outside.
        for field in ("parameters", "options", "fused_after"):
            object.__setattr__(self, field, dict(getattr(self, field)))
        options = {f"option {name!r}": value for name, value in self.options.items()}
        for what, value in {"the function": self.function, **options}.items():
            try:
                hash(value)
            except TypeError:
                kind = type(value).__name__
                raise ValueError(f"{what} of stage {self.name!r} must be hashable, got {kind}") from None

    def __eq__(self, other):
        return isinstance(other, Stage) and self._key == other._key

    def __hash__(self):
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Every call of a pipeline hashes its stages.
        return hash(self._key)

    @functools.cached_property
    def _key(self) -> tuple[Hashable, ...]:
        # The order of parameters is that of the function's arguments.
        mappings = (self.parameters, self.options, self.fused_after)
        return (self.name, self.function, *(tuple(mapping.items()) for mapping in mappings))

    def starting_at(self, values: Mapping[str, ArrayLike | Sequence | None]) -> "Stage":
        """Returns the stage with its parameters at other values."""
        parameters = {
            name: dataclasses.replace(parameter, value=values[name]) for name, parameter in self.parameters.items()
        }
        return dataclasses.replace(self, parameters=parameters)


class Pipeline(nnx.Module):
    """Raw mosaics to images, through stages whose parameters can be learned.

    Each parameter is an attribute of its name, an `nnx.Param` in float32; `nnx.split(pipeline)` gives all of them as
    one pytree to differentiate, optimize, or stack and vmap over. A pipeline is edited by `inserted`, `replaced` and
    `without`, which return a new one.

    Args:
        stages: the stages, in order, with the values that their parameters start at.

    Raises:
        ValueError: no stages, two stages of one name, two parameters of one name, a parameter without a value, or one
            whose name is no identifier or is taken by an attribute of this class.
    """

    def __init__(self, stages: Sequence[Stage]):
        stages = tuple(stages)
        if not stages:
            raise ValueError("a pipeline must have at least one stage, got none")
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages must have names that differ, got {names}")
        owners = {}
        for stage in stages:
            for name, parameter in stage.parameters.items():
                if name in owners:
                    raise ValueError(f"stages {owners[name]!r} and {stage.name!r} both have a parameter {name!r}")
                if not name.isidentifier() or name.startswith("_") or name == "stages" or hasattr(Pipeline, name):
                    raise ValueError(
                        f"a parameter of stage {stage.name!r} cannot be called {name!r}: its name must be an "
                        "identifier without a leading underscore, and no attribute of a pipeline"
                    )
                if parameter.value is None:
                    raise ValueError(f"parameter {name!r} of stage {stage.name!r} has no value to start at")
                owners[name] = stage.name
                setattr(self, name, nnx.Param(jnp.asarray(parameter.value, jnp.float32)))
        # Without the values, which would tie what is compiled for these stages to where they started.
        self.stages = tuple(stage.starting_at(dict.fromkeys(stage.parameters)) for stage in stages)

    def __call__(self, raw: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "*batch height width 3"]:
        """Processes mosaics `(..., H, W)` to images `(..., H, W, 3)`, compiled once per shape.

        Raises:
            ValueError: raw of odd size, of fewer than two axes or not floating point.
        """
        return _run(self.stages, self.parameters(), raw)

    def trace(
        self, raw: Shaped[Array | np.ndarray, "..."], perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Float[Array, "*batch height width 3"], dict[str, Float[Array, "..."]]]:
        """Processes like a call, and keeps the image after each stage: before demosaicing, the mosaic.

        Args:
            raw: mosaics `(..., H, W)`.
            perturbations: images, added to the results of the stages they are named after. The
                gradient for one that is zero is the gradient for that stage's image, all stages in one backward pass.

        Returns:
            The final image, and a dict from stage name to the image after that stage, in order.

        Raises:
            ValueError: as a call, or a perturbation that no stage is named after.
        """
        perturbations = dict(perturbations or {})
        if unknown := sorted(set(perturbations) - set(self.stage_names)):
            raise ValueError(f"perturbations must be named after stages {list(self.stage_names)}, got {unknown}")
        images = _trace(self.stages, self.parameters(), raw, perturbations)
        # A jitted function returns dicts sorted by key; a trace is in the order of the stages.
        return images[-1], dict(zip(self.stage_names, images, strict=True))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages, in order."""
        return tuple(stage.name for stage in self.stages)

    def parameters(self) -> dict[str, Array]:
        """Returns every parameter's value by name, in the order in which stages take them."""
        return {name: getattr(self, name)[...] for name in self.facts}

    @property
    def facts(self) -> dict[str, Parameter]:
        """The declarations of all parameters by name, in the same order; their `value` is None."""
        return {name: parameter for stage in self.stages for name, parameter in stage.parameters.items()}

    def with_values(self, values: Mapping[str, ArrayLike | Sequence]) -> "Pipeline":
        """Returns a pipeline of the same stages with other values of some parameters, which may be traced.

        Raises:
            ValueError: a name that no parameter has.
        """
        if unknown := sorted(set(values) - set(self.facts)):
            raise ValueError(f"parameters are {list(self.facts)}, got also {unknown}")
        graphdef, state = nnx.split(self)
        for name, value in values.items():
            state[name] = state[name].replace(jnp.asarray(value, jnp.float32))
        return nnx.merge(graphdef, state)

    def inserted(self, stage: Stage, *, after: str | None = None, before: str | None = None) -> "Pipeline":
        """Returns a pipeline with one more stage, right after or right before another; other parameters keep values.

        Raises:
            ValueError: not exactly one of `after` and `before`, a name that no stage has, or as the class.
        """
        if (after is None) == (before is None):
            raise ValueError(f"one of after and before must be given, got after={after!r} and before={before!r}")
        place = self._place(before) if after is None else self._place(after) + 1
        return self._edited(place, place, [stage])

    def replaced(self, name: str, stage: Stage) -> "Pipeline":
        """Returns a pipeline with a stage in place of the one called `name`; other parameters keep their values.

        Raises:
            ValueError: a name that no stage has, or as the class.
        """
        place = self._place(name)
        return self._edited(place, place + 1, [stage])

    def without(self, name: str) -> "Pipeline":
        """Returns a pipeline without the stage called `name`; other parameters keep their values.

        Raises:
            ValueError: a name that no stage has, or that of the only one.
        """
        place = self._place(name)
        return self._edited(place, place + 1, [])

    def _place(self, name: str) -> int:
        if name not in self.stage_names:
            raise ValueError(f"stages are {', '.join(self.stage_names)}, got {name!r}")
        return self.stage_names.index(name)

    def _edited(self, start: int, stop: int, stages: Sequence[Stage]) -> "Pipeline":
        values = self.parameters()
        kept = [stage.starting_at(values) for stage in self.stages]
        return Pipeline([*kept[:start], *stages, *kept[stop:]])


def _images(stages, parameters, raw, perturbations) -> Iterator[Array]:
    image = raw
    for stage in stages:
        image = stage.function(image, *(parameters[name] for name in stage.parameters), **stage.options)
        if stage.name in perturbations:
            image = image + perturbations[stage.name]
        yield image


@functools.partial(jax.jit, static_argnums=0)
def _run(stages: tuple[Stage, ...], parameters: dict[str, Array], raw: Shaped[Array, "..."]):
    bayer.check_mosaic(raw)

    def process(raws):
        *_, images = _images(_fused(stages), parameters, raws, {})
        return images

    images = stencil.each_image(process, raw.reshape(-1, *raw.shape[-2:]))
    return images.reshape(*raw.shape[:-2], *images.shape[1:])


def _fused(stages: Sequence[Stage]) -> list[Stage]:
    """Replaces neighbors by one stage where they declare a faster function for both."""
    fused = []
    for stage in stages:
        both = _both(fused[-1], stage) if fused else None
        fused[-1:] = [both] if both else [*fused[-1:], stage]
    return fused


def _both(before: Stage, stage: Stage) -> Stage | None:
    """Makes one stage of two neighbors; returns None unless a function takes exactly the arguments of both."""
    function = stage.fused_after.get((before.function, len(before.parameters)))
    if function is None or before.options.keys() & stage.options.keys():
        return None
    parameters, options = before.parameters | stage.parameters, before.options | stage.options
    arguments = list(inspect.signature(function).parameters)
    count = 1 + len(parameters)
    # An edited stage may leave an argument to its default, or give as an option what was a parameter.
    if set(arguments[count:]) != set(options) or len(arguments) != count + len(options):
        return None
    return Stage(stage.name, function, parameters, options)


@functools.partial(jax.jit, static_argnums=0)
def _trace(stages: tuple[Stage, ...], parameters: dict[str, Array], raw: Shaped[Array, "..."], perturbations):
    return tuple(_images(stages, parameters, raw, perturbations))
