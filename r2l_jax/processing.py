"""The processings that the programs offer, by the names that their flags take."""

from collections.abc import Callable, Mapping

from absl import flags
from flax import nnx

import isp
from r2l_jax.errors import InputError
from r2l_jax.processors import Unprocessed

PROCESSING_MODES = ("parametrized", "static", "neural_network", "none")

# What begins with one RGB pixel for each 2x2 tile of the mosaic.
HALF_SIZE_MODES = ("neural_network", "none")

# The flags of --processing_mode=static, named as in the published program: what each chooses, and its default there.
STATIC_FLAGS = {
    "sp_debayer": ("demosaic", "bilinear"),
    "sp_sharpening": ("sharpen", "sharpening_filter"),
    "sp_denoising": ("denoise", "gaussian_denoising"),
}


def define_static_flags() -> None:
    """Defines the flags that choose the algorithms of a static pipeline."""
    for flag, (step, default) in STATIC_FLAGS.items():
        purpose = f"how --processing_mode=static does {step}; {default} if not given"
        flags.DEFINE_enum(flag, None, list(isp.ALGORITHMS[step]), purpose)


def check_processing(mode: str, algorithms: Mapping[str, str | None]) -> None:
    """Raises an InputError for an unknown mode or algorithm, or algorithms that the mode has no use for.

    Args:
        mode: one of `PROCESSING_MODES`.
        algorithms: the values of `STATIC_FLAGS`, None where not given.
    """
    if mode not in PROCESSING_MODES:
        raise InputError(f"--processing_mode must be one of {', '.join(PROCESSING_MODES)}, got {mode!r}")
    for flag, name in algorithms.items():
        step, _ = STATIC_FLAGS[flag]
        if name is not None and mode != "static":
            raise InputError(f"--{flag} is for --processing_mode=static, got --processing_mode={mode}")
        if name is not None and name not in isp.ALGORITHMS[step]:
            raise InputError(f"--{flag} must be one of {', '.join(isp.ALGORITHMS[step])}, got {name!r}")


def processing(mode: str, algorithms: Mapping[str, str | None]) -> Callable[[isp.Camera | None], nnx.Module]:
    """What makes a camera's pipeline.

    Args:
        mode: "parametrized" is the differentiable pipeline, started at the camera's figures; "static" one of classical
            algorithms; "none" takes one RGB pixel from each 2x2 tile of the mosaic, at half size, and of images without
            a camera all as they are. The network of "neural_network" needs more than a camera: `NeuralProcessor`.
        algorithms: the values of `STATIC_FLAGS`, None where not given.

    Raises:
        InputError: as `check_processing`.
    """
    check_processing(mode, algorithms)
    if mode == "parametrized":
        return isp.parametrized
    if mode == "static":
        chosen = {step: algorithms.get(flag) or default for flag, (step, default) in STATIC_FLAGS.items()}
        return lambda camera: isp.static(camera, **chosen)
    return half_size


def half_size(camera: isp.Camera | None) -> nnx.Module:
    """What takes one RGB pixel from each 2x2 tile of a camera's mosaic; without a camera, images as they are."""
    if camera is None:
        return Unprocessed()
    return isp.Pipeline([isp.Stage("demosaic", isp.bayer.half_size, options=(("pattern", camera.pattern),))], {})
