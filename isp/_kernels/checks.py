"""Checks of arguments, and window sizes that follow from them.

Each check raises a ValueError that names the argument. A traced value cannot be compared, so it passes.
"""

import math
from collections.abc import Callable
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Real, Shaped

# A continuous setting: a Python number, or an array without axes that may be traced and learned.
Scalar = Real[Array | np.ndarray, ""] | float | int


def is_traced(value: object) -> TypeGuard[Array]:
    """Returns whether a value is an abstract array of `jit`, `grad` or `vmap`."""
    return isinstance(value, Tracer)


def check_image(rgb: Shaped[Array, "..."]) -> None:
    """Checks that `rgb` is a floating-point image `(..., H, W, 3)`."""
    if not jnp.issubdtype(rgb.dtype, jnp.floating):
        raise ValueError(f"rgb must be floating point with white at 1, got {rgb.dtype}: divide by the white level")
    if rgb.ndim < 3 or rgb.shape[-1] != 3:
        raise ValueError(f"rgb must be (..., H, W, 3), channels last, got shape {rgb.shape}")


def check_positive(name: str, value: Scalar) -> None:
    if not is_traced(value) and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def check_size(size: int, name: str = "size") -> None:
    if not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"{name} must be an odd number of pixels, got {size!r}")


def check_fraction(keep_fraction: Scalar, softness: Scalar | None) -> None:
    """Checks the settings of `isp.denoise.fft_denoising`."""
    if not is_traced(keep_fraction) and not 0 <= keep_fraction <= 1:
        raise ValueError(f"keep_fraction must be in [0, 1], got {keep_fraction}")
    if softness is not None:
        check_positive("softness", softness)
    elif is_traced(keep_fraction):
        raise ValueError("softness must be given if keep_fraction is traced: a hard cut has no derivative")


def check_total_variation(weight: Scalar, eps: float, max_iterations: int) -> None:
    """Checks the settings of `isp.denoise.tv_chambolle` and `isp.denoise.tv_bregman`."""
    check_positive("weight", weight)
    check_positive("eps", eps)
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")


def check_colors(sigma_color: Scalar | None, bins: int | None) -> None:
    """Checks the settings of `isp.denoise.bilateral` that concern color."""
    if sigma_color is not None:
        check_positive("sigma_color", sigma_color)
    if bins is not None and bins < 3:
        raise ValueError(f"bins must be at least 3, one per channel, got {bins}")


def check_patches(strength: Scalar, patch_size: int, patch_distance: int) -> None:
    """Checks the settings of `isp.denoise.nlm_denoising`."""
    check_positive("strength", strength)
    check_size(patch_size, "patch_size")
    if not isinstance(patch_distance, int) or patch_distance < 1:
        raise ValueError(f"patch_distance must be a positive number of pixels, got {patch_distance!r}")


def gaussian_size(name: str, sigma: Scalar, size: int | None) -> int:
    """Returns the side of a Gaussian's support: `size`, or SciPy's 4 standard deviations to each side."""
    return _window_size(name, sigma, size, lambda sigma: int(4 * sigma + 0.5))


def bilateral_size(sigma_spatial: Scalar, size: int | None) -> int:
    """Returns the side of the bilateral filter's window: `size`, or the size that scikit-image chooses."""
    return _window_size("sigma_spatial", sigma_spatial, size, lambda sigma: max(2, math.ceil(3 * sigma)))


def _window_size(name: str, sigma: Scalar, size: int | None, radius: Callable[[float], int]) -> int:
    """Returns `size`, or `1 + 2 * radius(sigma)` without a size; checks both."""
    check_positive(name, sigma)
    if size is not None:
        check_size(size)
        return size
    if is_traced(sigma):
        raise ValueError(f"size must be given if {name} is traced: a shape cannot depend on its value")
    return 2 * radius(float(sigma)) + 1
