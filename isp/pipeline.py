"""An image signal processor as an ordered list of named stages, and the known ones."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from isp import bayer, color, demosaic, denoise, sharpen
from isp.camera import Camera

# The darkest value that the tone curve is given: its slope is infinite at zero.
BLACK = 1e-5


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a pipeline. Stages compare by value, so equal pipelines share one compiled function.

    Attributes:
        name: what traces, figures and perturbations call it.
        function: `(image, *parameters, **options) -> image`, a module-level function.
        parameters: names of the pipeline's parameters that it takes, in order.
        options: its static keyword arguments as (name, value) pairs.
    """

    name: str
    function: Callable[..., Array]
    parameters: tuple[str, ...] = ()
    options: tuple[tuple[str, Hashable], ...] = ()


class Pipeline(nnx.Module):
    """Raw mosaics to images, through stages whose parameters can be learned.

    Each parameter is an attribute of the name given, an `nnx.Param` in float32; `nnx.split(pipeline)` gives all of
    them as one pytree to differentiate, optimise, or stack and vmap over.

    Args:
        stages: the stages, in order; names differ.
        parameters: the initial value of every parameter that a stage names.

    Raises:
        ValueError: stages of one name, or a parameter without a value.
    """

    def __init__(self, stages: Sequence[Stage], parameters: Mapping[str, ArrayLike]):
        self.stages = tuple(stages)
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages must have names that differ, got {names}")
        if missing := {name for stage in self.stages for name in stage.parameters} - set(parameters):
            raise ValueError(f"parameters must have every one that a stage names, {sorted(missing)} are missing")
        for name, value in parameters.items():
            setattr(self, name, nnx.Param(jnp.asarray(value, jnp.float32)))

    def __call__(self, raw: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "*batch height width 3"]:
        """Processes mosaics `(..., H, W)` to images `(..., H, W, 3)`, compiled once per shape.

        Raises:
            ValueError: raw of odd size, of fewer than two axes or not floating point.
        """
        return _run(self.stages, self.parameters(), raw)

    def trace(
        self, raw: Shaped[Array | np.ndarray, "..."], perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Float[Array, "*batch height width 3"], dict[str, Float[Array, "*batch height width 3"]]]:
        """Processes like a call, and keeps the image after each stage.

        Args:
            raw: mosaics `(..., H, W)`.
            perturbations: images `(..., H, W, 3)` added to the results of the stages they are named after. The
                gradient for one that is zero is the gradient for that stage's image, all stages in one backward pass.

        Returns:
            The final image, and a dict from stage name to the image after that stage, in order.

        Raises:
            ValueError: as a call, or a perturbation that no stage is named after.
        """
        perturbations = dict(perturbations or {})
        if unknown := sorted(set(perturbations) - {stage.name for stage in self.stages}):
            raise ValueError(f"perturbations must be named after stages {[s.name for s in self.stages]}, got {unknown}")
        images = _trace(self.stages, self.parameters(), raw, perturbations)
        # A jitted function returns dicts sorted by key; a trace is in the order of the stages.
        trace = {stage.name: image for stage, image in zip(self.stages, images, strict=True)}
        return images[-1], trace

    def parameters(self) -> dict[str, Array]:
        """Every parameter's value by name."""
        return {name: getattr(self, name)[...] for stage in self.stages for name in stage.parameters}


def _images(stages, parameters, raw, perturbations):
    image = raw
    for stage in stages:
        image = stage.function(image, *(parameters[name] for name in stage.parameters), **dict(stage.options))
        if stage.name in perturbations:
            image = image + perturbations[stage.name]
        yield image


@functools.partial(jax.jit, static_argnums=0)
def _run(stages: tuple[Stage, ...], parameters: dict[str, Array], raw: Shaped[Array, "..."]):
    *_, image = _images(stages, parameters, raw, {})
    return image


@functools.partial(jax.jit, static_argnums=0)
def _trace(stages: tuple[Stage, ...], parameters: dict[str, Array], raw: Shaped[Array, "..."], perturbations):
    return tuple(_images(stages, parameters, raw, perturbations))


def parametrized(camera: Camera, additive_layer: tuple[int, int] | None = None) -> Pipeline:
    """The differentiable pipeline of Oala et al. (TMLR 2023), started at a camera's figures.

    Stages: `demosaic` (black level subtracted, mosaic spread over three planes), `color_correct` (3x3 interpolation,
    gains, colour matrix), `sharpening` and `gaussian` (luma), `clipped` to [1e-5, 1], `gamma_correct`. Parameters:
    `black_level (4,)` in CFA order, `debayer (3, 3, 3, 3)` as out, in, row, col, `white_balance (3,)`,
    `colour_correction (3, 3)`, `sharpening_filter (3, 3)`, `gaussian_blur (5, 5)`, `gamma_correct ()`.

    Args:
        camera: where the parameters start, and the pattern.
        additive_layer: height and width of an image, zero at first, that a last stage `additive_layer` adds; a
            parameter `(H, W, 3)` of that name.
    """
    stages = [
        Stage("demosaic", _planes, ("black_level",), (("pattern", camera.pattern),)),
        Stage("color_correct", _color_correct, ("debayer", "white_balance", "colour_correction")),
        Stage("sharpening", sharpen.sharpening_filter, ("sharpening_filter",)),
        Stage("gaussian", denoise.gaussian_blur, ("gaussian_blur",)),
        Stage("clipped", _clip, options=(("low", BLACK),)),
        Stage("gamma_correct", color.gamma_correct, ("gamma_correct",)),
    ]
    parameters = {
        "black_level": np.array(camera.black_level),
        "debayer": demosaic.BILINEAR_KERNEL,
        "white_balance": np.array(camera.white_balance),
        "colour_correction": np.array(camera.color_matrix),
        "sharpening_filter": sharpen.SHARPENING_KERNEL,
        "gaussian_blur": denoise.gaussian_kernel(0.5, 5),
        "gamma_correct": 2.2,
    }
    if additive_layer is not None:
        stages.append(Stage("additive_layer", _add, ("additive_layer",)))
        parameters["additive_layer"] = np.zeros((*additive_layer, 3))
    return Pipeline(stages, parameters)


def _planes(raw, black_level, pattern):
    return bayer.spread(bayer.subtract_black_level(raw, black_level), pattern)


def _color_correct(planes, debayer, gains, matrix):
    return color.color_correct(color.white_balance(demosaic.interpolate(planes, debayer), gains), matrix)


def _add(rgb, layer):
    if rgb.shape[-3:] != layer.shape:
        raise ValueError(
            f"raw must have the additive layer's height and width {layer.shape[:2]}, got {rgb.shape[-3:-1]}"
        )
    return rgb + layer


def _clip(rgb, low):
    return jnp.clip(rgb, low, 1)
