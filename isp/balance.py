"""White balance: gains for mosaics, and gains that are estimated from a picture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import cfa
from isp._engine import planes, tiles, units
from isp._engine.checks import Scalar, check_image


@jax.jit(static_argnames=("pattern", "clip"))
def balance_mosaic(
    raw: Shaped[Array, "..."], gains: Float[Array, "3"], pattern: str = "RGGB", clip: bool = False
) -> Float[Array, "*batch height width"]:
    """Multiplies each site by the gain of its color, so that demosaicing sees channels that agree on a gray.

    Args:
        raw: A mosaic `(..., H, W)` with black at 0.
        gains: The gains of red, green and blue.
        pattern: The colors of a tile, see `isp.cfa`.
        clip: Whether to clip at the least gain, the level up to which all colors are known. It is the "clip" of
            `isp.color.highlights` for mosaics, and makes saturated areas white.

    Returns:
        The mosaic `(..., H, W)`.

    Raises:
        ValueError: If `raw` is not a floating-point mosaic of even height and width, or the pattern is unknown.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> gains = jnp.array([2.0, 1.0, 3.0])
        >>> isp.balance.balance_mosaic(jnp.full((2, 4), 0.25), gains)
        Array([[0.5 , 0.25, 0.5 , 0.25],
               [0.25, 0.75, 0.25, 0.75]], dtype=float32)
    """
    cfa.check_mosaic(raw)
    *batch, height, width = raw.shape
    by_site = tiles.rows_of_sites(gains[cfa.tile(pattern)], height, width)
    balanced = raw.reshape(*batch, height // len(by_site), len(by_site), width) * by_site
    if clip:
        # Not jnp.min: XLA would compute the reduction anew for each site.
        balanced = jnp.minimum(balanced, functools.reduce(jnp.minimum, [gains[channel] for channel in range(3)]))
    return balanced.reshape(raw.shape)


@jax.jit
def shades_of_gray(rgb: Float[Array, "*batch height width 3"], power: Scalar = 6.0) -> Float[Array, "*batch 3"]:
    """Estimates the gains that make the light of a picture neutral.

    Assumes that the Minkowski norm of each channel over the picture would be the same under white light: G. D.
    Finlayson and E. Trezzi, "Shades of gray and colour constancy", Color Imaging Conference (2004), who recommend a
    power of 6. A power of 1 is the gray-world assumption, and a great power takes the brightest value of each channel
    for white.

    Args:
        rgb: Images `(..., H, W, 3)` in linear light, before gains. Negative values count as 0.
        power: The power of the norm, positive. It can be learned.

    Returns:
        The gains of red, green and blue `(..., 3)`, divided by that of green. A channel without light has a gain of 1,
        and so have all channels if green has no light.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.color.shades_of_gray(jnp.full((4, 4, 3), 0.25) * jnp.array([1.0, 2.0, 0.5]), 1.0)
        Array([2., 1., 4.], dtype=float32)
    """
    check_image(rgb)
    *batch, height, width, _ = rgb.shape
    # Pixels and channels share one axis, because an axis of three does not vectorize.
    rows = rgb.reshape(-1, height, width * 3)
    tiny = jnp.finfo(rgb.dtype).tiny
    # Dividing by the greatest value keeps great powers from underflowing. The norm does not depend on it.
    top = jax.lax.stop_gradient(rows.max(1).reshape(-1, width, 3).max(1))
    lit = top > tiny
    scale = jnp.where(lit, top, 1)
    columns = units.apart(_sums_of_powers)(rows, jnp.tile(scale, width)[:, None], jnp.asarray(power, rgb.dtype))
    mean = columns.reshape(-1, width, 3).sum(1) / (height * width)
    norm = jnp.log(jnp.where(lit, mean, 1)) / power + jnp.log(scale)
    gains = jnp.exp(jnp.where(lit & lit[:, 1:2], norm[:, 1:2] - norm, 0))
    return gains.reshape(*batch, 3)


def _sums_of_powers(rows: Array, scale: Array, power: Array) -> Array:
    relative = rows / scale
    positive = relative > jnp.finfo(rows.dtype).tiny
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    powers = jnp.exp(power * jnp.log(jnp.where(positive, relative, 1)))
    return jnp.where(positive, powers, 0).sum(1)


@jax.jit
def auto_white_balance(
    rgb: Float[Array, "*batch height width 3"],
    power: Scalar = 6.0,
    camera_gains: Float[Array | np.ndarray, "3"] | None = None,
    share: Scalar = 0.5,
) -> Float[Array, "*batch height width 3"]:
    """Multiplies each channel by the gain that `shades_of_gray` estimates from the image itself.

    Args:
        rgb: Images `(..., H, W, 3)` in linear light, before gains.
        power: The power of the norm: 1 for the gray world, great for the white patch. It can be learned.
        camera_gains: The camera's own gains, positive. If None, only the estimate counts.
        share: The weight of the estimate against the camera's gains, in [0, 1], as the exponents of a geometric mean.
            It can be learned.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.color.auto_white_balance(jnp.full((1, 2, 3), 0.25) * jnp.array([1.0, 2.0, 0.5]), 1.0)
        Array([[[0.5, 0.5, 0.5],
                [0.5, 0.5, 0.5]]], dtype=float32)
    """
    gains = shades_of_gray(rgb, power)
    if camera_gains is not None:
        gains = jnp.exp(share * jnp.log(gains) + (1 - share) * jnp.log(jnp.asarray(camera_gains, rgb.dtype)))
    channels = enumerate(planes.split(rgb))
    return jnp.stack([plane * gains[..., channel, None, None] for channel, plane in channels], -1)
