"""Differentiable, compiled image signal processing: from raw sensor data to RGB.

`parametrized` and `static` build the pipelines of Oala et al. (TMLR 2023), and `full` a modern one; `Pipeline`, `Stage`
and the makers in `stages` build others. Each stage is a plain function of arrays that also works alone; the modules
`cfa`, `color`, `demosaic`, `denoise`, `filter`, `lens`, `metering`, `repair`, `sensor`, `sensor_drift`, `shading`,
`sharpen` and `tone` hold these functions.

A raw image, or mosaic, is an array `(..., H, W)` with one color per site and an even height and width. An image is
`(..., H, W, 3)`. Both may have any number of leading batch axes. Both are floating point with white at 1. Functions
raise a ValueError for anything else, for unknown color patterns and for arguments outside of the ranges that they
state; a traced value cannot be compared, so it passes. Functions do not clip unless they say so, and `jax.jit`,
`jax.grad` and `jax.vmap` apply to all of them. NaN sites raise no error: they make all sites NaN that are computed from
them, unless `repair.defects` comes first.

Argument names mean the same everywhere: `raw` is a raw image, `rgb` an image, `pattern` the colors of a tile (see
`cfa`), `camera` a `Camera`, `key` a random key, and `size` the odd side of a window in pixels. By default, windows
reach 4 standard deviations to each side; if the standard deviation is traced, `size` must be given. Continuous
arguments can be learned. The examples assume that `isp`, `jax`, `jax.numpy as jnp` and `numpy as np` are imported.

Example:
    >>> import isp
    >>> import jax.numpy as jnp
    >>> pipeline = isp.parametrized(isp.CAMERAS["drone"])
    >>> rgb = pipeline(jnp.full((4, 6), 0.3))
    >>> rgb.shape
    (4, 6, 3)
"""

import warnings

import jaxlib.version

from isp import (
    cfa,
    color,
    demosaic,
    denoise,
    filter,
    lens,
    metering,
    repair,
    sensor,
    sensor_drift,
    shading,
    sharpen,
    stages,
    tone,
)
from isp.auto import metered, metered_like
from isp.camera import CAMERAS, Camera
from isp.full import full
from isp.parameter import Parameter
from isp.pipeline import Pipeline, portable
from isp.published import AS_PUBLISHED_STATIC, PUBLISHED_STATIC, parametrized, static
from isp.sensor_drift import CameraState
from isp.stage import Stage, local
from isp.stages import ALGORITHMS
from isp.unprocessing import unprocess

__all__ = [
    "ALGORITHMS",
    "AS_PUBLISHED_STATIC",
    "CAMERAS",
    "PUBLISHED_STATIC",
    "Camera",
    "CameraState",
    "Parameter",
    "Pipeline",
    "Stage",
    "cfa",
    "color",
    "demosaic",
    "denoise",
    "filter",
    "full",
    "lens",
    "local",
    "metered",
    "metered_like",
    "metering",
    "parametrized",
    "portable",
    "repair",
    "sensor",
    "sensor_drift",
    "shading",
    "sharpen",
    "stages",
    "static",
    "tone",
    "unprocess",
]

if jaxlib.version.__version__ == "0.10.2":
    warnings.warn(
        "jaxlib 0.10.2 computes some sums of matrix products wrongly on CPUs; install another version "
        "(https://github.com/jax-ml/jax/issues/39103)",
        stacklevel=2,
    )
