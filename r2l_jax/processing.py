"""The processings that the programs offer, by the flags that choose them."""

from collections.abc import Mapping

from absl import flags

import isp
from r2l_jax.runtime.errors import InputError

PROCESSING_MODES = ("parametrized", "static", "neural_network", "none")

# What begins with one RGB pixel for each 2x2 tile of the mosaic.
HALF_SIZE_MODES = ("neural_network", "none")

# The flags of --processing_mode=static, named as in the published program: what each chooses, and its default there.
STATIC_FLAGS = {
    "sp_debayer": ("demosaic", "bilinear"),
    "sp_sharpening": ("sharpen", "sharpening_filter"),
    "sp_denoising": ("denoise", "gaussian_denoising"),
}

PIPELINE_NAMES = (
    "parametrized, algorithms for demosaicing, sharpening and denoising such as "
    "bilinear.sharpening_filter.median_denoising, or a function make(camera) -> isp.Pipeline of yours, my_isp.py:make"
)


# Of programs that take a finished run.
OWN_PIPELINE = (
    "where the file of the run's pipeline is now, as <file>.py:<function>; its content must be unchanged; default: "
    "where it was in training"
)


def define_processing_flags(modes: list[str], purpose: str) -> None:
    """Defines the flags that choose a processing.

    Args:
        modes: those of `PROCESSING_MODES` that the program offers.
        purpose: what they are.
    """
    flags.DEFINE_enum("processing_mode", None, modes, f"{purpose}; default: parametrized, or what --pipeline names")
    for flag, (step, default) in STATIC_FLAGS.items():
        purpose = f"how --processing_mode=static does {step}; {default} if not given"
        flags.DEFINE_enum(flag, None, list(isp.ALGORITHMS[step]), purpose)
    flags.DEFINE_string(
        "pipeline", None, f"a pipeline by name, instead of --processing_mode and --sp_*: {PIPELINE_NAMES}"
    )


def check_processing(mode: str | None, algorithms: Mapping[str, str | None], pipeline: str | None) -> None:
    """Raises an InputError for an unknown mode or algorithm, or for flags that contradict each other.

    Args:
        mode: one of `PROCESSING_MODES`; None with a pipeline.
        algorithms: the values of `STATIC_FLAGS`, None where not given.
        pipeline: the name of one; None without.
    """
    given = [flag for flag, value in {"processing_mode": mode, **algorithms}.items() if value is not None]
    if pipeline is not None:
        if given:
            raise InputError(f"--pipeline={pipeline} is the processing: leave --{' and --'.join(given)} out")
        return
    if mode not in PROCESSING_MODES:
        raise InputError(f"--processing_mode must be one of {', '.join(PROCESSING_MODES)}, got {mode!r}")
    for flag, name in algorithms.items():
        step, _ = STATIC_FLAGS[flag]
        if name is not None and mode != "static":
            raise InputError(f"--{flag} is for --processing_mode=static, got --processing_mode={mode}")
        if name is not None and name not in isp.ALGORITHMS[step]:
            raise InputError(f"--{flag} must be one of {', '.join(isp.ALGORITHMS[step])}, got {name!r}")


def pipeline_name(mode: str | None, algorithms: Mapping[str, str | None], pipeline: str | None) -> str | None:
    """Names the pipeline that the flags choose, see `pipelines`; None for a mode of `HALF_SIZE_MODES`.

    Args:
        mode: "parametrized", the differentiable pipeline, started at the camera's figures; "static", one of classical
            algorithms; or one of `HALF_SIZE_MODES`.
        algorithms: the values of `STATIC_FLAGS`, None where not given.
        pipeline: the name of one; None without.

    Raises:
        InputError: as `check_processing`.
    """
    if mode is None and pipeline is None:
        mode = "parametrized"
    check_processing(mode, algorithms, pipeline)
    if mode == "static":
        return ".".join(algorithms.get(flag) or default for flag, (_, default) in STATIC_FLAGS.items())
    if mode in HALF_SIZE_MODES:
        return None
    return mode if pipeline is None else pipeline
