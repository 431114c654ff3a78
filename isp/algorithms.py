"""The classical algorithms, by the names that `isp.static` takes.

`ALGORITHMS` maps each step of a pipeline to its algorithms. An algorithm takes its settings and returns the parts of a
stage: its function, its parameters (continuous, so that they can be learned), its options (fixed at compilation, such
as the side of a window) and its reach.
"""

import operator
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from isp import cfa, demosaic, denoise, sharpen
from isp._engine import checks, reaches
from isp.camera_parameters import COLORS
from isp.parameter import Parameter

# A setting as a user gives it, before it is checked.
Setting = ArrayLike | str | None

# The function of a stage, its parameters, its options and its reach.
Parts = tuple[Callable[..., Array], dict[str, Parameter], dict[str, Hashable], int | Callable[..., int | None] | None]
Converted = TypeVar("Converted")


def filter_kernel(kernel: ArrayLike) -> Parameter:
    """Makes the parameter of a filter's kernel, which is tuned as a whole by the strength of the filter.

    Args:
        kernel: The weights, with odd sides.

    Returns:
        The parameter. Its neutral value is the kernel that copies its input.

    Example:
        >>> import isp
        >>> from isp.algorithms import filter_kernel
        >>> filter_kernel(isp.sharpen.SHARPENING_KERNEL).neutral
        ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0))
    """
    neutral = np.zeros(np.shape(kernel))
    neutral[tuple(side // 2 for side in neutral.shape)] = 1
    return Parameter(kernel, width=1, unit="weight", neutral=neutral)


def unchanged(rgb: Array) -> Array:
    """Returns the image as it is; the function of a stage that is switched off.

    Args:
        rgb: Setting image.

    Returns:
        The same image.

    Example:
        >>> import jax.numpy as jnp
        >>> from isp.algorithms import unchanged
        >>> unchanged(jnp.ones((1, 1, 3)))
        Array([[[1., 1., 1.]]], dtype=float32)
    """
    return rgb


def _check_bayer(name: str, pattern: str) -> None:
    """Raises a ValueError unless the pattern is one that a Bayer algorithm can take."""
    if not cfa.is_bayer(pattern):
        raise ValueError(f"{name} is for the Bayer patterns, got the pattern {pattern}: use normalized or binned")


def _normalized(pattern: str) -> Parts:
    # As with the weights of `isp.parametrized`, a few images cannot determine so many.
    weights = Parameter(demosaic.normalized_kernel(pattern), width=1, unit="weight", labels=COLORS, tuned=False)
    return demosaic.normalized, {"interpolation": weights}, {"pattern": pattern}, reaches.of_kernel


def _binned(pattern: str) -> Parts:
    return demosaic.binned, {}, {"pattern": pattern}, None


def _without_interpolation(pattern: str) -> Parts:
    return cfa.spread, {}, {"pattern": pattern}, 0


def _bilinear(pattern: str) -> Parts:
    _check_bayer("bilinear", pattern)
    return demosaic.bilinear, {}, {"pattern": pattern}, reaches.BILINEAR


def _malvar2004(pattern: str) -> Parts:
    _check_bayer("malvar2004", pattern)
    return demosaic.malvar2004, {}, {"pattern": pattern}, reaches.MALVAR


def _menon2007(pattern: str, refine: Setting = True) -> Parts:
    _check_bayer("menon2007", pattern)
    return demosaic.menon2007, {}, {"pattern": pattern, "refine": _flag("refine", refine)}, reaches.MENON


def _none() -> Parts:
    return unchanged, {}, {}, 0


def _sharpening_filter(sharpening_filter: ArrayLike = sharpen.SHARPENING_KERNEL) -> Parts:
    return sharpen.sharpening_filter, {"sharpening_filter": filter_kernel(sharpening_filter)}, {}, reaches.of_kernel


def _unsharp_masking(radius: Setting = 1.0, amount: Setting = 1.0) -> Parts:
    return sharpen.unsharp_masking, *_unsharp_settings(radius, amount), reaches.of_window


def _unsharp_masking_vertical(radius: Setting = 1.0, amount: Setting = 1.0) -> Parts:
    return sharpen.unsharp_masking_vertical, *_unsharp_settings(radius, amount), reaches.of_window


def _unsharp_settings(radius: Setting, amount: Setting) -> tuple[dict[str, Parameter], dict[str, Hashable]]:
    radius, amount = _start("radius", radius), _start("amount", amount)
    size = checks.gaussian_size("radius", radius, None)
    return {"radius": _strength(radius, "pixels"), "amount": _strength(amount)}, {"size": size}


def _gaussian_denoising(sigma: Setting = 0.5) -> Parts:
    sigma = _start("sigma", sigma)
    size = checks.gaussian_size("sigma", sigma, None)
    return denoise.gaussian_denoising, {"sigma": _strength(sigma, "pixels")}, {"size": size}, reaches.of_window


def _median_denoising(size: Setting = 3) -> Parts:
    size = _count("size", size)
    checks.check_size(size)
    return denoise.median_denoising, {}, {"size": size}, reaches.of_window


def _fft_denoising(keep_fraction: Setting = 0.3, softness: Setting = None) -> Parts:
    start = _start("keep_fraction", keep_fraction)
    softness = None if softness is None else _number("softness", softness)
    checks.check_fraction(start, softness)
    if softness is None:  # A hard cut has no derivative, so its fraction is an option.
        return denoise.fft_denoising, {}, {"keep_fraction": _number("keep_fraction", start)}, None
    return denoise.fft_denoising, {"keep_fraction": _strength(start, "fraction")}, {"softness": softness}, None


def _tv_chambolle(weight: Setting = 0.01, eps: Setting = 2e-4, max_iterations: Setting = 200) -> Parts:
    return denoise.tv_chambolle, *_total_variation(weight, eps, max_iterations), None


def _tv_bregman(
    weight: Setting = 100.0, eps: Setting = 1e-3, max_iterations: Setting = 100, isotropic: Setting = True
) -> Parts:
    parameters, options = _total_variation(weight, eps, max_iterations)
    return denoise.tv_bregman, parameters, options | {"isotropic": _flag("isotropic", isotropic)}, None


def _total_variation(
    weight: Setting, eps: Setting, max_iterations: Setting
) -> tuple[dict[str, Parameter], dict[str, Hashable]]:
    start, tolerance = _start("weight", weight), _number("eps", eps)
    most = _count("max_iterations", max_iterations)
    checks.check_total_variation(start, tolerance, most)
    return {"weight": _strength(start)}, {"eps": tolerance, "max_iterations": most}


def _bilateral(sigma_spatial: Setting = 0.6, sigma_color: Setting = None, bins: Setting = 10000) -> Parts:
    sigma_spatial = _start("sigma_spatial", sigma_spatial)
    size = checks.bilateral_size(sigma_spatial, None)
    parameters = {"sigma_spatial": _strength(sigma_spatial, "pixels")}
    sigma_color = None if sigma_color is None else _start("sigma_color", sigma_color)
    bins = None if bins is None else _count("bins", bins)
    checks.check_colors(sigma_color, bins)
    if sigma_color is not None:
        parameters["sigma_color"] = _strength(sigma_color)
    # The colors of the whole image decide the bins, and the missing sigma.
    return denoise.bilateral, parameters, {"size": size, "bins": bins}, None


def _chroma_denoising(sigma: Setting = 1.5) -> Parts:
    sigma = _start("sigma", sigma)
    size = checks.gaussian_size("sigma", sigma, None)
    return denoise.chroma_denoising, {"sigma": _strength(sigma, "pixels")}, {"size": size}, reaches.of_window


def _nlm_denoising(strength: Setting = 0.1, patch_size: Setting = 7, patch_distance: Setting = 11) -> Parts:
    strength, size = _start("strength", strength), _count("patch_size", patch_size)
    distance = _count("patch_distance", patch_distance)
    checks.check_patches(strength, size, distance)
    options: dict[str, Hashable] = {"patch_size": size, "patch_distance": distance}
    return denoise.nlm_denoising, {"strength": _strength(strength)}, options, reaches.of_patches


def _strength(value: ArrayLike, unit: str = "strength") -> Parameter:
    """Makes the parameter of a setting whose natural range is its own value."""
    return Parameter(value, scale="log", unit=unit)


def _start(name: str, value: Setting) -> checks.Scalar:
    """Returns the start of a parameter, which may be traced."""
    return value if checks.is_traced(value) else _number(name, value)


# Settings become Python numbers, because options must be hashable and arrays are not.
def _number(name: str, value: Setting) -> float:
    return _converted(name, value, float, "a number")


def _count(name: str, value: Setting) -> int:
    return _converted(name, value, operator.index, "a whole number")


def _flag(name: str, value: Setting) -> bool:
    return _converted(name, value, bool, "true or false")


def _converted(name: str, value: Setting, convert: Callable[[Any], Converted], expected: str) -> Converted:
    try:
        # Reject strings and one-element arrays, which float() would accept.
        if not isinstance(value, str) and np.asarray(value).shape == ():
            return convert(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} must be {expected}, got {' '.join(repr(value).split())}")


ALGORITHMS: dict[str, dict[str, Callable[..., Parts]]] = {
    "demosaic": {
        "none": _without_interpolation,
        "bilinear": _bilinear,
        "malvar2004": _malvar2004,
        "menon2007": _menon2007,
        "normalized": _normalized,
        "binned": _binned,
    },
    "sharpen": {
        "none": _none,
        "sharpening_filter": _sharpening_filter,
        "unsharp_masking": _unsharp_masking,
        "unsharp_masking_vertical": _unsharp_masking_vertical,
    },
    "denoise": {
        "none": _none,
        "gaussian_denoising": _gaussian_denoising,
        "median_denoising": _median_denoising,
        "fft_denoising": _fft_denoising,
        "tv_chambolle": _tv_chambolle,
        "tv_bregman": _tv_bregman,
        "bilateral": _bilateral,
        "chroma_denoising": _chroma_denoising,
        "nlm_denoising": _nlm_denoising,
    },
}
