"""Stages for custom pipelines: each function returns an `isp.Stage` whose parameters declare their ranges.

Each stage is declared once, here. A function's continuous arguments, and the camera's values, are the starts of the
stage's parameters; all other arguments, such as the side of a window, are options.

The stages of `isp.full` come from here, with distinct parameter names, so that they fit into one pipeline. To use a
stage twice, rename the copy and its parameters with `dataclasses.replace`.

`ALGORITHMS` has the classical algorithms that `isp.static` offers: for each of "demosaic", "sharpen" and "denoise", a
dict from names to functions of this module, whose stage is named after the step.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from isp import cfa, color, demosaic, denoise, metering, repair, shading, sharpen, tone
from isp._fusion import steps
from isp._kernels import checks
from isp._kernels.checks import Scalar
from isp.camera import Camera
from isp.cfa import COLORS
from isp.parameter import Parameter
from isp.stage import Stage

# The level of a gray card, for which cameras expose.
_GRAY = 0.18

# The quarters of the range of display values.
_RANGES = ("shadows", "darks", "lights", "highlights")

# The natural range of these settings is their value.
_PIXELS = Parameter(None, scale="log", unit="pixels")
_STRENGTH = Parameter(None, scale="log", unit="strength")
_FACTOR = Parameter(1.0, scale="log", unit="factor")

Maker = Callable[..., Stage]

ALGORITHMS: dict[str, dict[str, functools.partial[Stage]]] = {"demosaic": {}, "sharpen": {}, "denoise": {}}


def _offered(step: str, name: str = "", **fixed: Hashable) -> Callable[[Maker], Maker]:
    """Lists a maker among the algorithms of a step; its arguments in `fixed` are no settings there."""

    def offer(make: Maker) -> Maker:
        ALGORITHMS[step][name or make.__name__] = functools.partial(make, name=step, **fixed)
        return make

    return offer


def _declared(
    function: Callable[..., Any],
    names: Mapping[str, str] = MappingProxyType({}),
    check: Callable[..., Mapping[str, Hashable] | None] = lambda: None,
    **known: Any,
) -> Maker:
    """Declares the stage of a function: returns its maker, whose arguments have the function's defaults.

    Args:
        names: The names of parameters that are not called as their arguments.
        check: Checks the arguments of its names, and may return options that follow from them.
        **known: The parameters by the function's argument, with their start if it is not the function's default; and
            other defaults. A parameter that would start at None is left out.
    """
    own_name = function.__name__
    parameters = {name: each for name, each in known.items() if isinstance(each, Parameter)}
    defaults = {name: parameters[name].value if name in parameters else each for name, each in known.items()}
    arguments = [
        each if defaults.get(each.name) is None else each.replace(default=defaults[each.name])
        for each in list(inspect.signature(function).parameters.values())[1:]
    ]
    of_name = inspect.Parameter("name", inspect.Parameter.KEYWORD_ONLY, default=own_name, annotation=str)
    signature = inspect.Signature([*arguments, of_name], return_annotation=Stage)

    def make(*args: Any, **settings: Any) -> Stage:
        given = signature.bind(*args, **settings)
        given.apply_defaults()
        options = dict(given.arguments)
        options |= check(*(options[each] for each in inspect.signature(check).parameters)) or {}
        starts = {each: options.pop(each) for each in parameters}
        made = {
            names.get(each, each): dataclasses.replace(parameters[each], value=start)
            for each, start in starts.items()
            if start is not None
        }
        return Stage(options.pop("name"), function, made, options)

    make.__name__ = make.__qualname__ = own_name
    learned = f" with parameters {', '.join(f'`{names.get(each, each)}`' for each in parameters)}" if parameters else ""
    make.__doc__ = (
        f"Makes the stage `{own_name}` of `{function.__module__}.{own_name}`{learned}.\n\n"
        "Raises a ValueError for settings that this function refuses."
    )
    make.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return make


def black_level(camera: Camera, rescale: bool = True) -> Stage:
    """Makes the stage `black_level` for raw images, which subtracts the black level of each site.

    Args:
        rescale: Whether to keep white at 1.
    """
    options: dict[str, Hashable] = {"rescale": rescale}
    if not cfa.is_bayer(camera.pattern):  # All Bayer patterns share one compiled function.
        options["pattern"] = camera.pattern
    return Stage("black_level", cfa.subtract_black_level, camera.parameters("black_level"), options)


def defects(pattern: str = "RGGB", threshold: float = 0.1) -> Stage:
    """Makes the stage `defects` for raw images, which repairs sites that are always bright or always dark.

    Args:
        threshold: The start of the parameter `defect_threshold`. To make it learnable, sites are replaced gradually, up
            to a difference of twice the start. Only sites that differ from each of their neighbors are replaced, which
            spares fine lines.
    """
    parameter = Parameter(threshold, scale="log", unit="fraction of white")
    options = {"pattern": pattern, "softness": threshold, "isolated_only": True}
    return Stage("defects", repair.defects, {"defect_threshold": parameter}, options)


def lens_shading(pattern: str | None = None, coefficients: ArrayLike | None = None) -> Stage:
    """Makes the stage `shading`, which brightens the corners.

    Args:
        pattern: The colors of a tile, see `isp.cfa`, for raw images. If None, the stage is for images.
        coefficients: The start of the parameter `shading (3, 3)`; see `isp.shading.correct`. If None, zeros, which have
            no effect.
    """
    labels = tuple(f"{channel}_r{power}" for channel in COLORS for power in (2, 4, 6))
    start = np.zeros((3, 3)) if coefficients is None else coefficients
    parameter = Parameter(start, width=0.5, labels=labels, unit="gain")
    return Stage("shading", shading.correct, {"shading": parameter}, {"pattern": pattern})


def white_balance(camera: Camera, highlights: color.Mode | None = "clip") -> Stage:
    """Makes the stage `white_balance` for images, which applies the gains and makes saturated pixels neutral.

    Args:
        highlights: "clip" or "desaturate"; see `isp.color.highlights`. None leaves saturated pixels colored; otherwise,
            negative gains raise a ValueError.
    """
    _check_gains(camera, highlights is not None)
    return Stage("white_balance", steps.balance, camera.parameters("white_balance"), {"mode": highlights})


def mosaic_white_balance(camera: Camera, clip: bool = True) -> Stage:
    """Makes the stage `white_balance` for raw images, which applies the gains before demosaicing.

    Args:
        clip: Whether to clip at the smallest gain, which makes saturated areas white; negative gains then raise a
            ValueError.
    """
    _check_gains(camera, clip)
    options = {"pattern": camera.pattern, "clip": clip}
    return Stage("white_balance", color.balance_mosaic, camera.parameters("white_balance"), options)


def auto_white_balance(
    camera: Camera, neutral: ArrayLike | Sequence | None = None, power: float = 6.0, share: float = 1.0
) -> Stage:
    """Makes the stage `auto_white_balance` for unprocessed raw images, which meters the color of each.

    Args:
        neutral: The levels of red, green and blue to reach, up to a factor. If None, the levels that the camera's gains
            make gray.
        power: 1 for the gray world, large for the white patch.
        share: 0 leaves images unchanged, 1 reaches the neutral color.
    """
    if neutral is None:
        neutral = 1 / np.abs(np.asarray(camera.white_balance))
    parameters = {
        "neutral": Parameter(neutral, scale="log", labels=COLORS, unit="level"),
        "balance_power": _power(power),
        "balance_share": _share(share),
    }
    return Stage("auto_white_balance", metering.auto_white_balance, parameters, _metered(camera))


def auto_exposure(camera: Camera, target: float | None = None, power: float = 6.0, share: float = 1.0) -> Stage:
    """Makes the stage `auto_exposure` for unprocessed raw images, which meters the level of each.

    Args:
        target: The level to reach as a fraction of white. If None, the level of a gray card at 18%
            of white under the camera's gains.
        power: 1 for the mean, large for the brightest zone.
        share: 0 leaves images unchanged, 1 reaches the target.
    """
    if target is None:
        gray = 1 / np.abs(np.asarray(camera.white_balance))
        target = float(_GRAY * (gray**power).mean() ** (1 / power))
    parameters = {
        "exposure_target": Parameter(target, scale="log", unit="fraction of white"),
        "exposure_power": _power(power),
        "exposure_share": _share(share),
    }
    return Stage("auto_exposure", metering.auto_exposure, parameters, _metered(camera))


def color_correct(camera: Camera) -> Stage:
    """Makes the stage `color_correct` for images, which applies the color matrix."""
    return Stage("color_correct", color.color_correct, camera.parameters("colour_correction"))


saturation = _declared(color.saturation, {"amount": "saturation"}, amount=_FACTOR)
local_tone_map = _declared(
    tone.local_tone_map,
    {"strength": "tone_strength", "detail": "tone_detail"},
    strength=Parameter(None, width=0.3, low=0, high=1, unit="fraction of contrast"),
    detail=_FACTOR,
)
srgb = _declared(tone.srgb)
gamma_correct = _declared(
    color.gamma_correct, {"gamma": "gamma_correct"}, gamma=Parameter(2.2, scale="log", unit="gamma")
)
contrast = _declared(
    tone.contrast,
    {"amount": "contrast", "pivot": "contrast_pivot"},
    amount=_FACTOR,
    pivot=Parameter(None, width=0.5, low=0, high=1, unit="fraction of white"),
)


def curve(segments: int = 4) -> Stage:
    """Makes the stage `curve` for images, a tone curve that rises everywhere.

    Its straight segments start with equal rises, which change nothing. Four segments are named shadows, darks, lights
    and highlights. Less than one segment raises a ValueError.
    """
    if segments < 1:
        raise ValueError(f"segments must be at least 1, got {segments}")
    labels = _RANGES if segments == len(_RANGES) else None
    return Stage("curve", tone.curve, {"curve": Parameter(np.zeros(segments), width=1, labels=labels, unit="log rise")})


def clipped(name: str = "clipped", low: float = 0.0, high: float = 1.0) -> Stage:
    """Makes a stage for raw or RGB images that clips to a range."""
    return Stage(name, steps.clip, options={"low": low, "high": high})


def filter_kernel(kernel: ArrayLike) -> Parameter:
    """Makes the parameter of a filter's kernel, which is tuned as a whole by the strength of the filter.

    Its neutral value is the identity kernel.
    """
    neutral = np.zeros(np.shape(kernel))
    neutral[tuple(side // 2 for side in neutral.shape)] = 1
    return Parameter(kernel, width=1, unit="weight", neutral=neutral)


def _check_gains(camera: Camera, needed: bool) -> None:
    if needed and min(np.asarray(camera.white_balance)) < 0:
        raise ValueError(
            "white_balance must have positive gains, which are the levels at which colors saturate, got "
            f"{camera.white_balance}"
        )


def _metered(camera: Camera) -> dict[str, Hashable]:
    return {"black_level": tuple(map(float, camera.black_level)), "pattern": camera.pattern}


def _power(value: float) -> Parameter:
    return Parameter(value, scale="log", low=0.1, high=100, unit="power")


def _share(value: float) -> Parameter:
    return Parameter(value, width=0.5, low=0, high=1, unit="share")


def _of_radius(radius: Scalar, size: int | None) -> dict[str, Hashable]:
    return {"size": checks.gaussian_size("radius", radius, size)}


def _of_sigma(sigma: Scalar, size: int | None) -> dict[str, Hashable]:
    return {"size": checks.gaussian_size("sigma", sigma, size)}


def _of_sigmas(
    sigma_spatial: Scalar, sigma_color: Scalar | None, size: int | None, bins: int | None
) -> dict[str, Hashable]:
    checks.check_colors(sigma_color, bins)
    return {"size": checks.bilateral_size(sigma_spatial, size)}


# The algorithms of `isp.static`, in the order in which they are listed.
spread = _offered("demosaic", "none")(_declared(cfa.spread))
bilinear, malvar2004, menon2007 = (
    _offered("demosaic")(_declared(function, check=demosaic.check_bayer))
    for function in (demosaic.bilinear, demosaic.malvar2004, demosaic.menon2007)
)


@_offered("demosaic")
def normalized(pattern: str = "RGGB", *, name: str = "normalized") -> Stage:
    """Makes the stage `normalized`, see `isp.demosaic.normalized`, whose weights are the parameter `interpolation`."""
    # As in `isp.parametrized`, a few images cannot determine so many values.
    weights = Parameter(demosaic.normalized_kernel(pattern), width=1, unit="weight", labels=COLORS, tuned=False)
    return Stage(name, demosaic.normalized, {"interpolation": weights}, {"pattern": pattern})


binned = _offered("demosaic")(_declared(demosaic.binned))


@_offered("sharpen", "none")
@_offered("denoise", "none")
def unchanged(*, name: str = "unchanged") -> Stage:
    """Makes a stage for raw images or images that changes nothing."""
    return Stage(name, steps.unchanged)


@_offered("sharpen")
def sharpening_filter(
    sharpening_filter: ArrayLike = sharpen.SHARPENING_KERNEL, *, name: str = "sharpening_filter"
) -> Stage:
    """Makes the stage `sharpening_filter`, see `isp.sharpen.sharpening_filter`; the kernel is its parameter."""
    return Stage(name, sharpen.sharpening_filter, {"sharpening_filter": filter_kernel(sharpening_filter)})


unsharp_masking, unsharp_masking_vertical = (
    _offered("sharpen", size=None)(_declared(function, check=_of_radius, radius=_PIXELS, amount=_STRENGTH))
    for function in (sharpen.unsharp_masking, sharpen.unsharp_masking_vertical)
)
gaussian_denoising = _offered("denoise", size=None)(
    _declared(denoise.gaussian_denoising, check=_of_sigma, sigma=_PIXELS)
)
median_denoising = _offered("denoise")(_declared(denoise.median_denoising, check=checks.check_size))


@_offered("denoise")
def fft_denoising(keep_fraction: Scalar = 0.3, softness: float | None = None, *, name: str = "fft_denoising") -> Stage:
    """Makes the stage `fft_denoising` of `isp.denoise.fft_denoising`.

    The fraction is a parameter if there is a `softness`; a hard cut has no derivative, so its fraction is an option.
    Raises a ValueError for settings that the function refuses.
    """
    checks.check_fraction(keep_fraction, softness)
    if softness is None:
        return Stage(name, denoise.fft_denoising, options={"keep_fraction": float(keep_fraction)})
    parameters = {"keep_fraction": Parameter(keep_fraction, scale="log", unit="fraction")}
    return Stage(name, denoise.fft_denoising, parameters, {"softness": softness})


tv_chambolle, tv_bregman = (
    _offered("denoise")(_declared(function, check=checks.check_total_variation, weight=_STRENGTH))
    for function in (denoise.tv_chambolle, denoise.tv_bregman)
)
# It rounds as scikit-image does.
bilateral = _offered("denoise", size=None)(
    _declared(denoise.bilateral, check=_of_sigmas, sigma_spatial=_PIXELS, sigma_color=_STRENGTH, bins=10000)
)
chroma_denoising = _offered("denoise", size=None)(
    _declared(denoise.chroma_denoising, {"sigma": "chroma_sigma"}, check=_of_sigma, sigma=_PIXELS)
)
nlm_denoising = _offered("denoise")(_declared(denoise.nlm_denoising, check=checks.check_patches, strength=_STRENGTH))
