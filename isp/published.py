"""The pipelines of the study: a differentiable one, and pipelines of classical algorithms.

L. Oala et al., "Data models for dataset drift controls in machine learning with optical images", TMLR (2023).
"""

import inspect
import itertools

import numpy as np
from jax.typing import ArrayLike

from isp import cfa, demosaic, denoise, stages
from isp._fusion import steps
from isp.camera import WEIGHTS, Camera
from isp.cfa import COLORS
from isp.filter import gaussian_kernel
from isp.parameter import Parameter
from isp.pipeline import Pipeline
from isp.stage import Stage

# The differentiable pipeline clips to this value before the tone curve, whose slope is infinite at 0.
BLACK = 1e-5

# The name of the stage that adds an image, and of the stage's parameter.
ADDITIVE_LAYER = "additive_layer"

# The twelve static pipelines of the study, each as (demosaicing, sharpening, denoising).
PUBLISHED_STATIC = tuple(
    itertools.product(
        ("bilinear", "malvar2004", "menon2007"),
        ("sharpening_filter", "unsharp_masking"),
        ("median_denoising", "gaussian_denoising"),
    )
)

# The same twelve, in the same order, as the study's program computed them, whose unsharp masking blurs along columns
# only (see `sharpen.unsharp_masking_vertical`).
AS_PUBLISHED_STATIC = tuple(
    (demosaicing, "unsharp_masking_vertical" if sharpening == "unsharp_masking" else sharpening, denoising)
    for demosaicing, sharpening, denoising in PUBLISHED_STATIC
)


def parametrized(camera: Camera, additive_layer: tuple[int, int] | None = None, *, half_size: bool = False) -> Pipeline:
    """Builds the differentiable pipeline of Oala et al. (TMLR 2023).

    The stages are

    - `demosaic`: subtracts `black_level (4,)`, in CFA order, and spreads the mosaic over three planes;
    - `color_correct`: interpolates the planes with `debayer (3, 3, 3, 3)`, with the axes out, in, row, col, and applies
      the gains `white_balance (3,)` and the matrix `colour_correction (3, 3)`;
    - `sharpening`: filters the luma with `sharpening_filter (3, 3)`;
    - `gaussian`: filters the luma with `gaussian_blur (5, 5)`;
    - `clipped`: clips to [1e-5, 1];
    - `gamma_correct`: applies the tone curve with the exponent 1 / `gamma_correct ()`.

    These are for Bayer patterns. For other color filter arrays, `debayer (3, size, size)` has one kernel per color, and
    interpolates as `demosaic.normalized`; `black_level (3,)` is in the order R, G, B. Without color filters, images are
    gray: there is no `color_correct`, and `black_level` has one value.

    Args:
        additive_layer: Height and width of an image that a final stage `additive_layer` adds. The image is a parameter
            `(H, W, 3)` of the same name, which starts at zero. If None, there is no such stage.
        half_size: Whether `demosaic` turns each block of sites into one pixel, as `demosaic.binned` does. Then there is
            no `debayer` to learn.

    Example:
        >>> pipeline = isp.parametrized(isp.CAMERAS["drone"])
        >>> pipeline.stage_names
        ('demosaic', 'color_correct', 'sharpening', 'gaussian', 'clipped', 'gamma_correct')
        >>> pipeline.gaussian_blur[...].shape
        (5, 5)
    """
    blur = {"gaussian_blur": stages.filter_kernel(gaussian_kernel(0.5, 5))}
    made = [
        *_linear_stages(camera, half_size),
        stages.sharpening_filter(name="sharpening"),
        Stage("gaussian", denoise.filter_luma, blur),
        stages.clipped(low=BLACK),
        stages.gamma_correct(),
    ]
    if additive_layer is not None:
        made.append(additive_layer_stage(additive_layer))
    return Pipeline(made)


def static(
    camera: Camera,
    demosaic: str = "bilinear",
    sharpen: str = "sharpening_filter",
    denoise: str = "gaussian_denoising",
    **settings: ArrayLike | str | None,
) -> Pipeline:
    """Builds a pipeline of classical algorithms: one of the twelve of Oala et al. (TMLR 2023), or another.

    The stages are `black_level`, `demosaic`, `white_balance`, `color_correct`, `sharpen`, `denoise`, `clipped` (to
    [0, 1]) and `gamma_correct`. The parameters are `black_level` as in `isp.Camera`, `white_balance (3,)`,
    `colour_correction (3, 3)`, `gamma_correct ()`, and the continuous settings of the chosen algorithms.
    `isp.PUBLISHED_STATIC` lists the algorithms of the twelve, and `isp.AS_PUBLISHED_STATIC` the algorithms that the
    study's program ran under these names. Without color filters, images are gray, and the stages `white_balance` and
    `color_correct` are left out.

    Args:
        demosaic: "bilinear", "malvar2004", "menon2007" for Bayer patterns; "normalized" for every pattern; "binned",
            which turns each block of sites into one pixel; or "none", which leaves zeros where a site sees another
            color.
        sharpen: "sharpening_filter", "unsharp_masking", "unsharp_masking_vertical", or "none", which changes nothing.
        denoise: "gaussian_denoising", "median_denoising", "fft_denoising", "tv_chambolle", "tv_bregman", "bilateral",
            "chroma_denoising", "nlm_denoising", or "none", which changes nothing.
        **settings: Arguments of these functions that differ from their defaults, such as `radius`, `sigma` or `size`.
            Continuous ones become parameters (`keep_fraction` only if `softness` is given). The sides of Gaussian and
            bilateral windows follow from the parameters' starts and stay fixed.

    Raises:
        ValueError: An algorithm or a setting is unknown, or a setting is invalid.

    Example:
        >>> pipeline = isp.static(isp.CAMERAS["drone"], "malvar2004", "unsharp_masking", "median_denoising", amount=0.5)
        >>> list(pipeline.parameters())
        ['black_level', 'white_balance', 'colour_correction', 'radius', 'amount', 'gamma_correct']
    """
    chosen: dict[str, Stage] = {}
    for step, name in (("demosaic", demosaic), ("sharpen", sharpen), ("denoise", denoise)):
        if name not in stages.ALGORITHMS[step]:
            raise ValueError(f"{step} must be one of {', '.join(stages.ALGORITHMS[step])}, got {name!r}")
        make = stages.ALGORITHMS[step][name]
        known = set(inspect.signature(make).parameters) - {"pattern", *make.keywords}
        given = {setting: settings.pop(setting) for setting in known & settings.keys()}
        pattern = {"pattern": camera.pattern} if step == "demosaic" else {}
        chosen[step] = make(**given, **pattern)
    if settings:
        raise ValueError(f"{demosaic}, {sharpen} and {denoise} have no {', '.join(sorted(settings))}")
    colors = [stages.white_balance(camera, None), stages.color_correct(camera)]
    return Pipeline(
        [
            stages.black_level(camera, rescale=False),
            chosen["demosaic"],
            *(colors if camera.pattern != cfa.MONO else []),
            chosen["sharpen"],
            chosen["denoise"],
            stages.clipped(),
            stages.gamma_correct(),
        ]
    )


def additive_layer_stage(size: tuple[int, int]) -> Stage:
    """Makes the stage `additive_layer`, which adds an image of this height and width that starts at zero."""
    layer = Parameter(np.zeros((*size, 3)), width=1, low=-1, high=1)
    return Stage(ADDITIVE_LAYER, steps.add, {ADDITIVE_LAYER: layer})


def _linear_stages(camera: Camera, half_size: bool) -> list[Stage]:
    """Makes the stages of `parametrized` from raw image to linear sRGB, or to a gray image without color filters."""
    pattern = {"pattern": camera.pattern}
    to_planes = steps.bin_above_black if half_size else steps.spread_above_black
    to_color = camera.parameters("white_balance", "colour_correction")
    made = [Stage("demosaic", to_planes, camera.parameters("black_level"), pattern)]
    if camera.pattern == cfa.MONO:
        return made
    if half_size:
        return [*made, Stage("color_correct", steps.balance_and_correct, to_color)]
    is_bayer = cfa.is_bayer(camera.pattern)
    kernel = demosaic.BILINEAR_KERNEL if is_bayer else demosaic.normalized_kernel(camera.pattern)
    # A few images cannot determine 81 weights, and no camera maker tunes them by hand.
    debayer = Parameter(kernel, width=1, labels=WEIGHTS if is_bayer else COLORS, unit="weight", tuned=False)
    function, options = (steps.interpolate_and_correct, {}) if is_bayer else (steps.fill_and_correct, pattern)
    return [*made, Stage("color_correct", function, {"debayer": debayer, **to_color}, options)]
