"""Denoising: Gaussian smoothing, median filters, frequency cutoffs, total variation, and weighted means.

Methods that work on the luma leave U and V unchanged.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import color
from isp._kernels import checks, gaussian, padding, stencil, total_variation, xla
from isp._kernels.bilateral import bilateral_filter
from isp._kernels.checks import Scalar, check_image
from isp._kernels.median import window_median
from isp.filter import gaussian_filter

# Patches at a greater distance get no weight, as in scikit-image.
_CUTOFF = 5.0


@jax.jit
def filter_luma(
    rgb: Float[Array, "*batch height width 3"], kernel: Float[Array, "rows cols"]
) -> Float[Array, "*batch height width 3"]:
    """Correlates the luma with a kernel over mirrored borders.

    Args:
        kernel: Weights with odd sides, which can be learned. `isp.parametrized` starts with a Gaussian.
    """
    return color.replace_luma(rgb, lambda luma: stencil.correlate(luma, kernel, "mirror"))


def gaussian_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], sigma: Scalar = 0.5, size: int | None = None
) -> Float[Array, "*batch height width 3"]:
    """Smooths the luma with a Gaussian.

    Filters the luma as `scipy.ndimage.gaussian_filter` does: the border repeats its outermost pixels.

    Raises:
        ValueError: `sigma` is not positive, `size` is not odd, or `sigma` is traced without a `size`.

    Example:
        >>> spot = np.zeros((5, 5, 3), np.float32)
        >>> spot[2, 2] = 1.0
        >>> np.asarray(isp.denoise.gaussian_denoising(spot, sigma=0.5))[2, :, 0].round(3)
        array([0.   , 0.084, 0.619, 0.084, 0.   ], dtype=float32)
    """
    return _gaussian_denoising(rgb, sigma, checks.gaussian_size("sigma", sigma, size))


@jax.jit(static_argnames="size")
def _gaussian_denoising(rgb: Array, sigma: Scalar, size: int) -> Array:
    return color.replace_luma(rgb, lambda luma: gaussian_filter(luma, sigma, size))


def chroma_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], sigma: Scalar = 1.5, size: int | None = None
) -> Float[Array, "*batch height width 3"]:
    """Smooths U and V with a Gaussian and keeps the luma.

    The eye sees color at a lower resolution than brightness, and demosaicing turns noise into colored spots a few
    pixels wide. The border repeats its outermost pixels.

    Raises:
        ValueError: `sigma` is not positive, `size` is not odd, or `sigma` is traced without a `size`.
    """
    return _chroma_denoising(rgb, sigma, checks.gaussian_size("sigma", sigma, size))


@jax.jit(static_argnames="size")
def _chroma_denoising(rgb: Array, sigma: Scalar, size: int) -> Array:
    check_image(rgb)
    (red, _, blue), luma = color.split_luma(rgb)
    of_red, of_green, of_blue = (float(weight) for weight in color.RGB_TO_YUV[0])
    # U and V are multiples of these differences, so smoothing the differences smooths U and V.
    red, blue = (gaussian.smooth(plane - luma, sigma, size) for plane in (red, blue))
    # The weighted differences sum to zero, which leaves the luma unchanged.
    green = -(of_red / of_green) * red - (of_blue / of_green) * blue
    return jnp.stack([luma + red, luma + green, luma + blue], -1)


@jax.jit(static_argnames="size")
def median_denoising(
    rgb: Float[Array, "*batch height width 3"], size: int = 3
) -> Float[Array, "*batch height width 3"]:
    """Replaces the luma with its median over square windows.

    Filters the luma as `scipy.ndimage.median_filter` does: the border repeats its outermost pixels. The gradient goes
    to the pixel that is the median; the pixels of a window that equal its median share the gradient evenly.
    Forward-mode derivatives do not work.

    Args:
        size: The side of the windows, odd; others raise a ValueError. Only 3 and 5 are fast, because each comparison of
            a window's pixels is compiled separately.
    """
    checks.check_size(size)
    return color.replace_luma(rgb, lambda luma: window_median(luma, size))


def fft_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], keep_fraction: Scalar = 0.3, softness: Scalar | None = None
) -> Float[Array, "*batch height width 3"]:
    """Removes the high horizontal frequencies of each row and channel.

    Sets to zero the bins of a row's discrete Fourier transform from int(width * keep_fraction) up to, but not
    including, int(width * (1 - keep_fraction)), and returns the real part of the inverse transform. This is the step
    along rows of "Image denoising by FFT" in the SciPy Lecture Notes; the soft cut is ours.

    Args:
        keep_fraction: The fraction of the sampling frequency up to which frequencies are kept, in [0, 1]. From 0.5 on,
            nothing is removed. It can be learned if there is a `softness`.
        softness: The number of bins, positive, over which a raised cosine falls from keeping to removing; values near 0
            give the hard cut. Below 1, the gradient is zero for some values of `keep_fraction`, where the cosine falls
            between two bins.

    Raises:
        ValueError: `keep_fraction` is outside [0, 1] or, without a `softness`, traced; or `softness` is not positive.

    Example:
        >>> stripes = np.broadcast_to(np.float32([0.2, 0.6] * 4)[:, None], (1, 8, 3))
        >>> np.asarray(isp.denoise.fft_denoising(stripes))[0, :4, 0].round(3)
        array([0.4, 0.4, 0.4, 0.4], dtype=float32)
    """
    rgb = jnp.asarray(rgb)
    check_image(rgb)
    checks.check_fraction(keep_fraction, softness)
    width = rgb.shape[-2]
    if softness is not None:
        return _filter_rows(rgb, _soft_gains(width, keep_fraction, softness))
    gains = np.ones(width)
    gains[int(width * keep_fraction) : int(width * (1 - keep_fraction))] = 0
    return _filter_rows(rgb, gains)


@jax.jit(static_argnums=0)
def _soft_gains(width: int, keep_fraction: Scalar, softness: Scalar) -> Array:
    bins = jnp.arange(width)

    def below(edge: Scalar) -> Array:
        """Returns 1 for bins below int(edge), falling to 0 within `softness` bins; at 0, exactly the hard edge."""
        rise = jnp.clip((edge - bins - 1) / softness + 1, 0, 1)
        return (1 - jnp.cos(jnp.pi * rise)) / 2

    return 1 - below(width * (1 - keep_fraction)) * (1 - below(width * keep_fraction))


@jax.jit
def _filter_rows(rgb: Array, gains: Array) -> Array:
    """Multiplies the discrete Fourier transform of each row by real gains; takes the real part of the inverse."""
    width = rgb.shape[-2]
    dtype = jnp.promote_types(rgb.dtype, jnp.float32)  # Shorter formats have no transform.
    # A real row has a frequency and its negative in equal parts, so the real part gives both the mean of their gains.
    gains = (gains + jnp.roll(gains[::-1], 1)).astype(dtype) / 2
    if xla.is_plain():
        return _circulated(rgb.astype(dtype), gains).astype(rgb.dtype)
    spectrum = jnp.fft.rfft(rgb.astype(dtype), axis=-2) * gains[: width // 2 + 1, None]
    return jnp.fft.irfft(spectrum, width, axis=-2).astype(rgb.dtype)


def _circulated(rgb: Array, gains: Array) -> Array:
    """Multiplies each row by the matrix that has the same effect as the gains of its frequencies."""
    width = len(gains)
    response = jnp.fft.irfft(gains[: width // 2 + 1], width)
    columns = np.arange(width)
    matrix = response[(columns[:, None] - columns) % width]
    # Full precision, since GPUs and TPUs would round the operands to a shorter format.
    return jnp.swapaxes(jnp.matmul(jnp.swapaxes(rgb, -1, -2), matrix.T, precision="highest"), -1, -2)


def tv_chambolle(
    rgb: Shaped[Array | np.ndarray, "..."],
    weight: Scalar = 0.01,
    eps: float = 2e-4,
    max_iterations: int = 200,
) -> Float[Array, "*batch height width 3"]:
    """Denoises each channel by total variation, with Chambolle's projections of the dual problem.

    Minimizes half the squared distance to the channel plus `weight` times its total variation: L. I. Rudin, S. Osher
    and E. Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D (1992); A. Chambolle, "An
    algorithm for total variation minimization and applications", Journal of Mathematical Imaging and Vision (2004).

    Equals scikit-image's `denoise_tv_chambolle` with `channel_axis=-1`, stopping rule included. One difference does not
    affect results: a constant channel stops at once, whereas scikit-image iterates to the end.

    Forward-mode and second derivatives do not work.

    Args:
        weight: The weight of the slopes, positive: greater is smoother.
        eps: Iteration stops when the energy changes by no more than this fraction of the initial energy.

    Raises:
        ValueError: `weight` or `eps` is not positive, or `max_iterations` is below 1.

    Example:
        Noise is flattened, and the edge stays sharp.

        >>> row = np.array([0.2, 0.24, 0.2, 0.8, 0.76, 0.8], np.float32)
        >>> rgb = np.broadcast_to(row[:, None], (6, 6, 3))
        >>> np.asarray(isp.denoise.tv_chambolle(rgb, weight=0.05))[3, :, 0].round(2)
        array([0.23, 0.23, 0.23, 0.77, 0.77, 0.77], dtype=float32)
    """
    checks.check_total_variation(weight, eps, max_iterations)
    return total_variation.chambolle(rgb, weight, eps, max_iterations)


def tv_bregman(
    rgb: Shaped[Array | np.ndarray, "..."],
    weight: Scalar = 100.0,
    eps: float = 1e-3,
    max_iterations: int = 100,
    isotropic: bool = True,
) -> Float[Array, "*batch height width 3"]:
    """Denoises by total variation, with the split Bregman method.

    Approximately minimizes the total variation plus half of `weight` times the squared distance to the channel: T.
    Goldstein and S. Osher, "The split Bregman method for L1-regularized problems", SIAM Journal on Imaging Sciences
    (2009). The result equals scikit-image's `denoise_tv_bregman` with `channel_axis=-1`, which departs from the paper:

    - An isotropic slope s shrinks to s² / (s + 1 / (2 weight)) instead of max(s - 1 / (2 weight), 0).
    - The pixels beyond the border always come from the noisy image. They are mirrored above and to the left (row -1 is
      row 1), and repeated below and to the right.
    - Channels depend on each other. The Bregman variables start at zero for red, at the denoised red for green, and at
      the denoised green for blue, because scikit-image uses one buffer for all channels.

    Forward-mode and second derivatives do not work.

    Args:
        rgb: Images `(..., H, W, 3)` of any range; H and W at least 2.
        weight: The weight of the distance, positive: smaller is smoother.
        eps: Iteration stops when the root mean square of a channel's change is at most this.
        isotropic: Whether a slope is the length of the gradient. If False, it is the sum of the components' absolute
            values.

    Raises:
        ValueError: `weight` or `eps` is not positive, `max_iterations` is below 1, or a side of `rgb` below 2.
    """
    checks.check_total_variation(weight, eps, max_iterations)
    return total_variation.bregman(rgb, weight, eps, max_iterations, isotropic)


def bilateral(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    sigma_spatial: Scalar = 0.6,
    sigma_color: Scalar | None = None,
    size: int | None = None,
    *,
    bins: int | None = None,
    centered: bool = False,
) -> Float[Array, "*batch height width 3"]:
    """Averages each pixel with the pixels around it that have similar colors.

    The weight of a neighbor is exp(-(spatial distance / sigma_spatial)^2 / 2) * exp(-(color distance / sigma_color)^2 /
    2): C. Tomasi and R. Manduchi, "Bilateral filtering for gray and color images", ICCV (1998).

    Follows `skimage.restoration.denoise_bilateral` and its defaults where the paper leaves a choice. Color distances
    are Euclidean, divided by 3, and in images with negative values also multiplied by max / (max - min). The border is
    surrounded by black, or by the minimum of an image with negative values. A constant image stays unchanged.

    scikit-image (up to version 0.26 at least) builds its table of spatial weights with `size + 1` entries per row and
    reads it with `size`. Its spatial weights therefore do not peak at the pixel itself; with a `size` of 5 they peak
    two rows below it and one column to its left, and the image moves. `centered=True` gives the filter of the paper.

    Forward-mode derivatives do not work.

    Args:
        sigma_spatial: The standard deviation of spatial distances in pixels, positive.
        sigma_color: The standard deviation of color distances, positive. If None, the standard
            deviation of each image's values, over pixels and channels.
        size: The side of the windows, odd. If None, 3 standard deviations to each side, and at least 5.
        bins: The number of steps to which color distances are rounded down, at least 3. scikit-image's default is
            10000. If None, nothing is rounded, which changes results by about 1e-3 at most. Gradients ignore the
            rounding.
        centered: Whether spatial weights peak at the pixel itself.

    Raises:
        ValueError: A standard deviation is not positive, `size` is not odd, `bins` is below 3, or `sigma_spatial` is
            traced without a `size`.
    """
    size = checks.bilateral_size(sigma_spatial, size)
    checks.check_colors(sigma_color, bins)
    return bilateral_filter(rgb, sigma_spatial, sigma_color, size, bins, centered)


def nlm_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    strength: Scalar = 0.1,
    patch_size: int = 7,
    patch_distance: int = 11,
    *,
    centered: bool = False,
) -> Float[Array, "*batch height width 3"]:
    """Averages each pixel with the pixels around it, weighted by the similarity of the patches around both.

    The weight of two pixels is exp(-(d / strength)^2), where d is the root mean square of the differences between their
    patches, over all channels: A. Buades, B. Coll and J.-M. Morel, "A non-local algorithm for image denoising", CVPR
    (2005).

    Follows scikit-image's `denoise_nl_means` with `channel_axis=-1`, `h=strength` and its fast mode where it departs
    from the paper: the sums over patches leave out their first row and their first column but divide by the whole
    number of pixels, and weights below exp(-5) are zero. (scikit-image also approximates the exponential to within four
    percent.) `centered=True` uses whole patches and keeps all weights; the paper also weights the pixels of a patch by
    a Gaussian. The border mirrors the image.

    The gradient ignores this cutoff of small weights. Time is proportional to `(2 * patch_distance + 1) ** 2`, so the
    defaults, which are scikit-image's, take hundreds of times as long as other denoisers.

    Args:
        strength: The difference between patches, positive, beyond which weights become small.
        patch_size: The side of the patches, odd.
        patch_distance: The greatest distance between two pixels in rows and in columns.
        centered: Whether to use whole patches and keep small weights.

    Raises:
        ValueError: `strength` is not positive, `patch_size` is not odd, or `patch_distance` is below 1.
    """
    checks.check_patches(strength, patch_size, patch_distance)
    return _nlm_denoising(rgb, strength, patch_size, patch_distance, centered)


@jax.jit(static_argnames=("patch_size", "patch_distance", "centered"))
def _nlm_denoising(rgb: Array, strength: Scalar, patch_size: int, patch_distance: int, centered: bool) -> Array:
    check_image(rgb)
    *batch, height, width, _ = rgb.shape
    # The squares of small differences need more than the range of float16.
    dtype, rgb = rgb.dtype, rgb.astype(jnp.promote_types(rgb.dtype, jnp.float32))
    images = rgb.reshape(-1, height, width, 3)
    average = functools.partial(_averaged, patch_size=patch_size, patch_distance=patch_distance, centered=centered)
    rate = 1 / (3 * patch_size**2 * jnp.asarray(strength, rgb.dtype) ** 2)
    if images.shape[0] == 0:
        return rgb.astype(dtype)
    if xla.is_plain():
        averaged = jax.vmap(lambda image: average(image, rate))(images)
    else:
        averaged = jax.lax.map(lambda image: average(image, rate), images)
    return averaged.reshape(*batch, height, width, 3).astype(dtype)


def _averaged(image: Array, rate: Array, patch_size: int, patch_distance: int, centered: bool) -> Array:
    """Computes the weighted means by summing over shifts of the image, one at a time."""
    height, width, _ = image.shape
    before = patch_size // 2 if centered else patch_size // 2 - (patch_size > 1)
    side = patch_size if centered else max(patch_size - 1, 1)
    reach = patch_distance + patch_size // 2
    planes = [padding.pad(image[..., channel], reach, reach, "mirror").plane for channel in range(3)]
    padded = jnp.stack(planes)
    outer = (3, height + side - 1, width + side - 1)
    unmoved = padded[:, reach - before :, reach - before :][:, : outer[1], : outer[2]]

    def seen(padded: Array, unmoved: Array, rate: Array, shift: Array) -> tuple[Array, Array]:
        """Computes the weights of the pixels that are one shift away, and these pixels times the weights."""
        there = reach - before + shift
        moved = jax.lax.dynamic_slice(padded, (0, there[0], there[1]), outer)
        squares = xla.unfused(_squared_distance)(unmoved, moved)
        rows = xla.unfused_with(_sums, side, 0)(squares)
        values = jax.lax.dynamic_slice(padded, (0, reach + shift[0], reach + shift[1]), (3, height, width))
        return xla.unfused_with(_weighted, side, not centered)(rows, rate, values)

    def add(sums: tuple[Array, Array], shift: Array) -> tuple[tuple[Array, Array], None]:
        # The gradient computes the weights of each shift again, so that they are never all in memory.
        weights, weighted = jax.checkpoint(seen)(padded, unmoved, rate, shift)
        return (sums[0] + weights, sums[1] + weighted), None

    zeros = jnp.zeros((height, width), image.dtype), jnp.zeros((3, height, width), image.dtype)
    reached = np.arange(-patch_distance, patch_distance + 1)
    shifts = np.stack(np.meshgrid(reached, reached, indexing="ij"), -1).reshape(-1, 2)
    (total, weighted), _ = jax.lax.scan(add, zeros, jnp.asarray(shifts))
    return jnp.moveaxis(weighted / total, 0, -1)


def _squared_distance(unmoved: Array, moved: Array) -> Array:
    differences = [unmoved[channel] - moved[channel] for channel in range(3)]
    return stencil.total(difference * difference for difference in differences)


def _sums(side: int, axis: int, plane: Array) -> Array:
    length = plane.shape[axis] - side + 1
    return stencil.total(jax.lax.slice_in_dim(plane, i, i + length, axis=axis) for i in range(side))


def _weighted(side: int, cut: bool, rows: Array, rate: Array, values: Array) -> tuple[Array, Array]:
    distance = _sums(side, 1, rows) * rate
    weights = jnp.exp(-distance)
    if cut:
        weights = jnp.where(distance > _CUTOFF, 0, weights)
    return weights, weights * values
