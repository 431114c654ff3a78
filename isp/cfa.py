"""Color filter arrays: the color that each site of a mosaic sees.

A site is one element of the sensor. The colors repeat in rectangular tiles. The *pattern* names the colors of a tile:

- "RGGB", "BGGR", "GRBG" and "GBRG" are the Bayer patterns, whose tile has 2x2 sites.
- Rows of the letters R, G and B, joined by "/", describe any other array, such as the quad Bayer "RRGG/RRGG/GGBB/GGBB"
  or the 6x6 sites of X-Trans, "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG".
- "MONO" is a sensor without color filters. Its images are gray.

A mosaic `(..., H, W)` starts with a whole tile at its upper left corner, and has an even height and width.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from isp._kernels import planes
from isp._kernels.checks import check_image

# The colors of a 2x2 tile in the order (0, 0), (0, 1), (1, 0), (1, 1), which is called CFA order.
BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")
MONO = "MONO"

# The names of the channels that `tile` returns.
COLORS = ("red", "green", "blue")

# A tile of a real sensor has at most 6x6 sites; a quad or nona Bayer array has 4x4 or 6x6.
_LONGEST = 16


def tile(pattern: str) -> Int[np.ndarray, "rows cols"]:
    """Finds the channel that each site of a tile sees; an unknown pattern raises a ValueError.

    Returns:
        The channels of the smallest tile that repeats: 0 red, 1 green, 2 blue. A sensor without color filters has the
        single channel 0.

    Example:
        >>> isp.cfa.tile("RGGB")
        array([[0, 1],
               [1, 2]], dtype=int32)
        >>> isp.cfa.tile("RRGG/RRGG/GGBB/GGBB").shape
        (4, 4)
    """
    if isinstance(pattern, str) and (known := _tile(pattern)) is not None:
        return known
    raise ValueError(
        f"pattern must be one of {', '.join(BAYER)}, {MONO}, or rows of R, G and B joined by '/' such as "
        f"RRGG/RRGG/GGBB/GGBB, got {pattern!r:.100}"
    )


@functools.lru_cache(maxsize=64)
def _tile(pattern: str) -> Int[np.ndarray, "rows cols"] | None:
    """Finds the tile of a pattern; returns None for an unknown one."""
    if pattern == MONO:
        return _read_only(np.zeros((1, 1), np.int32))
    rows = [pattern[:2], pattern[2:]] if pattern in BAYER else pattern.split("/")
    if len(rows) == 1:
        return None  # A misspelled Bayer pattern is more likely than a single row of stripes.
    are_letters = all(re.fullmatch(f"[RGB]{{1,{_LONGEST}}}", row) for row in rows)
    if not are_letters or len(rows) > _LONGEST or len({*map(len, rows)}) != 1 or len({*"".join(rows)}) != 3:
        return None
    return _read_only(_smallest_tile(np.array([["RGB".index(letter) for letter in row] for row in rows], np.int32)))


def _smallest_tile(colors: Int[np.ndarray, "_ _"]) -> Int[np.ndarray, "_ _"]:
    """Finds the smallest tile that repeats."""
    for axis in (0, 1):
        side = colors.shape[axis]
        periods = (n for n in range(1, side + 1) if side % n == 0)
        period = next(n for n in periods if (np.roll(colors, n, axis) == colors).all())
        colors = np.take(colors, np.arange(period), axis)
    return colors


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def canonical(pattern: str) -> str:
    """Converts a pattern to its standard spelling, so that equal arrays have equal patterns.

    Returns:
        The pattern of the smallest tile: four letters for a Bayer pattern, or rows joined by "/".

    Example:
        >>> isp.cfa.canonical("RGRG/GBGB")
        'RGGB'
    """
    if pattern == MONO:
        return MONO
    rows = ["".join("RGB"[channel] for channel in row) for row in tile(pattern)]
    if len(rows) == 1:
        rows *= 2
    joined = "".join(rows)
    return joined if joined in BAYER and len(rows) == 2 else "/".join(rows)


def is_bayer(pattern: str) -> bool:
    """Returns whether a pattern is one of the four Bayer patterns, which most algorithms require."""
    return canonical(pattern) in BAYER


def black_level_shape(pattern: str) -> tuple[int]:
    """Returns the shape of the black levels of a sensor.

    Returns:
        (4,) for a Bayer pattern, one level per site of the tile in CFA order; (3,) for other arrays, the levels of R, G
        and B; (1,) without color filters.
    """
    return (4,) if is_bayer(pattern) else (int(tile(pattern).max()) + 1,)


def check_mosaic(raw: Shaped[Array | np.ndarray, "..."]) -> None:
    """Raises a ValueError unless an array, which may be traced, is floating point, with even sides of at least 2."""
    if not jnp.issubdtype(raw.dtype, jnp.floating):
        raise ValueError(
            f"raw must be floating point with the white level at 1, got {raw.dtype}: divide by the white level first"
        )
    if raw.ndim < 2:
        raise ValueError(f"raw must be (..., H, W), got shape {raw.shape}")
    if raw.shape[-2] % 2 or raw.shape[-1] % 2 or 0 in raw.shape[-2:]:
        hint = ": mosaics (..., H, W) have no axis of channels" if raw.shape[-1] in (1, 3) else ""
        raise ValueError(f"raw must have an even height and width, got shape {raw.shape}{hint}")


def tiled(values: Shaped[Array | np.ndarray, "rows cols *rest"], height: int, width: int) -> Shaped[Array, "..."]:
    """Repeats one value or vector per site of a tile over a mosaic, which need not hold a whole number of tiles."""
    rows, cols = values.shape[:2]
    if values.ndim == 2 and max(rows, cols) <= 2:
        # XLA computes tiles of two sites in a loop only one by one, but chooses between numbers for many at once.
        odd_row, odd_col = (jax.lax.broadcasted_iota(jnp.int32, (height, width), axis) % 2 > 0 for axis in (0, 1))
        first, last = (jnp.where(odd_col, values[row, -1], values[row, 0]) for row in (0, -1))
        return jnp.where(odd_row, last, first)
    repeats = (-(-height // rows), -(-width // cols), *(1,) * (values.ndim - 2))
    return jnp.tile(values, repeats)[:height, :width]


def black_levels(
    black_level: Float[Array | np.ndarray, " levels"], pattern: str, height: int, width: int
) -> Float[Array, "height width"]:
    """Looks up the black level of every site of a mosaic.

    Args:
        black_level: The levels, of the shape that `black_level_shape` returns for the pattern; others raise
            a ValueError.
    """
    _check_levels(black_level, pattern)
    if is_bayer(pattern):
        return tiled(jnp.asarray(black_level).reshape(2, 2), height, width)
    return tiled(jnp.asarray(black_level)[tile(pattern)], height, width)


def level_names(pattern: str) -> tuple[str, ...] | None:
    """Names the black levels of a pattern by their colors; returns None for a single level.

    Example:
        >>> isp.cfa.level_names("GBRG")
        ('green_1', 'blue', 'red', 'green_2')
    """
    if pattern == MONO:
        return None
    if pattern not in BAYER:
        return COLORS
    colors = [COLORS[channel] for channel in tile(pattern).ravel()]
    counts = [colors[: site + 1].count(color) for site, color in enumerate(colors)]
    return tuple(
        f"{color}_{count}" if colors.count(color) > 1 else color for color, count in zip(colors, counts, strict=True)
    )


def _check_levels(black_level: Shaped[Array | np.ndarray, "..."], pattern: str) -> None:
    shape = black_level_shape(pattern)
    if black_level.shape != shape:
        meaning = {4: "one level per site in CFA order", 3: "one level per color", 1: "one level"}[shape[0]]
        raise ValueError(f"black_level must have shape {shape}, {meaning}, got {black_level.shape}")


@jax.jit(static_argnames=("pattern", "rescale"))
def subtract_black_level(
    raw: Shaped[Array, "..."], black_level: Float[Array, " levels"], *, pattern: str = "RGGB", rescale: bool = False
) -> Float[Array, "*batch height width"]:
    """Subtracts the black level of each site, without clipping, so noise around black keeps its mean.

    Args:
        black_level: One level per site of a Bayer tile, in CFA order; or, for other arrays, one level per color.
            Other shapes raise a ValueError.
        pattern: The colors of a tile, see the module. All Bayer patterns give the same result.
        rescale: Whether to divide by 1 - black_level, so that white stays at 1. The pipelines of the study do not.

    Example:
        >>> isp.cfa.subtract_black_level(jnp.ones((2, 4)), jnp.array([0.25, 0.5, 0.5, 0.75]))
        Array([[0.75, 0.5 , 0.75, 0.5 ],
               [0.5 , 0.25, 0.5 , 0.25]], dtype=float32)
    """
    check_mosaic(raw)
    _check_levels(black_level, pattern)
    *batch, height, width = raw.shape
    # The gradient of a product with NaN would be NaN, even if a later stage repairs the site.
    finite = jnp.where(jnp.isfinite(raw), raw, 0) if rescale else raw
    if is_bayer(pattern):
        # Each pair of rows meets two full rows of levels, so that the gradient sums whole rows, and these sums
        # vectorize.
        levels = black_level.reshape(2, 2)
        above_black = finite.reshape(*batch, height // 2, 2, width) - planes.rows_of_sites(levels, height, width)
        if rescale:
            above_black *= planes.rows_of_sites(1 / (1 - levels), height, width)
    else:
        levels = black_levels(black_level, pattern, height, width)
        above_black = (finite - levels) / (1 - levels) if rescale else finite - levels
    above_black = above_black.reshape(raw.shape)
    return jnp.where(jnp.isfinite(raw), above_black, raw) if rescale else above_black


def site_masks(pattern: str, height: int, width: int) -> Float[Array, "height width 3"]:
    """Makes masks that are 1 where a site sees the channel and 0 elsewhere.

    Returns:
        One mask per channel. Without color filters, every site sees all three.
    """
    if pattern == MONO:
        return jnp.ones((height, width, 3))
    return tiled(np.eye(3, dtype=np.float32)[tile(pattern)], height, width)


@jax.jit(static_argnames="pattern")
def spread(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Spreads a mosaic over three planes that are zero where the site sees another color.

    Args:
        pattern: The colors of a tile, see the module. Without color filters, all planes equal the mosaic.

    Example:
        >>> red, green, blue = jnp.moveaxis(isp.cfa.spread(jnp.ones((2, 4))), -1, 0)
        >>> green
        Array([[0., 1., 0., 1.],
               [1., 0., 1., 0.]], dtype=float32)
    """
    check_mosaic(raw)
    height, width = raw.shape[-2:]
    return raw[..., None] * site_masks(pattern, height, width).astype(raw.dtype)


@jax.jit(static_argnames="pattern")
def mosaic(rgb: Float[Array, "*batch height width 3"], pattern: str = "RGGB") -> Float[Array, "*batch height width"]:
    """Samples an image as a sensor does: each site keeps only the color that it sees.

    Args:
        rgb: Images `(..., H, W, 3)` with even H and W; others raise a ValueError.
        pattern: The colors of a tile, see the module. A site without a color filter sees the mean of the channels.
    """
    tile(pattern)  # Rejects an unknown pattern.
    check_image(rgb)
    height, width = rgb.shape[-3:-1]
    if height % 2 or width % 2:
        raise ValueError(f"rgb must have an even height and width, got shape {rgb.shape}")
    if pattern == MONO:
        return rgb.mean(-1)
    return (rgb * site_masks(pattern, height, width).astype(rgb.dtype)).sum(-1)


@jax.jit
def space_to_depth(raw: Shaped[Array, "..."]) -> Float[Array, "*batch rows cols 4"]:
    """Gathers the four sites of each tile into a last axis, in CFA order.

    Returns:
        The sites `(..., H / 2, W / 2, 4)`.

    Example:
        >>> raw = jnp.arange(8.0).reshape(2, 4)
        >>> isp.cfa.space_to_depth(raw)
        Array([[[0., 1., 4., 5.],
                [2., 3., 6., 7.]]], dtype=float32)
    """
    check_mosaic(raw)
    *batch, height, width = raw.shape
    tiles = raw.reshape(*batch, height // 2, 2, width // 2, 2)
    return jnp.moveaxis(tiles, -3, -2).reshape(*batch, height // 2, width // 2, 4)
