"""An image signal processor as an ordered list of named stages, whose parameters can be learned."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from isp import cfa
from isp._fusion import lowering
from isp._kernels.xla import plain, plain_for
from isp.metering import METERING, Part
from isp.parameter import Parameter
from isp.stage import Stage


class Pipeline(nnx.Module):
    """Turns raw images into RGB images, through stages whose parameters can be learned.

    Each parameter is an attribute of the same name, an `nnx.Param` in float32. `nnx.split(pipeline)` returns all of
    them as one pytree to differentiate, optimize, stack or vmap over. `inserted`, `replaced` and `without` edit a
    pipeline; each returns a new one.

    Args:
        stages: The stages in order, with the values that their parameters start at.

    Example:
        >>> pipeline = isp.Pipeline(
        ...     [
        ...         isp.Stage("demosaic", isp.demosaic.bilinear),
        ...         isp.Stage("gamma_correct", isp.color.gamma_correct, {"gamma": isp.Parameter(2.0, scale="log")}),
        ...     ]
        ... )
        >>> pipeline.stage_names
        ('demosaic', 'gamma_correct')
        >>> pipeline.gamma[...]
        Array(2., dtype=float32)
        >>> rgb = pipeline(np.full((4, 4), 0.25, np.float32))
        >>> np.asarray(rgb)[1, 1].round(3)
        array([0.5, 0.5, 0.5], dtype=float32)
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        stages = tuple(stages)
        if not stages:
            raise ValueError("a pipeline must have at least one stage, got none")
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages must have distinct names, got {names}")
        owners: dict[str, str] = {}
        for stage in stages:
            for name, parameter in stage.parameters.items():
                if name in owners:
                    raise ValueError(f"stages {owners[name]!r} and {stage.name!r} both have a parameter {name!r}")
                if not name.isidentifier() or name.startswith("_") or name == "stages" or hasattr(Pipeline, name):
                    raise ValueError(
                        f"a parameter of stage {stage.name!r} cannot be called {name!r}: its name must be an "
                        "identifier without a leading underscore, and not an attribute of a pipeline"
                    )
                if parameter.value is None:
                    raise ValueError(f"parameter {name!r} of stage {stage.name!r} has no value to start at")
                owners[name] = stage.name
                setattr(self, name, nnx.Param(jnp.asarray(parameter.value, jnp.float32)))
        # Without values, so that one compiled function serves all values.
        self.stages = tuple(stage.starting_at(dict.fromkeys(stage.parameters)) for stage in stages)

    def __call__(self, raw: Shaped[Array | np.ndarray, "..."] | Part) -> Float[Array, "*batch height width 3"]:
        """Turns raw images `(..., H, W)` with white at 1 into images `(..., H, W, 3)`; compiled once per shape.

        Parts of frames are metered as their frames, see `isp.metering.Part`.
        """
        return _run(self.stages, self.parameters(), raw)

    def trace(
        self, raw: Shaped[Array | np.ndarray, "..."] | Part, perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Float[Array, "*batch height width 3"], dict[str, Float[Array, "..."]]]:
        """Processes raw images like a call, and keeps the image after each stage.

        Args:
            perturbations: Images to add to the results of stages, by stage name; others raise a ValueError. The
                gradient with respect to a perturbation of zero is the gradient with respect to the image after the
                stage, so one backward pass gives the gradients for all stages.

        Returns:
            The final image `(..., H, W, 3)`, and a dict from the names of the stages, in order, to the images after
            them. Before demosaicing, these are mosaics.
        """
        perturbations = dict(perturbations or {})
        if unknown := sorted(set(perturbations) - set(self.stage_names)):
            raise ValueError(f"perturbations must be named after stages {list(self.stage_names)}, got {unknown}")
        images = _trace(self.stages, self.parameters(), raw, perturbations)
        # A jitted function returns dicts sorted by key, but a trace is in the order of the stages.
        return images[-1], dict(zip(self.stage_names, images, strict=True))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages, in order."""
        return tuple(stage.name for stage in self.stages)

    def parameters(self) -> dict[str, Array]:
        """Returns the values of all parameters."""
        return {name: getattr(self, name)[...] for name in self.declarations}

    @property
    def declarations(self) -> dict[str, Parameter]:
        """The declarations of all parameters by name, in the order of `parameters`. Each has a `value` of None."""
        return {name: parameter for stage in self.stages for name, parameter in stage.parameters.items()}

    def with_values(self, values: Mapping[str, ArrayLike | Sequence]) -> "Pipeline":
        """Returns a pipeline with the same stages and other values of some parameters.

        Args:
            values: Values by the name of a parameter, in its shape; they become float32, and may be traced. Other names
                and shapes raise a ValueError. For other values for each image, map over pairs of values and raw images
                with `jax.vmap`.

        Example:
            >>> pipeline = isp.parametrized(isp.CAMERAS["drone"]).with_values({"gamma_correct": 1.8})
            >>> pipeline.gamma_correct[...]
            Array(1.8, dtype=float32)
        """
        if unknown := sorted(set(values) - set(self.declarations)):
            raise ValueError(f"values must be for the parameters {list(self.declarations)}, got {unknown}")
        graphdef, state = nnx.split(self)
        variables = dict(nnx.to_flat_state(state))
        for name, value in values.items():
            value, shape = jnp.asarray(value, jnp.float32), variables[(name,)].shape
            if value.shape != shape:
                raise ValueError(f"{name} must have the shape {shape}, got {value.shape}")
            variables[(name,)] = variables[(name,)].replace(value)
        return nnx.merge(graphdef, nnx.from_flat_state(variables.items()))

    def inserted(self, stage: Stage, *, after: str | None = None, before: str | None = None) -> "Pipeline":
        """Returns a pipeline with one more stage; other parameters keep their values.

        Unless exactly one place is named, and a stage there exists, a ValueError is raised.

        Args:
            after: The name of the stage to put it after.
            before: The name of the stage to put it before, if `after` is not given.

        Example:
            >>> stage = isp.Stage("median", isp.denoise.median_denoising, options={"size": 3})
            >>> isp.parametrized(isp.CAMERAS["drone"]).inserted(stage, before="clipped").stage_names[-3:]
            ('median', 'clipped', 'gamma_correct')
        """
        if after is not None and before is None:
            place = self._place(after) + 1
        elif before is not None and after is None:
            place = self._place(before)
        else:
            raise ValueError(f"exactly one of after and before must be given, got {after=} and {before=}")
        return self._edited(place, place, [stage])

    def replaced(self, name: str, stage: Stage) -> "Pipeline":
        """Returns a pipeline in which one stage is replaced by another; other parameters keep their values."""
        place = self._place(name)
        return self._edited(place, place + 1, [stage])

    def without(self, name: str) -> "Pipeline":
        """Returns a pipeline without one stage; other parameters keep their values."""
        place = self._place(name)
        return self._edited(place, place + 1, [])

    def _place(self, name: str) -> int:
        if name not in self.stage_names:
            raise ValueError(f"the stage must be one of {', '.join(self.stage_names)}, got {name!r}")
        return self.stage_names.index(name)

    def _edited(self, start: int, stop: int, stages: Sequence[Stage]) -> "Pipeline":
        values = self.parameters()
        kept = [stage.starting_at(values) for stage in self.stages]
        return Pipeline([*kept[:start], *stages, *kept[stop:]])


def portable() -> contextlib.AbstractContextManager[None]:
    """Makes pipelines and functions traced in this context use operations that other programs support.

    They pad, convolve and compute elementwise, always on the whole batch, which takes longer on a CPU than the usual
    formulation. Results agree except for rounding. A pipeline whose number of images is symbolic does this by itself.

    Example:
        >>> pipeline = isp.parametrized(isp.CAMERAS["drone"])
        >>> with isp.portable():
        ...     traced = jax.make_jaxpr(pipeline)(np.zeros((1, 8, 8), np.float32))
        >>> "conv_general_dilated" in str(traced)
        True
    """
    return plain()


@jax.jit(static_argnums=0)
def _run(stages: tuple[Stage, ...], parameters: dict[str, Array], raw: Shaped[Array, "..."] | Part) -> Array:
    if isinstance(raw, Part):
        first = _metering(stages)
        for stage in stages[:first]:
            raw = _after(stage, parameters, raw)
        stages, raw = stages[first:], _alone(raw)
    cfa.check_mosaic(raw)
    with plain_for(raw):
        images = lowering.compute(stages, parameters, raw.reshape(-1, *raw.shape[-2:]))
    return images.reshape(*raw.shape[:-2], *images.shape[1:])


@jax.jit(static_argnums=0)
def _trace(
    stages: tuple[Stage, ...],
    parameters: dict[str, Array],
    raw: Shaped[Array, "..."] | Part,
    perturbations: dict[str, Array],
) -> tuple[Array, ...]:
    images, image, first = [], raw, _metering(stages)
    for place, stage in enumerate(stages):
        image = _after(stage, parameters, image if place < first else _alone(image))
        if stage.name in perturbations:
            perturbed = _alone(image) + perturbations[stage.name]
            image = dataclasses.replace(image, raw=perturbed) if isinstance(image, Part) else perturbed
        images.append(_alone(image))
    return tuple(images)


def _metering(stages: tuple[Stage, ...]) -> int:
    """Returns the number of stages up to the last one that meters."""
    return max((place + 1 for place, stage in enumerate(stages) if stage.function in METERING.values()), default=0)


def _alone(raw: Array | Part) -> Array:
    return raw.raw if isinstance(raw, Part) else raw


def _after(stage: Stage, parameters: Mapping[str, Array], image: Array | Part) -> Array | Part:
    """Computes a stage; parts of frames and their frames pass through it, and frames are metered."""
    compute = functools.partial(stage.function, **stage.options)
    values = [parameters[name] for name in stage.parameters]
    with lowering.naming(stage):
        if not isinstance(image, Part):
            return compute(image, *values)
        known = {"frame": image.frame} if stage.function in METERING.values() else {}
        return Part(compute(image.raw, *values, **known), compute(image.frame, *values))
