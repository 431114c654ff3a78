"""Stages for custom pipelines: each function returns an `isp.Stage` whose parameters declare their ranges.

A function's continuous arguments, and the camera's values, are the starts of the stage's parameters.

The stages of `isp.full` come from here, with distinct parameter names, so that they fit into one pipeline. To use a
stage twice, rename the copy and its parameters with `dataclasses.replace`.

`ALGORITHMS` has the classical algorithms that `isp.static` offers: for each of "demosaic", "sharpen" and "denoise", a
dict from names to functions. Each takes the settings of its algorithm and returns a stage named after the step.
Continuous settings are parameters of the stage; all others, such as the side of a window, are options.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence

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
    options = {"pattern": pattern, "softness": threshold, "lone": True}
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
        highlights: "clip" or "desaturate"; see `isp.color.highlights`. None leaves saturated pixels colored.
    """
    _check_gains(camera, highlights is not None)
    return Stage("white_balance", steps.balance, camera.parameters("white_balance"), {"mode": highlights})


def mosaic_white_balance(camera: Camera, clip: bool = True) -> Stage:
    """Makes the stage `white_balance` for raw images, which applies the gains before demosaicing.

    Args:
        clip: Whether to clip at the smallest gain, which makes saturated areas white.
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


def chroma_denoising(sigma: float = 1.5, size: int | None = None) -> Stage:
    """Makes the stage `chroma_denoising` for images, which smooths U and V by `chroma_sigma` pixels."""
    options = {"size": checks.gaussian_size("sigma", sigma, size)}
    return Stage("chroma_denoising", denoise.chroma_denoising, {"chroma_sigma": _strength(sigma, "pixels")}, options)


def saturation(amount: float = 1.0) -> Stage:
    """Makes the stage `saturation` for images, which moves colors away from gray; an amount of 1 changes nothing."""
    return Stage("saturation", color.saturation, {"saturation": _strength(amount, "factor")})


def local_tone_map(strength: float = 0.3, detail: float = 1.0) -> Stage:
    """Makes the stage `local_tone_map` for images in linear light, which brightens dark areas and keeps detail."""
    parameters = {
        "tone_strength": Parameter(strength, width=0.3, low=0, high=1, unit="fraction of contrast"),
        "tone_detail": _strength(detail, "factor"),
    }
    return Stage("local_tone_map", tone.local_tone_map, parameters)


def srgb() -> Stage:
    """Makes the stage `srgb` for images in linear light, which applies the tone curve of sRGB."""
    return Stage("srgb", tone.srgb)


def gamma_correct(gamma: float = 2.2) -> Stage:
    """Makes the stage `gamma_correct` for images in linear light, which applies the exponent 1 / gamma."""
    return Stage("gamma_correct", color.gamma_correct, {"gamma_correct": _strength(gamma, "gamma")})


def contrast(amount: float = 1.0, pivot: float = 0.5) -> Stage:
    """Makes the stage `contrast` for images, which stretches values away from a pivot; 1 changes nothing."""
    parameters = {
        "contrast": _strength(amount, "factor"),
        "contrast_pivot": Parameter(pivot, width=0.5, low=0, high=1, unit="fraction of white"),
    }
    return Stage("contrast", tone.contrast, parameters)


def curve(segments: int = 4) -> Stage:
    """Makes the stage `curve` for images, a tone curve that rises everywhere.

    Its straight segments start with equal rises, which change nothing. Four segments are named shadows, darks, lights
    and highlights.
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


def _strength(value: ArrayLike, unit: str = "strength") -> Parameter:
    """Makes the parameter of a setting whose natural range is its value."""
    return Parameter(value, scale="log", unit=unit)


def _normalized(pattern: str) -> Stage:
    # As in `isp.parametrized`, a few images cannot determine so many values.
    weights = Parameter(demosaic.normalized_kernel(pattern), width=1, unit="weight", labels=COLORS, tuned=False)
    return Stage("demosaic", demosaic.normalized, {"interpolation": weights}, {"pattern": pattern})


def _of_any_array(function: Callable, pattern: str) -> Stage:
    return Stage("demosaic", function, options={"pattern": pattern})


def _of_bayer(function: Callable, pattern: str) -> Stage:
    if not cfa.is_bayer(pattern):
        raise ValueError(
            f"{function.__name__} is for the Bayer patterns, got the pattern {pattern}: use normalized or binned"
        )
    return _of_any_array(function, pattern)


def _menon2007(pattern: str, refine: bool = True) -> Stage:
    stage = _of_bayer(demosaic.menon2007, pattern)
    return dataclasses.replace(stage, options={**stage.options, "refine": refine})


def _sharpening_filter(sharpening_filter: ArrayLike = sharpen.SHARPENING_KERNEL) -> Stage:
    return Stage("sharpen", sharpen.sharpening_filter, {"sharpening_filter": filter_kernel(sharpening_filter)})


def _unsharp(function: Callable, radius: Scalar = 1.0, amount: Scalar = 1.0) -> Stage:
    options = {"size": checks.gaussian_size("radius", radius, None)}
    return Stage("sharpen", function, {"radius": _strength(radius, "pixels"), "amount": _strength(amount)}, options)


def _smoothing(function: Callable, sigma: Scalar) -> Stage:
    options = {"size": checks.gaussian_size("sigma", sigma, None)}
    return Stage("denoise", function, {"sigma": _strength(sigma, "pixels")}, options)


def _median_denoising(size: int = 3) -> Stage:
    checks.check_size(size)
    return Stage("denoise", denoise.median_denoising, options={"size": size})


def _fft_denoising(keep_fraction: Scalar = 0.3, softness: float | None = None) -> Stage:
    checks.check_fraction(keep_fraction, softness)
    if softness is None:  # A hard cut has no derivative, so its fraction is an option.
        return Stage("denoise", denoise.fft_denoising, options={"keep_fraction": float(keep_fraction)})
    parameters = {"keep_fraction": _strength(keep_fraction, "fraction")}
    return Stage("denoise", denoise.fft_denoising, parameters, {"softness": softness})


def _tv_chambolle(weight: Scalar = 0.01, eps: float = 2e-4, max_iterations: int = 200) -> Stage:
    checks.check_total_variation(weight, eps, max_iterations)
    options = {"eps": eps, "max_iterations": max_iterations}
    return Stage("denoise", denoise.tv_chambolle, {"weight": _strength(weight)}, options)


def _tv_bregman(weight: Scalar = 100.0, eps: float = 1e-3, max_iterations: int = 100, isotropic: bool = True) -> Stage:
    checks.check_total_variation(weight, eps, max_iterations)
    options = {"eps": eps, "max_iterations": max_iterations, "isotropic": isotropic}
    return Stage("denoise", denoise.tv_bregman, {"weight": _strength(weight)}, options)


def _bilateral(sigma_spatial: Scalar = 0.6, sigma_color: Scalar | None = None, bins: int | None = 10000) -> Stage:
    checks.check_colors(sigma_color, bins)
    options = {"size": checks.bilateral_size(sigma_spatial, None), "bins": bins}
    parameters = {"sigma_spatial": _strength(sigma_spatial, "pixels")}
    if sigma_color is not None:
        parameters["sigma_color"] = _strength(sigma_color)
    return Stage("denoise", denoise.bilateral, parameters, options)


def _nlm_denoising(strength: Scalar = 0.1, patch_size: int = 7, patch_distance: int = 11) -> Stage:
    checks.check_patches(strength, patch_size, patch_distance)
    options = {"patch_size": patch_size, "patch_distance": patch_distance}
    return Stage("denoise", denoise.nlm_denoising, {"strength": _strength(strength)}, options)


ALGORITHMS: dict[str, dict[str, Callable[..., Stage]]] = {
    "demosaic": {
        "none": functools.partial(_of_any_array, cfa.spread),
        "bilinear": functools.partial(_of_bayer, demosaic.bilinear),
        "malvar2004": functools.partial(_of_bayer, demosaic.malvar2004),
        "menon2007": _menon2007,
        "normalized": _normalized,
        "binned": functools.partial(_of_any_array, demosaic.binned),
    },
    "sharpen": {
        "none": lambda: Stage("sharpen", steps.unchanged),
        "sharpening_filter": _sharpening_filter,
        "unsharp_masking": functools.partial(_unsharp, sharpen.unsharp_masking),
        "unsharp_masking_vertical": functools.partial(_unsharp, sharpen.unsharp_masking_vertical),
    },
    "denoise": {
        "none": lambda: Stage("denoise", steps.unchanged),
        "gaussian_denoising": functools.partial(_smoothing, denoise.gaussian_denoising, sigma=0.5),
        "median_denoising": _median_denoising,
        "fft_denoising": _fft_denoising,
        "tv_chambolle": _tv_chambolle,
        "tv_bregman": _tv_bregman,
        "bilateral": _bilateral,
        "chroma_denoising": functools.partial(_smoothing, denoise.chroma_denoising, sigma=1.5),
        "nlm_denoising": _nlm_denoising,
    },
}
