"""The pipelines of Oala et al. (TMLR 2023): the differentiable one, and those of classical algorithms."""

import inspect
import itertools

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from isp import bayer, color, demosaic, denoise, sharpen
from isp._engine import stencil
from isp.algorithms import ALGORITHMS, filter_kernel
from isp.camera import Camera
from isp.parameter import Parameter
from isp.pipeline import Pipeline, Stage

# The darkest value that the tone curve is given: its slope is infinite at zero.
BLACK = 1e-5

COLORS = ("red", "green", "blue")

# The name of the stage that adds an image, and of its parameter.
ADDITIVE_LAYER = "additive_layer"

# The names of weights that lead from one color to another, as (to, from).
WEIGHTS = tuple(f"{to}_from_{source}" for to, source in itertools.product(COLORS, COLORS))

# The twelve static pipelines of the study as demosaicing, sharpening, denoising.
PUBLISHED_STATIC = tuple(
    itertools.product(
        ("bilinear", "malvar2004", "menon2007"),
        ("sharpening_filter", "unsharp_masking"),
        ("median_denoising", "gaussian_denoising"),
    )
)


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
        Stage("demosaic", _planes, {"black_level": _black_level(camera)}, {"pattern": camera.pattern}),
        Stage(
            "color_correct",
            _color_correct,
            {
                # Its 81 weights are more than a few images determine, and no camera's maker tunes them by hand.
                "debayer": Parameter(demosaic.BILINEAR_KERNEL, width=1, labels=WEIGHTS, unit="weight", tuned=False),
                "white_balance": _white_balance(camera),
                "colour_correction": _color_matrix(camera),
            },
            fused_after={(_planes, 1): _mosaic_to_rgb},
        ),
        Stage(
            "sharpening",
            sharpen.sharpening_filter,
            {"sharpening_filter": filter_kernel(sharpen.SHARPENING_KERNEL)},
        ),
        Stage(
            "gaussian",
            denoise.gaussian_blur,
            {"gaussian_blur": filter_kernel(denoise.gaussian_kernel(0.5, 5))},
            fused_after={(sharpen.sharpening_filter, 1): _filter_luma_twice},
        ),
        _clipped(BLACK),
        _gamma_correct(),
    ]
    if additive_layer is not None:
        stages.append(additive_layer_stage(additive_layer))
    return Pipeline(stages)


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
    stages = {}
    for step, name in (("demosaic", demosaic), ("sharpen", sharpen), ("denoise", denoise)):
        if name not in ALGORITHMS[step]:
            raise ValueError(f"{step} must be one of {', '.join(ALGORITHMS[step])}, got {name!r}")
        algorithm = ALGORITHMS[step][name]
        known = set(inspect.signature(algorithm).parameters) - {"pattern"}
        given = {setting: settings.pop(setting) for setting in known & settings.keys()}
        if step == "demosaic":
            given["pattern"] = camera.pattern
        stages[step] = Stage(step, *algorithm(**given))
    if settings:
        raise ValueError(f"{demosaic}, {sharpen} and {denoise} have no {', '.join(sorted(settings))}")
    return Pipeline(
        [
            Stage("black_level", bayer.subtract_black_level, {"black_level": _black_level(camera)}),
            stages["demosaic"],
            Stage("white_balance", color.white_balance, {"white_balance": _white_balance(camera)}),
            Stage("color_correct", color.color_correct, {"colour_correction": _color_matrix(camera)}),
            stages["sharpen"],
            stages["denoise"],
            _clipped(0.0),
            _gamma_correct(),
        ]
    )


def additive_layer_stage(size: tuple[int, int]) -> Stage:
    """Makes the stage `additive_layer`, which adds an image that is zero at first.

    Args:
        size: height and width of the images.
    """
    layer = Parameter(np.zeros((*size, 3)), width=1, low=-1, high=1)
    return Stage(ADDITIVE_LAYER, _add, {ADDITIVE_LAYER: layer})


def _black_level(camera: Camera) -> Parameter:
    return Parameter(camera.black_level, width=0.1, low=0, high=0.95, unit="level", camera="black_level")


def _white_balance(camera: Camera) -> Parameter:
    return Parameter(camera.white_balance, scale="log", labels=COLORS, unit="gain", camera="white_balance")


def _color_matrix(camera: Camera) -> Parameter:
    return Parameter(camera.color_matrix, width=1, labels=WEIGHTS, unit="weight", camera="color_matrix")


def _clipped(low: float) -> Stage:
    return Stage("clipped", _clip, options={"low": low})


def _gamma_correct() -> Stage:
    return Stage("gamma_correct", color.gamma_correct, {"gamma_correct": Parameter(2.2, scale="log", unit="gamma")})


def _planes(raw, black_level, pattern):
    return bayer.spread(bayer.subtract_black_level(raw, black_level), pattern)


def _color_correct(planes, debayer, gains, matrix):
    return color.color_correct(color.white_balance(demosaic.interpolate(planes, debayer), gains), matrix)


def _clip(rgb, low):
    return jnp.clip(rgb, low, 1)


def _mosaic_to_rgb(raw, black_level, debayer, gains, matrix, pattern):
    """`_planes` and `_color_correct` as one stencil over the mosaic.

    Interpolating zero-filled planes takes 27 products for each channel of a pixel. The 9 that are not zero are those
    with the colors that the sites around the pixel see, which follow from its place in the tile. Gains and matrix are
    linear as well, and go into their weights.
    """
    weights = jnp.einsum("kc,c,cnij->knij", matrix, gains, debayer, precision="highest")
    tile = np.reshape(bayer.PATTERNS[pattern], (2, 2))
    rows, cols = debayer.shape[2:]
    i, j, y, x = np.ogrid[:rows, :cols, :2, :2]
    seen = tile[(y + i - rows // 2) % 2, (x + j - cols // 2) % 2]
    return stencil.correlate_mosaic(bayer.subtract_black_level(raw, black_level), weights[:, seen, i, j], "mirror")


def _filter_luma_twice(rgb, first, second):
    """`sharpen.sharpening_filter` and `denoise.gaussian_blur` without going back to RGB in between."""
    sharp = stencil.correlate(color.luma(rgb), first, "zero")
    return color.with_luma(rgb, stencil.correlate(sharp, second, "mirror"))


def _add(rgb, layer):
    if rgb.shape[-3:] != layer.shape:
        raise ValueError(
            f"raw must have the additive layer's height and width {layer.shape[:2]}, got {rgb.shape[-3:-1]}"
        )
    return rgb + layer
