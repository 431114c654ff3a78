"""An image signal processor as an ordered list of named stages, and the known ones."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from isp import bayer, color, demosaic, denoise, sharpen, stencil
from isp.algorithms import ALGORITHMS
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
        if len(set(self.stage_names)) < len(self.stages):
            raise ValueError(f"stages must have names that differ, got {list(self.stage_names)}")
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
    bayer.check_mosaic(raw)

    def process(raws):
        *_, images = _images(_joined(stages), parameters, raws, {})
        return images

    images = stencil.each_image(process, raw.reshape(-1, *raw.shape[-2:]))
    return images.reshape(*raw.shape[:-2], *images.shape[1:])


def _joined(stages):
    """The stages, with neighbours that have a faster function together replaced by it."""
    joined = []
    for stage in stages:
        function = _TOGETHER.get((joined[-1].function, stage.function)) if joined else None
        if function is None:
            joined.append(stage)
        else:
            before = joined.pop()
            parameters, options = before.parameters + stage.parameters, before.options + stage.options
            joined.append(Stage(stage.name, function, parameters, options))
    return joined


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


def static(
    camera: Camera,
    demosaic: str = "bilinear",
    sharpen: str = "sharpening_filter",
    denoise: str = "gaussian_denoising",
    **settings: ArrayLike | str | None,
) -> Pipeline:
    """A pipeline of classical algorithms, at a camera's figures: those of Oala et al. (TMLR 2023), and more.

    Stages: `black_level`, `demosaic`, `white_balance`, `color_correct`, `sharpen`, `denoise`, `clipped` to [0, 1],
    `gamma_correct`. Parameters: `black_level (4,)` in CFA order, `white_balance (3,)`, `colour_correction (3, 3)`,
    `gamma_correct ()`, and the continuous settings of the algorithms.

    Args:
        camera: where the parameters start, and the pattern.
        demosaic: "bilinear", "malvar2004" or "menon2007"; "none" leaves zeros where a site sees another colour.
        sharpen: "sharpening_filter" or "unsharp_masking"; "none" changes nothing.
        denoise: "gaussian_denoising", "median_denoising", "fft_denoising", "tv_chambolle", "tv_bregman" or
            "bilateral"; "none" changes nothing.
        **settings: arguments of these functions other than their defaults, such as `radius`, `sigma` or `size`. Those
            that are continuous become parameters (`keep_fraction` if `softness` is given); the sides of Gaussian and
            bilateral windows are fixed by where the parameters start.

    Raises:
        ValueError: an unknown algorithm, or a setting that none of those chosen has.
    """
    stages, parameters = {}, {}
    for step, name in (("demosaic", demosaic), ("sharpen", sharpen), ("denoise", denoise)):
        if name not in ALGORITHMS[step]:
            raise ValueError(f"{step} must be one of {', '.join(ALGORITHMS[step])}, got {name!r}")
        algorithm = ALGORITHMS[step][name]
        known = set(inspect.signature(algorithm).parameters) - {"pattern"}
        given = {setting: settings.pop(setting) for setting in known & settings.keys()}
        if step == "demosaic":
            given["pattern"] = camera.pattern
        function, values, options = algorithm(**given)
        stages[step] = Stage(step, function, tuple(values), tuple(options.items()))
        parameters |= values
    if settings:
        raise ValueError(f"{demosaic}, {sharpen} and {denoise} have no {', '.join(sorted(settings))}")
    return Pipeline(
        [
            Stage("black_level", bayer.subtract_black_level, ("black_level",)),
            stages["demosaic"],
            Stage("white_balance", color.white_balance, ("white_balance",)),
            Stage("color_correct", color.color_correct, ("colour_correction",)),
            stages["sharpen"],
            stages["denoise"],
            Stage("clipped", _clip, options=(("low", 0.0),)),
            Stage("gamma_correct", color.gamma_correct, ("gamma_correct",)),
        ],
        parameters
        | {
            "black_level": np.array(camera.black_level),
            "white_balance": np.array(camera.white_balance),
            "colour_correction": np.array(camera.color_matrix),
            "gamma_correct": 2.2,
        },
    )


def _planes(raw, black_level, pattern):
    return bayer.spread(bayer.subtract_black_level(raw, black_level), pattern)


def _color_correct(planes, debayer, gains, matrix):
    return color.color_correct(color.white_balance(demosaic.interpolate(planes, debayer), gains), matrix)


def _clip(rgb, low):
    return jnp.clip(rgb, low, 1)


def _mosaic_to_rgb(raw, black_level, debayer, gains, matrix, pattern):
    """`_planes` and `_color_correct` as one stencil over the mosaic.

    Interpolating zero-filled planes takes 27 products for each channel of a pixel. The 9 that are not zero are those
    with the colours that the sites around the pixel see, which follow from its place in the tile. Gains and matrix are
    linear, too, and go into their weights.
    """
    weights = jnp.einsum("kc,c,cnij->knij", matrix, gains, debayer, precision="highest")
    tile = np.reshape(bayer.PATTERNS[pattern], (2, 2))
    i, j, y, x = np.ogrid[:3, :3, :2, :2]
    seen = tile[(y + i - 1) % 2, (x + j - 1) % 2]
    return stencil.correlate_mosaic(bayer.subtract_black_level(raw, black_level), weights[:, seen, i, j], "mirror")


def _filter_luma_twice(rgb, first, second):
    """`sharpen.sharpening_filter` and `denoise.gaussian_blur` without going back to RGB in between."""
    sharp = stencil.correlate(color.luma(rgb), first, "zero")
    return color.with_luma(rgb, stencil.correlate(sharp, second, "mirror"))


# Neighbouring stages that one function does faster, which takes the parameters of both. A trace shows them apart.
_TOGETHER = {
    (_planes, _color_correct): _mosaic_to_rgb,
    (sharpen.sharpening_filter, denoise.gaussian_blur): _filter_luma_twice,
}


def _add(rgb, layer):
    if rgb.shape[-3:] != layer.shape:
        raise ValueError(
            f"raw must have the additive layer's height and width {layer.shape[:2]}, got {rgb.shape[-3:-1]}"
        )
    return rgb + layer
