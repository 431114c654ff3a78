"""The pipelines of the study: the differentiable one, and those of classical algorithms.

L. Oala et al., "Data models for dataset drift controls in machine learning with optical images", TMLR (2023).
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from isp import camera_parameters, cfa, color, demosaic, denoise, sharpen, tone
from isp._engine import checks, curves, planes, reaches, stencil
from isp._engine.derivatives import with_gradient
from isp._engine.formulation import is_plain
from isp.algorithms import ALGORITHMS, filter_kernel
from isp.camera import Camera
from isp.camera_parameters import COLORS, WEIGHTS
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

# The same twelve, in the same order, as the program of the study computed them: its unsharp masking blurs along columns
# only, see `sharpen.unsharp_masking_vertical`.
AS_PUBLISHED_STATIC = tuple(
    (demosaicing, "unsharp_masking_vertical" if sharpening == "unsharp_masking" else sharpening, denoising)
    for demosaicing, sharpening, denoising in PUBLISHED_STATIC
)


def parametrized(camera: Camera, additive_layer: tuple[int, int] | None = None, *, half_size: bool = False) -> Pipeline:
    """Builds the differentiable pipeline of Oala et al. (TMLR 2023).

    The stages are

    - `demosaic`: subtracts `black_level (4,)`, in CFA order, and spreads the mosaic over three planes;
    - `color_correct`: interpolates the planes by `debayer (3, 3, 3, 3)`, with the axes out, in, row, col, and applies
      the gains `white_balance (3,)` and the matrix `colour_correction (3, 3)`;
    - `sharpening`: filters the luma by `sharpening_filter (3, 3)`;
    - `gaussian`: filters the luma by `gaussian_blur (5, 5)`;
    - `clipped`: clips to [1e-5, 1];
    - `gamma_correct`: applies the tone curve with the exponent 1 / `gamma_correct ()`.

    That is for Bayer patterns. For other color filter arrays, `debayer (3, size, size)` has one kernel per color, and
    interpolates as `demosaic.normalized`; `black_level (3,)` is in the order R, G, B. Without color filters, images are
    gray: there is no `color_correct`, and `black_level` has one value.

    Args:
        camera: The camera, which gives the pattern and the start of `black_level`, `white_balance` and
            `colour_correction`.
        additive_layer: Height and width of an image that a last stage `additive_layer` adds. The image is a parameter
            `(H, W, 3)` of the same name, which starts at zero. If None, there is no such stage.
        half_size: Whether `demosaic` makes one pixel of each block of sites, as `demosaic.binned` does, which leaves no
            `debayer` to learn.

    Returns:
        The pipeline.

    Example:
        >>> import isp
        >>> pipeline = isp.parametrized(isp.CAMERAS["drone"])
        >>> pipeline.stage_names
        ('demosaic', 'color_correct', 'sharpening', 'gaussian', 'clipped', 'gamma_correct')
        >>> pipeline.gaussian_blur[...].shape
        (5, 5)
    """
    stages = [
        *_linear_stages(camera, half_size),
        Stage(
            "sharpening",
            sharpen.sharpening_filter,
            {"sharpening_filter": filter_kernel(sharpen.SHARPENING_KERNEL)},
            reach=reaches.of_kernel,
        ),
        Stage(
            "gaussian",
            denoise.gaussian_blur,
            {"gaussian_blur": filter_kernel(denoise.gaussian_kernel(0.5, 5))},
            reach=reaches.of_kernel,
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
    """Builds a pipeline of classical algorithms: one of the twelve of Oala et al. (TMLR 2023), or another.

    The stages are `black_level`, `demosaic`, `white_balance`, `color_correct`, `sharpen`, `denoise`, `clipped` (to
    [0, 1]) and `gamma_correct`. The parameters are `black_level` as in `isp.Camera`, `white_balance (3,)`,
    `colour_correction (3, 3)`, `gamma_correct ()`, and the continuous settings of the chosen algorithms.
    `isp.PUBLISHED_STATIC` lists the algorithms of the twelve, and `isp.AS_PUBLISHED_STATIC` those that the study's
    program computed under these names. Without color filters, images are gray, and the stages `white_balance` and
    `color_correct` are left out.

    Args:
        camera: The camera, which gives the pattern and the start of `black_level`, `white_balance` and
            `colour_correction`.
        demosaic: "bilinear", "malvar2004", "menon2007" for Bayer patterns; "normalized" for every pattern; "binned",
            which makes one pixel of each block of sites; or "none", which leaves zeros where a site sees another color.
        sharpen: "sharpening_filter", "unsharp_masking", "unsharp_masking_vertical", or "none", which changes nothing.
        denoise: "gaussian_denoising", "median_denoising", "fft_denoising", "tv_chambolle", "tv_bregman", "bilateral",
            or "none", which changes nothing.
        **settings: Arguments of these functions that differ from their defaults, such as `radius`, `sigma` or `size`.
            Continuous ones become parameters (`keep_fraction` only if `softness` is given). The sides of Gaussian and
            bilateral windows follow from the start of the parameters and stay fixed.

    Returns:
        The pipeline.

    Raises:
        ValueError: If an algorithm is unknown or does not take the camera's pattern, a setting belongs to none of the
            chosen algorithms, or a setting is not valid.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> pipeline = isp.static(isp.CAMERAS["drone"], "malvar2004", "unsharp_masking", "median_denoising", amount=0.5)
        >>> list(pipeline.parameters())
        ['black_level', 'white_balance', 'colour_correction', 'radius', 'amount', 'gamma_correct']
        >>> pipeline(jnp.full((4, 6), 0.3)).shape
        (4, 6, 3)
    """
    stages: dict[str, Stage] = {}
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
    gains, matrix = camera_parameters.white_balance(camera), camera_parameters.color_matrix(camera)
    colors = [
        Stage("white_balance", color.white_balance, {"white_balance": gains}, reach=0),
        Stage("color_correct", color.color_correct, {"colour_correction": matrix}, reach=0),
    ]
    if camera.pattern == cfa.MONO:
        colors = []
    return Pipeline(
        [
            Stage(
                "black_level",
                cfa.subtract_black_level,
                {"black_level": camera_parameters.black_level(camera)},
                _pattern(camera),
                reach=0,
            ),
            stages["demosaic"],
            *colors,
            stages["sharpen"],
            stages["denoise"],
            _clipped(0.0),
            _gamma_correct(),
        ]
    )


def additive_layer_stage(size: tuple[int, int]) -> Stage:
    """Makes the stage `additive_layer`, which adds an image that starts at zero.

    Args:
        size: Height and width of the images.

    Returns:
        The stage, with a parameter `additive_layer (H, W, 3)`.

    Example:
        >>> from isp.published import additive_layer_stage
        >>> additive_layer_stage((2, 4)).parameters["additive_layer"].value.shape
        (2, 4, 3)
    """
    layer = Parameter(np.zeros((*size, 3)), width=1, low=-1, high=1)
    return Stage(ADDITIVE_LAYER, _add, {ADDITIVE_LAYER: layer})


def _linear_stages(camera: Camera, half_size: bool) -> list[Stage]:
    """Makes the stages of `parametrized` from the mosaic to linear sRGB, or to a gray image without color filters."""
    black, gains, matrix = (
        camera_parameters.black_level(camera),
        camera_parameters.white_balance(camera),
        camera_parameters.color_matrix(camera),
    )
    pattern = {"pattern": camera.pattern}
    if half_size or camera.pattern == cfa.MONO:
        function, reach = (_binned, None) if half_size else (_planes, 0)
        demosaic_stage = Stage("demosaic", function, {"black_level": black}, pattern, reach)
        if camera.pattern == cfa.MONO:
            return [demosaic_stage]
        parameters = {"white_balance": gains, "colour_correction": matrix}
        return [demosaic_stage, Stage("color_correct", _balance_and_correct, parameters, reach=0)]
    if cfa.is_bayer(camera.pattern):
        # A few images cannot determine 81 weights, and no camera maker tunes them by hand.
        debayer = Parameter(demosaic.BILINEAR_KERNEL, width=1, labels=WEIGHTS, unit="weight", tuned=False)
        function, options, fused = _color_correct, {}, {(_planes, 1): _mosaic_to_rgb}
    else:
        kernel = demosaic.normalized_kernel(camera.pattern)
        debayer = Parameter(kernel, width=1, labels=COLORS, unit="weight", tuned=False)
        function, options, fused = _color_correct_any, pattern, {}
    parameters = {"debayer": debayer, "white_balance": gains, "colour_correction": matrix}
    return [
        Stage("demosaic", _planes, {"black_level": black}, pattern, reach=0),
        Stage("color_correct", function, parameters, options, reaches.of_kernel, fused),
    ]


def _pattern(camera: Camera) -> dict[str, str]:
    """Returns the option of `cfa.subtract_black_level`: Bayer patterns need none, and share one compiled function."""
    return {} if cfa.is_bayer(camera.pattern) else {"pattern": camera.pattern}


def _clipped(low: float) -> Stage:
    options = {"low": low}
    return Stage("clipped", _clip, options=options, reach=0, fused_after={(_filter_luma_twice, 2): _filter_and_clip})


def _gamma_correct() -> Stage:
    gamma = Parameter(2.2, scale="log", unit="gamma")
    return Stage(
        "gamma_correct",
        tone.gamma_correct,
        {"gamma_correct": gamma},
        reach=0,
        fused_after={(_clip, 0): _clip_and_correct, (_filter_and_clip, 2): _filter_clip_and_correct},
    )


def _planes(raw: Array, black_level: Array, pattern: str) -> Array:
    return cfa.spread(cfa.subtract_black_level(raw, black_level, pattern), pattern)


def _binned(raw: Array, black_level: Array, pattern: str) -> Array:
    return demosaic.binned(cfa.subtract_black_level(raw, black_level, pattern), pattern)


def _color_correct(planes: Array, debayer: Array, gains: Array, matrix: Array) -> Array:
    return _balance_and_correct(demosaic.interpolate(planes, debayer), gains, matrix)


def _color_correct_any(planes: Array, debayer: Array, gains: Array, matrix: Array, pattern: str) -> Array:
    return _balance_and_correct(demosaic.filled(planes, debayer, pattern), gains, matrix)


def _balance_and_correct(rgb: Array, gains: Array, matrix: Array) -> Array:
    return color.color_correct(color.white_balance(rgb, gains), matrix)


def _clip(rgb: Array, low: float) -> Array:
    return jnp.clip(rgb, low, 1)


def _mosaic_to_rgb(raw: Array, black_level: Array, debayer: Array, gains: Array, matrix: Array, pattern: str) -> Array:
    """Computes `_planes` and `_color_correct` as one stencil over the mosaic.

    Interpolating zero-filled planes takes 27 products for each channel of a pixel, of which 18 are zero. The other 9
    belong to the colors of the sites around the pixel, which follow from its place in the tile. Gains and matrix are
    linear as well, so they are multiplied into the weights.
    """
    weights = jnp.einsum("kc,c,cnij->knij", matrix, gains, debayer, precision="highest")
    tile = cfa.tile(pattern)
    rows, cols = debayer.shape[2:]
    i, j, *_ = np.ogrid[:rows, :cols, :2, :2]
    kernels = weights[:, tile[_site(rows, cols)], i, j]
    if is_plain():
        return _filtered_above_black(raw, black_level, kernels)
    return _filtered(raw.astype(jnp.result_type(raw, black_level)), black_level, kernels)


def _site(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Tells which site of the tile `(row, col)` each weight `(rows, cols)` sees from each site `(2, 2)`."""
    i, j, y, x = np.ogrid[:rows, :cols, :2, :2]
    return (y + i - rows // 2) % 2, (x + j - cols // 2) % 2


_correlate = functools.partial(stencil.correlate_mosaic, border="mirror")


def _filtered_above_black(raw: Array, black_level: Array, kernels: Array) -> Array:
    return _correlate(cfa.subtract_black_level(raw, black_level), kernels)


def _filtered_forward(raw: Array, black_level: Array, kernels: Array) -> tuple[Array, tuple[Array, ...]]:
    above_black = cfa.subtract_black_level(raw, black_level)
    return _correlate(above_black, kernels), (above_black, black_level, kernels)


def _filtered_backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    """Computes the gradient for black by site. XLA drops the gradient for the mosaic where nothing reads it.

    A mirrored border shows the same sites as the mosaic. So each level lowers all pixels of a site alike.
    """
    above_black, black_level, kernels = residuals
    of_mosaic, of_kernels = jax.vjp(_correlate, above_black, kernels)[1](gradient)
    # Rows are added first, since that vectorizes.
    by_column = [plane.reshape(-1, 2, plane.shape[-1]).sum(0) for plane in planes.split(gradient)]
    by_site = jnp.stack(by_column).reshape(3, 2, -1, 2).sum(2)
    row, col = _site(*kernels.shape[1:3])
    seen = np.eye(4, dtype=np.float32)[2 * row + col]

    def lowered(black_level: Array) -> Array:
        return -jnp.einsum("kijyx,ijyxs,s->kyx", kernels, seen, black_level, precision="highest").astype(gradient.dtype)

    (of_black,) = jax.vjp(lowered, black_level)[1](by_site)
    return of_mosaic, of_black, of_kernels


_filtered = with_gradient(_filtered_above_black, _filtered_forward, _filtered_backward)


def _filter_luma_twice(rgb: Array, first: Array, second: Array) -> Array:
    """Computes `sharpen.sharpening_filter` and `denoise.gaussian_blur` without returning to RGB in between."""
    return color.replaced_luma(rgb, functools.partial(_filtered_twice, first=first, second=second))


def _filtered_twice(luma: Array, first: Array, second: Array) -> Array:
    return stencil.correlate(stencil.correlate(luma, first, "zero"), second, "mirror")


def _filter_and_clip(rgb: Array, first: Array, second: Array, low: float) -> Array:
    return _clip(_filter_luma_twice(rgb, first, second), low)


def _filter_clip_and_correct(rgb: Array, first: Array, second: Array, gamma: Array, low: float) -> Array:
    """Computes `_filter_luma_twice` and `_clip_and_correct`; the change of luma is added in the pass of the curve."""
    channels, luma = color.channels_and_luma(rgb)
    lumas = luma, _filtered_twice(luma, first, second)
    return jnp.stack(curves.clipped_power(channels, gamma, low, lumas), -1)


def _clip_and_correct(rgb: Array, gamma: Array, low: float) -> Array:
    """Computes `_clip` and `tone.gamma_correct` in one pass, with the channels apart."""
    checks.check_image(rgb)
    return jnp.stack(curves.clipped_power(planes.split(rgb), gamma, low), -1)


def _add(rgb: Array, layer: Array) -> Array:
    if rgb.shape[-3:] != layer.shape:
        raise ValueError(
            f"raw must have the additive layer's height and width {layer.shape[:2]}, got {rgb.shape[-3:-1]}"
        )
    return rgb + layer
