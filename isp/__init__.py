"""Raw sensor data to RGB: differentiable, compiled image signal processing, as functions and as Flax modules."""

from isp import bayer, color, demosaic, denoise, sharpen
from isp.camera import CAMERAS, Camera
from isp.pipeline import Pipeline, Stage, parametrized

__all__ = [
    "CAMERAS",
    "Camera",
    "Pipeline",
    "Stage",
    "bayer",
    "color",
    "demosaic",
    "denoise",
    "parametrized",
    "sharpen",
]
