"""The classical algorithms by the names that `isp.static` takes.

An algorithm is a function of its settings, which returns what a stage of a pipeline is made of: the stage's function,
its parameters (continuous, so that they can be learned) and its options (fixed once it is compiled, such as the side of
a window).
"""

import operator

import jax
import numpy as np
from jax.typing import ArrayLike

from isp import bayer, demosaic, denoise, sharpen
from isp._engine import total_variation, windows
from isp.parameter import Parameter


def _converted(name, value, convert, what):
    try:
        # Reject strings and one-element arrays, which float() would accept.
        if not isinstance(value, str) and np.shape(value) == ():
            return convert(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} must be {what}, got {' '.join(repr(value).split())}")


# Options have to be hashable, which arrays are not.
def _number(name, value):
    return _converted(name, value, float, "a number")


def _count(name, value):
    return _converted(name, value, operator.index, "a whole number")


def _flag(name, value):
    return _converted(name, value, bool, "true or false")


def _start(name, value):
    """Where a parameter starts, which may be traced."""
    return value if isinstance(value, jax.core.Tracer) else _number(name, value)


def _strength(value, unit="strength"):
    """Makes the parameter of a setting whose natural range is its own value."""
    return Parameter(value, scale="log", unit=unit)


def filter_kernel(kernel: ArrayLike) -> Parameter:
    """Makes the parameter of a filter's kernel of odd sides, which is tuned by the strength of the filter."""
    neutral = np.zeros(np.shape(kernel))
    neutral[tuple(side // 2 for side in neutral.shape)] = 1
    return Parameter(kernel, width=1, unit="weight", neutral=neutral)


def _without_interpolation(pattern):
    return bayer.spread, {}, {"pattern": pattern}


def _bilinear(pattern):
    return demosaic.bilinear, {}, {"pattern": pattern}


def _malvar2004(pattern):
    return demosaic.malvar2004, {}, {"pattern": pattern}


def _menon2007(pattern, refine=True):
    return demosaic.menon2007, {}, {"pattern": pattern, "refine": _flag("refine", refine)}


def _none():
    return unchanged, {}, {}


def _sharpening_filter(sharpening_filter=sharpen.SHARPENING_KERNEL):
    return sharpen.sharpening_filter, {"sharpening_filter": filter_kernel(sharpening_filter)}, {}


def _unsharp_masking(radius=1.0, amount=1.0):
    radius, amount = _start("radius", radius), _start("amount", amount)
    size = denoise.gaussian_size("radius", radius, None)
    return sharpen.unsharp_masking, {"radius": _strength(radius, "pixels"), "amount": _strength(amount)}, {"size": size}


def _gaussian_denoising(sigma=0.5):
    sigma = _start("sigma", sigma)
    size = denoise.gaussian_size("sigma", sigma, None)
    return denoise.gaussian_denoising, {"sigma": _strength(sigma, "pixels")}, {"size": size}


def _median_denoising(size=3):
    size = _count("size", size)
    windows.check_size(size)
    return denoise.median_denoising, {}, {"size": size}


def _fft_denoising(keep_fraction=0.3, softness=None):
    keep_fraction = _start("keep_fraction", keep_fraction)
    softness = None if softness is None else _number("softness", softness)
    denoise.check_fraction(keep_fraction, softness)
    if softness is None:  # a hard cut, which has no derivative
        return denoise.fft_denoising, {}, {"keep_fraction": keep_fraction}
    return denoise.fft_denoising, {"keep_fraction": _strength(keep_fraction, "fraction")}, {"softness": softness}


def _tv_chambolle(weight=0.01, eps=2e-4, max_iterations=200):
    return denoise.tv_chambolle, *_total_variation(weight, eps, max_iterations)


def _tv_bregman(weight=100.0, eps=1e-3, max_iterations=100, isotropic=True):
    parameters, options = _total_variation(weight, eps, max_iterations)
    return denoise.tv_bregman, parameters, options | {"isotropic": _flag("isotropic", isotropic)}


def _total_variation(weight, eps, max_iterations):
    weight, eps = _start("weight", weight), _number("eps", eps)
    max_iterations = _count("max_iterations", max_iterations)
    total_variation.check_settings(weight, eps, max_iterations)
    return {"weight": _strength(weight)}, {"eps": eps, "max_iterations": max_iterations}


def _bilateral(sigma_spatial=0.6, sigma_color=None, bins=10000):
    sigma_spatial = _start("sigma_spatial", sigma_spatial)
    size = denoise.bilateral_size(sigma_spatial)
    parameters = {"sigma_spatial": _strength(sigma_spatial, "pixels")}
    sigma_color = None if sigma_color is None else _start("sigma_color", sigma_color)
    bins = None if bins is None else _count("bins", bins)
    windows.check_colors(sigma_color, bins)
    if sigma_color is not None:
        parameters["sigma_color"] = _strength(sigma_color)
    return denoise.bilateral, parameters, {"size": size, "bins": bins}


def unchanged(rgb):
    """The image as it is."""
    return rgb


ALGORITHMS = {
    "demosaic": {
        "none": _without_interpolation,
        "bilinear": _bilinear,
        "malvar2004": _malvar2004,
        "menon2007": _menon2007,
    },
    "sharpen": {
        "none": _none,
        "sharpening_filter": _sharpening_filter,
        "unsharp_masking": _unsharp_masking,
    },
    "denoise": {
        "none": _none,
        "gaussian_denoising": _gaussian_denoising,
        "median_denoising": _median_denoising,
        "fft_denoising": _fft_denoising,
        "tv_chambolle": _tv_chambolle,
        "tv_bregman": _tv_bregman,
        "bilateral": _bilateral,
    },
}
