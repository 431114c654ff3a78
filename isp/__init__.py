"""Raw sensor data to RGB: differentiable, compiled image signal processing, as functions and as Flax modules."""

from isp import bayer, color, demosaic, denoise, sharpen
from isp.algorithms import ALGORITHMS
from isp.camera import CAMERAS, Camera
from isp.parameter import Parameter
from isp.pipeline import Pipeline, Stage
from isp.published import PUBLISHED_STATIC, parametrized, static
from isp.unprocessing import unprocess

__all__ = [
    "ALGORITHMS",
    "CAMERAS",
    "PUBLISHED_STATIC",
    "Camera",
    "Parameter",
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
