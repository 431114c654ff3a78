"""The light on its way through a lens: blur by defocus and motion, and lateral color, in the mosaic of a camera."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from isp import cfa, demosaic
from isp._kernels import blur, noise, xla
from isp.camera import Camera
from isp.sensor import from_light, site_light

# The longest motion blur in pixels.
LONGEST_MOTION = 32


def through(
    raw: Array,
    key: PRNGKeyArray,
    *,
    camera: Camera,
    defocus: Array | None = None,
    motion: Array | None = None,
    chromatic_aberration: Array | None = None,
) -> tuple[Array, Array | float, Array | None]:
    """Moves and blurs the light of raw images, in the units of `isp.CameraState`; None changes nothing.

    Each site is computed from those at the same place of other tiles, so that nothing is interpolated. Tiles of more
    than 2x2 sites are interpolated first, see `demosaic.normalized`, which adds up to 0.8 pixels to the variance.

    Args:
        raw: Raw images `(..., H, W)` in at least 32 bits.
        key: Draws the direction of the motion of each image, and noise.
        camera: The camera that took them.
        defocus: The standard deviation of a Gaussian blur.
        motion: The length of a motion blur, at most `LONGEST_MOTION`.
        chromatic_aberration: How far red moves outward, and blue inward, in the corners.

    Returns:
        The raw images; the share of their noise variance that remains; and noise of variance 1 with the spectrum of
        what defocus has taken from it, or None with motion, see `isp.sensor.re_expose`.
    """
    if defocus is None and motion is None and chromatic_aberration is None:
        return raw, 1.0, None
    period = _period(camera)
    variance = jnp.square(jnp.zeros((), raw.dtype) if defocus is None else defocus) / period**2
    steps, taps = jnp.zeros((*raw.shape[:-2], 2), int), jnp.ones((*raw.shape[:-2], 1), raw.dtype)
    if motion is not None:
        steps = jnp.array([[0, 1], [1, 0], [1, 1], [1, -1]])
        steps = steps[jax.random.randint(key, raw.shape[:-2], 0, len(steps))]
        # A step along a diagonal is longer.
        of_line = jnp.square(motion) / 12 / (period**2 * (steps**2).sum(-1))
        taps = blur.line(of_line.astype(raw.dtype), LONGEST_MOTION // (2 * period) + 1)
    kept = 1.0
    if defocus is not None or motion is not None:
        kept = blur.remaining_noise(variance, steps, taps)[..., None, None]

    # A separate unit: fused with the noise, sites would be put in their places one by one.
    @xla.unfused
    def changed(raw: Array, pixels: Array, variance: Array, steps: Array, taps: Array) -> Array:
        planes = _planes(site_light(raw, camera), camera)
        if chromatic_aberration is not None:
            planes = _with_lateral_color(planes, pixels, raw.shape[-2:], camera)
        planes = blur.smoothed(planes, variance) if defocus is not None else planes
        planes = blur.moved(planes, steps, taps) if motion is not None else planes
        return from_light(_mosaic(planes, camera), camera)

    result = changed(raw, variance if chromatic_aberration is None else chromatic_aberration, variance, steps, taps)
    if defocus is None or motion is not None:
        return result, kept, None
    *batch, height, width = raw.shape
    shape = (*batch, period**2, height // period, width // period)
    white = xla.unfused(lambda key: noise.normal(key, shape).astype(raw.dtype))(jax.random.fold_in(key, 1))
    # Without defocus, no noise is lost.
    scale = jax.lax.rsqrt(jnp.maximum(1 - kept, 1e-9))
    return result, kept, scale * xla.unfused(lambda lost: _tiled(lost, period))(blur.lost_noise(white, variance))


def _with_lateral_color(planes: Array, pixels: Array, shape: tuple[int, ...], camera: Camera) -> Array:
    """Moves red light outward and blue light inward, in proportion to the distance from the frame's center."""
    period, (height, width) = _period(camera), shape
    radius = np.hypot(height - 1, width - 1) / 2
    colors = cfa.tile(camera.pattern).ravel() if planes.shape[-3] == period**2 else np.arange(3)

    def scaled(plane: Array, factor: Array, axis: int, offset: int) -> Array:
        """Reads each site along an axis from a place at `factor` times its distance from the center."""
        center, count = ((height, width)[axis] - 1) / 2, plane.shape[axis]
        places = ((jnp.arange(count) * period + offset - center) * factor + center - offset) / period
        places = jnp.clip(places, 0, count - 1)
        first = jnp.clip(places.astype(int), 0, max(count - 2, 0))
        share = jnp.expand_dims(places - first, tuple(range(1, -axis)))
        after = jnp.minimum(first + 1, count - 1)
        return (1 - share) * jnp.take(plane, first, axis) + share * jnp.take(plane, after, axis)

    def moved(place: int, color: int) -> Array:
        plane = planes[..., place, :, :]
        if color == 1:
            return plane
        # In a frame that is smaller than the distance, red comes from the middle.
        factor = jnp.maximum(1 + (color - 1) * pixels / radius, 0)
        row, column = divmod(place, period) if len(colors) == period**2 else (0, 0)
        return scaled(scaled(plane, factor, -2, row), factor, -1, column)

    return jnp.stack([moved(place, int(color)) for place, color in enumerate(colors)], -3)


def _planes(light: Array, camera: Camera) -> Array:
    """Returns the sites at each place of a tile `(..., places, H, W)`; for larger tiles, three interpolated colors."""
    *batch, height, width = light.shape
    period = _period(camera)
    if period < len(cfa.tile(camera.pattern)):
        return jnp.moveaxis(demosaic.normalized(light, pattern=camera.pattern), -1, -3)
    planes = light.reshape(*batch, height // period, period, width // period, period)
    planes = jnp.moveaxis(planes, (-3, -1), (-4, -3))
    return planes.reshape(*batch, period**2, height // period, width // period)


def _mosaic(planes: Array, camera: Camera) -> Array:
    """Puts the sites of planes in their places; undoes `_planes`."""
    period = _period(camera)
    if period < len(cfa.tile(camera.pattern)):
        return cfa.mosaic(jnp.moveaxis(planes, -3, -1), camera.pattern)
    return _tiled(planes, period)


def _tiled(planes: Array, period: int) -> Array:
    *batch, _, height, width = planes.shape
    planes = planes.reshape(*batch, period, period, height, width)
    return jnp.moveaxis(planes, (-4, -3), (-3, -1)).reshape(*batch, period * height, period * width)


def _period(camera: Camera) -> int:
    """Returns the distance in pixels between the rows of a plane to blur: a tile of at most 2x2 sites, or 1."""
    rows, columns = cfa.tile(camera.pattern).shape
    return rows if rows == columns <= 2 else 1
