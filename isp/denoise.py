"""Denoising: Gaussian smoothing and a cut in the frequency domain; the other methods by their names.

Where a method works on luma, U and V stay as they are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import color
from isp._engine import stencil
from isp._engine.total_variation import tv_bregman, tv_chambolle
from isp._engine.windows import Scalar, bilateral, bilateral_size, check_positive, median_denoising, window_size
from isp.bayer import check_image

__all__ = [
    "bilateral",
    "bilateral_size",
    "check_fraction",
    "fft_denoising",
    "gaussian_blur",
    "gaussian_denoising",
    "gaussian_filter",
    "gaussian_kernel",
    "gaussian_size",
    "median_denoising",
    "tv_bregman",
    "tv_chambolle",
]


def gaussian_kernel(sigma: float, size: int) -> np.ndarray:
    """A `(size, size)` Gaussian of standard deviation `sigma` pixels that sums to 1."""
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return (np.outer(taps, taps) / taps.sum() ** 2).astype(np.float32)


@jax.jit
def gaussian_blur(
    rgb: Float[Array, "*batch height width 3"], kernel: Float[Array, "rows cols"]
) -> Float[Array, "*batch height width 3"]:
    """Correlates the luma with a kernel of odd sides over mirrored borders; U and V stay.

    `gaussian_kernel(0.5, 5)` is the one that the differentiable pipeline starts from.
    """
    return color.with_luma(rgb, stencil.correlate(color.luma(rgb), kernel, "mirror"))


def gaussian_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], sigma: Scalar = 0.5, size: int | None = None
) -> Float[Array, "*batch height width 3"]:
    """Smooths the luma by a Gaussian; U and V stay.

    The luma is that of `scipy.ndimage.gaussian_filter`: the border repeats its outermost pixels.

    Args:
        rgb: images.
        sigma: standard deviation in pixels, positive; it can be learned.
        size: side of the Gaussian's support, odd; 4 standard deviations to each side if it is not given.

    Raises:
        ValueError: a `sigma` that is traced without a `size`, or not positive; an even `size`; no image.
    """
    return _gaussian_denoising(rgb, sigma, gaussian_size("sigma", sigma, size))


@functools.partial(jax.jit, static_argnames="size")
def _gaussian_denoising(rgb, sigma, size):
    return color.with_luma(rgb, gaussian_filter(color.luma(rgb), sigma, size))


@functools.partial(jax.jit, static_argnames="size")
def gaussian_filter(
    plane: Float[Array, "*batch height width"], sigma: Scalar, size: int
) -> Float[Array, "*batch height width"]:
    """Correlates with a Gaussian of this standard deviation, cut off to `size` pixels a side and summing to 1."""
    offsets = jnp.arange(size, dtype=plane.dtype) - size // 2
    taps = jax.nn.softmax(-((offsets / sigma) ** 2) / 2)
    along_columns = stencil.correlate(plane, taps[:, None], "symmetric")
    return stencil.correlate(along_columns, taps[None, :], "symmetric")


def gaussian_size(name: str, sigma: Scalar, size: int | None) -> int:
    """The side of a Gaussian's support: as given, or SciPy's 4 standard deviations to each side.

    Raises:
        ValueError: as `gaussian_denoising`, where `name` is what the caller calls its standard deviation.
    """
    return window_size(name, sigma, size, lambda sigma: int(4 * sigma + 0.5))


def fft_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], keep_fraction: Scalar = 0.3, softness: Scalar | None = None
) -> Float[Array, "*batch height width 3"]:
    """Removes the high horizontal frequencies of each row and channel.

    Of a row's discrete Fourier transform, the bins from int(width * keep_fraction) up to, and not including,
    int(width * (1 - keep_fraction)) are set to zero; the result is the real part of the inverse.

    Args:
        rgb: images.
        keep_fraction: the fraction of the sampling frequency up to which frequencies are kept, 0 to 1; nothing is
            removed from 0.5 on.
        softness: number of bins, positive, over which a raised cosine goes from keeping to removing; towards 0 it
            is the hard cut. With it `keep_fraction` can be learned; below 1, it has no gradient between some bins.

    Raises:
        ValueError: a `keep_fraction` that is traced without a `softness`, or not in [0, 1]; a `softness` that is not
            positive; no image.
    """
    rgb = jnp.asarray(rgb)
    check_image(rgb)
    check_fraction(keep_fraction, softness)
    width = rgb.shape[-2]
    if softness is not None:
        return _filter_rows(rgb, _soft_gains(width, keep_fraction, softness))
    gains = np.ones(width)
    gains[int(width * keep_fraction) : int(width * (1 - keep_fraction))] = 0
    return _filter_rows(rgb, gains)


def check_fraction(keep_fraction: Scalar, softness: Scalar | None) -> None:
    """Raises a ValueError unless `fft_denoising` takes these two arguments."""
    traced = isinstance(keep_fraction, jax.core.Tracer)
    if not traced and not 0 <= keep_fraction <= 1:
        raise ValueError(f"keep_fraction must be in [0, 1], got {keep_fraction}")
    if softness is not None:
        check_positive("softness", softness)
    elif traced:
        raise ValueError("softness must be given where keep_fraction is traced: a hard cut has no derivative")


@functools.partial(jax.jit, static_argnums=0)
def _soft_gains(width, keep_fraction, softness):
    bins = jnp.arange(width)

    def below(edge):
        """One for bins below int(edge), falling to zero within `softness` bins of it; at 0, exactly the hard edge."""
        rise = jnp.clip((edge - bins - 1) / softness + 1, 0, 1)
        return (1 - jnp.cos(jnp.pi * rise)) / 2

    return 1 - below(width * (1 - keep_fraction)) * (1 - below(width * keep_fraction))


@jax.jit
def _filter_rows(rgb, gains):
    """Multiplies the discrete Fourier transform of each row by real gains; the real part of the inverse."""
    width = rgb.shape[-2]
    dtype = jnp.promote_types(rgb.dtype, jnp.float32)  # there is no transform of shorter formats
    # The real part gives a frequency and its negative the mean of their gains: a real row holds both alike.
    gains = (gains + jnp.roll(gains[::-1], 1)).astype(dtype) / 2
    spectrum = jnp.fft.rfft(rgb.astype(dtype), axis=-2) * gains[: width // 2 + 1, None]
    return jnp.fft.irfft(spectrum, width, axis=-2).astype(rgb.dtype)
