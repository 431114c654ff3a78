"""Pipelines by name.

- `parametrized`: the differentiable pipeline of Oala et al. (TMLR 2023).
- `full`: a modern pipeline in the usual order of a camera.
- `<demosaic>.<sharpen>.<denoise>`: classical algorithms of `isp.ALGORITHMS`, such as
  `malvar2004.unsharp_masking.gaussian_denoising`.
- `<file>.py:<function>`: a custom pipeline, made by a function `make(camera) -> isp.Pipeline` in a Python file.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

import isp
from isp.metering import METERING, Part
from r2l_jax import named_code
from r2l_jax.errors import InputError
from r2l_jax.named_code import Source
from r2l_jax.names import DEMOSAICING

_KNOWN: dict[str, Callable[..., isp.Pipeline]] = {"parametrized": isp.parametrized, "full": isp.full}

_STEPS = ("demosaic", "sharpen", "denoise")

# The algorithm that demosaics to half size. `half_size` chooses it, because other code depends on the size.
BINNED = "binned"

# Names that parameters must not have, because results use them for all parameters, images, and the curves of searches.
_RESERVED = ("all", "images", "curves")


@dataclasses.dataclass(frozen=True, eq=False)
class NamedPipeline:
    """A pipeline by name; calling it makes the pipeline for a camera.

    `title` is the name in folders, tables and figures: `name`, or `<file without suffix>.<function>`. `source` is the
    user's file, if the pipeline comes from one. `half_size` turns each block of sites into one pixel. `auto` names the
    metering that `meter` adds to the pipeline that `make` makes.
    """

    name: str
    title: str
    make: Callable[[isp.Camera], isp.Pipeline]
    source: Source | None = None
    half_size: bool = False
    auto: tuple[str, ...] = ()
    meter: Callable[[isp.Pipeline, isp.Camera], isp.Pipeline] | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """The name or, for a user's file, the function and the content's hash, which do not depend on the path."""
        identity = (self.name,) if self.source is None else self.source.identity
        identity = (*identity, "half size") if self.half_size else identity
        return (*identity, *(f"auto {kind}" for kind in self.auto))

    @property
    def description(self) -> str:
        """The `identity` in words."""
        description = self.name if self.source is None else self.source.description
        description = f"{description} at half size" if self.half_size else description
        return f"{description} after auto {' and '.join(self.auto)}" if self.auto else description

    def half_sized(self) -> "NamedPipeline":
        """Returns the pipeline with `isp.demosaic.binned` as the stage `demosaic`: its images have half the size."""
        if self.half_size:
            return self
        if self.name in _KNOWN:
            make = functools.partial(_KNOWN[self.name], half_size=True)
        elif self.source is None:
            # Pipelines that differ only in their demosaicing are the same at half size.
            algorithms = _algorithms(self.name) | {"demosaic": BINNED}
            name, make = ".".join(algorithms.values()), functools.partial(isp.static, **algorithms)
            return NamedPipeline(name, name, make, half_size=True)
        else:
            make = functools.partial(_binned, self)
        return dataclasses.replace(self, title=f"{self.title}.half_size", make=make, half_size=True)

    def metered(self, auto: Sequence[str]) -> "NamedPipeline":
        """Returns the pipeline with the metering that the setting `auto` names, see `isp.metered`."""
        meter = functools.partial(metered, auto=auto) if auto else None
        return dataclasses.replace(self, auto=tuple(auto), meter=meter)

    def metered_as(self, other: object) -> "NamedPipeline":
        """Returns the pipeline with the metering of another processor, if it has any, see `isp.metered_like`."""
        if not isinstance(other, isp.Pipeline) or not (auto := metering_of(other)):
            return self
        return dataclasses.replace(self, auto=auto, meter=lambda pipeline, _: isp.metered_like(pipeline, other))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedPipeline) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __call__(self, camera: isp.Camera) -> isp.Pipeline:
        """Makes the pipeline for a camera, or raises an InputError."""
        if self.source is None:
            try:
                pipeline = self.make(camera)
            except ValueError as error:  # An algorithm does not support the camera's pattern.
                raise InputError(f"{self.name}: {error}") from None
        else:
            graphdef, state = _make_once(self, camera)
            pipeline = nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))
        return pipeline if self.meter is None else self.meter(pipeline, camera)

    def check(self, camera: isp.Camera, height: int, width: int) -> None:
        """Raises an InputError if a custom pipeline cannot process a raw image of this size."""
        if self.source is None:
            return
        pipeline, mosaic = self(camera), jax.ShapeDtypeStruct((1, height, width), np.float32)
        try:
            image = jax.eval_shape(pipeline, mosaic)
        except Exception as error:  # The user's stages may raise anything.
            reason = named_code.in_one_line(error, self.source.file)
            raise InputError(f"{self.name} cannot process a raw image of {height}x{width}: {reason}") from error
        if self.half_size:
            side = isp.demosaic.bin_side(camera.pattern)
            height, width = height // side, width // side
        if image.shape != (1, height, width, 3) or not jnp.issubdtype(image.dtype, jnp.floating):
            raise InputError(
                f"{self.name} must make floating-point images of shape (1, {height}, {width}, 3) from raw images of "
                f"shape {mosaic.shape}, got {image.dtype} of shape {image.shape}"
            )


def find_pipeline(name: str, argument: str = "pipeline") -> NamedPipeline:
    """Finds a pipeline by its name. Runs a user's file only once while its content stays the same.

    The module's docstring lists the names. A file's name must come from the user, not from a record.
    """
    if name in _KNOWN:
        return NamedPipeline(name, name, _KNOWN[name])
    if named_code.is_file(name):
        return _from_file(name, argument)
    algorithms = _algorithms(name)
    if algorithms.get("demosaic") == BINNED:
        raise InputError(f"`{argument}={name}`: use `half_size` with another demosaicing instead")
    if len(algorithms) == len(_STEPS) and all(each in isp.ALGORITHMS[step] for step, each in algorithms.items()):
        return NamedPipeline(name, name, lambda camera: isp.static(camera, **algorithms))
    known = {**isp.ALGORITHMS, "demosaic": DEMOSAICING}
    choices = " . ".join("|".join(known[step]) for step in _STEPS)
    raise InputError(
        f"`{argument}`: no pipeline is called {name!r}; the pipelines are {', '.join(_KNOWN)}, {choices}, and "
        "<file>.py:<function>"
    )


def metered(
    pipeline: isp.Pipeline, camera: isp.Camera, auto: Sequence[str], like: np.ndarray | Part | None = None
) -> isp.Pipeline:
    """Returns a pipeline with the metering that the setting `auto` names, see `isp.metered`."""
    kinds = {"exposure": "exposure" in auto, "white_balance": "white_balance" in auto}
    try:
        return isp.metered(pipeline, camera, **kinds, like=like) if auto else pipeline
    except ValueError as error:
        raise InputError(f"`auto={','.join(auto)}` does not fit the pipeline: {error}") from None


def metering_of(processor: object) -> tuple[str, ...]:
    """Returns the kinds of metering in a processor, as in the setting `auto`; empty if it is not a pipeline."""
    if not isinstance(processor, isp.Pipeline):
        return ()
    functions = [stage.function for stage in processor.stages]
    return tuple(kind for kind, function in METERING.items() if function in functions)


def camera_with(camera: isp.Camera, pipeline: isp.Pipeline, values: Mapping[str, ArrayLike]) -> isp.Camera:
    """Returns a camera with the values of the pipeline's parameters that start from a camera."""
    started = {
        parameter.camera: values[name]
        for name, parameter in pipeline.declarations.items()
        if parameter.camera is not None
    }
    return dataclasses.replace(camera, **{name: np.asarray(value, np.float64) for name, value in started.items()})


def _algorithms(name: str) -> dict[str, str]:
    algorithms = name.split(".")
    return dict(zip(_STEPS, algorithms, strict=True)) if len(algorithms) == len(_STEPS) else {}


def _binned(named: NamedPipeline, camera: isp.Camera) -> isp.Pipeline:
    pipeline = dataclasses.replace(named, half_size=False, meter=None)(camera)
    if not any(stage.name == "demosaic" and not stage.parameters for stage in pipeline.stages):
        raise InputError(f"`half_size` needs a pipeline with a stage demosaic without parameters, got {named.name}")
    return pipeline.replaced("demosaic", isp.stages.binned(camera.pattern, name="demosaic"))


def _from_file(name: str, argument: str) -> NamedPipeline:
    source, make = named_code.load(name, argument, "pipeline")
    # `_make_once` checks that the function returns a pipeline.
    return NamedPipeline(name, named_code.title(name), cast(Callable[[isp.Camera], isp.Pipeline], make), source)


@functools.cache
def _make_once(named: NamedPipeline, camera: isp.Camera) -> tuple[nnx.GraphDef, nnx.State]:
    """Calls the function in the user's file once per camera, so that the functions that it makes are compiled once."""
    file, split = named.source.file if named.source else "", None
    try:
        # If JAX traces the caller, this keeps tracers out of the cached values.
        with jax.ensure_compile_time_eval():
            pipeline = named.make(camera)
            if isinstance(pipeline, isp.Pipeline):
                graphdef, state = nnx.split(pipeline)
                split = graphdef, jax.device_get(state)
    except (Exception, SystemExit) as error:
        raise InputError(f"{named.name} raised {named_code.in_one_line(error, file)}") from error
    if split is None:
        raise InputError(f"{named.name} must return an isp.Pipeline, got {type(pipeline).__name__}")
    for name in _RESERVED:
        if name in pipeline.declarations:
            raise InputError(f"{named.name} has a parameter called {name!r}, which is a reserved name: rename it")
    return split
