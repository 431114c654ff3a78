"""Raw sensor data to RGB: differentiable, compiled image signal processing, as functions and as Flax modules."""

from isp import bayer, color, demosaic, denoise, sharpen
from isp.algorithms import ALGORITHMS, PUBLISHED_STATIC
from isp.camera import CAMERAS, Camera
from isp.pipeline import Pipeline, Stage, parametrized, static
from isp.unprocessing import unprocess

__all__ = [
    "ALGORITHMS",
    "CAMERAS",
    "PUBLISHED_STATIC",
    "Camera",
    "Pipeline",
    "Stage",
    "bayer",
    "color",
    "demosaic",
    "denoise",
    "parametrized",
    "sharpen",
    "static",
    "unprocess",
]
