"""Makers of stages for pipelines of your own: each returns an `isp.Stage` whose parameters declare their ranges.

The stages of `isp.full` come from here. Their parameters have names of their own, so that all of them fit into one
pipeline; a stage that is needed twice takes another `name`, and `dataclasses.replace` renames its parameters.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from isp import balance, camera_parameters, cfa, chroma, color, local_tone, repair, shading, tone
from isp._engine import checks, curves, planes, reaches
from isp.camera import Camera
from isp.highlights import MODES, Mode, highlights
from isp.parameter import Parameter
from isp.stage import Stage

# The quarters of the range of display values.
_RANGES = ("shadows", "darks", "lights", "highlights")


def black_level(camera: Camera, rescale: bool = True) -> Stage:
    """Makes the stage `black_level`, which subtracts the black level of each site.

    Args:
        camera: The camera, whose `black_level` is the start of the parameter of this name.
        rescale: Whether to keep white at 1.

    Returns:
        The stage, for mosaics.

    Example:
        >>> import isp
        >>> list(isp.stages.black_level(isp.CAMERAS["drone"]).parameters)
        ['black_level']
    """
    parameters = {"black_level": camera_parameters.black_level(camera)}
    options: dict[str, str | bool] = {"rescale": rescale}
    if not cfa.is_bayer(camera.pattern):
        options["pattern"] = camera.pattern
    return Stage("black_level", cfa.subtract_black_level, parameters, options, reach=0)


def defects(pattern: str = "RGGB", threshold: float = 0.1) -> Stage:
    """Makes the stage `defects`, which repairs sites that are always bright or always dark.

    Args:
        pattern: The colors of a tile, see `isp.cfa`.
        threshold: The start of the parameter `defect_threshold`. Up to twice the start, sites are gradually replaced,
            so that it can be learned. Sites must differ from each of their neighbors, which spares fine lines.

    Returns:
        The stage, for mosaics.

    Example:
        >>> import isp
        >>> isp.stages.defects("BGGR").options["pattern"]
        'BGGR'
    """
    parameter = Parameter(threshold, scale="log", unit="fraction of white")
    options = {"pattern": pattern, "softness": threshold, "lone": True}
    return Stage("defects", repair.defects, {"defect_threshold": parameter}, options, reaches.of_defects)


def lens_shading(pattern: str | None = None, coefficients: ArrayLike | None = None) -> Stage:
    """Makes the stage `shading`, which brightens the corners.

    Args:
        pattern: The colors of a tile, see `isp.cfa`, for mosaics. If None, the stage is for images.
        coefficients: The start of the parameter `shading (3, 3)`; see `isp.shading.correct`. If None, zeros, which
            change nothing.

    Returns:
        The stage.

    Example:
        >>> import isp
        >>> stage = isp.stages.lens_shading()
        >>> isp.parametrized(isp.CAMERAS["drone"]).inserted(stage, after="color_correct").shading[...].shape
        (3, 3)
    """
    labels = tuple(f"{channel}_r{power}" for channel in camera_parameters.COLORS for power in (2, 4, 6))
    start = np.zeros((3, 3)) if coefficients is None else coefficients
    parameter = Parameter(start, width=0.5, labels=labels, unit="gain")
    return Stage("shading", shading.correct, {"shading": parameter}, {"pattern": pattern})


def white_balance(camera: Camera, highlights: Mode | None = "clip") -> Stage:
    """Makes the stage `white_balance` for images, which applies the gains and makes saturated pixels neutral.

    Args:
        camera: The camera, whose `white_balance` is the start of the parameter of this name.
        highlights: "clip" or "desaturate"; see `isp.color.highlights`. None leaves saturated pixels colored.

    Returns:
        The stage, for images.

    Raises:
        ValueError: If `highlights` has another value, or if it is given and a gain is negative.

    Example:
        >>> import isp
        >>> isp.stages.white_balance(isp.CAMERAS["drone"], "desaturate").options["mode"]
        'desaturate'
    """
    _check_gains(camera, highlights is not None)
    if highlights is not None and highlights not in MODES:
        raise ValueError(f"highlights must be one of {', '.join(MODES)}, got {highlights!r}")
    parameters = {"white_balance": camera_parameters.white_balance(camera)}
    return Stage("white_balance", _balanced, parameters, {"mode": highlights}, reach=0)


def mosaic_white_balance(camera: Camera, clip: bool = True) -> Stage:
    """Makes the stage `white_balance` for mosaics, which applies the gains before demosaicing.

    Args:
        camera: The camera, whose `white_balance` is the start of the parameter of this name.
        clip: Whether to clip at the least gain, which makes saturated areas white.

    Returns:
        The stage, for mosaics.

    Raises:
        ValueError: If a gain is negative although values are clipped.

    Example:
        >>> import isp
        >>> list(isp.stages.mosaic_white_balance(isp.CAMERAS["drone"]).parameters)
        ['white_balance']
    """
    _check_gains(camera, clip)
    parameters = {"white_balance": camera_parameters.white_balance(camera)}
    options = {"pattern": camera.pattern, "clip": clip}
    return Stage("white_balance", balance.balance_mosaic, parameters, options, reach=0)


def auto_white_balance(camera: Camera | None = None, power: float = 6.0, share: float = 0.5) -> Stage:
    """Makes the stage `auto_white_balance`, which estimates the gains from the image.

    Args:
        camera: The camera, with whose gains the estimate is mixed. If None, only the estimate counts.
        power: The start of the parameter `gray_power`: 1 for the gray world, great for the white patch.
        share: The start of the parameter `estimate_share`, the weight of the estimate; only with a camera.

    Returns:
        The stage, for images. With a camera, it also has the parameter `white_balance`.

    Raises:
        ValueError: If one of the camera's gains is negative.

    Example:
        >>> import isp
        >>> list(isp.stages.auto_white_balance(isp.CAMERAS["drone"]).parameters)
        ['gray_power', 'white_balance', 'estimate_share']
    """
    parameters = {"gray_power": Parameter(power, scale="log", low=0.1, high=100, unit="power")}
    if camera is not None:
        _check_gains(camera, True)
        parameters["white_balance"] = camera_parameters.white_balance(camera)
        parameters["estimate_share"] = Parameter(share, width=0.5, low=0, high=1, unit="share")
    return Stage("auto_white_balance", color.auto_white_balance, parameters)


def color_correct(camera: Camera) -> Stage:
    """Makes the stage `color_correct`, which applies the color matrix.

    Args:
        camera: The camera, whose `color_matrix` is the start of the parameter `colour_correction`.

    Returns:
        The stage, for images.

    Example:
        >>> import isp
        >>> list(isp.stages.color_correct(isp.CAMERAS["drone"]).parameters)
        ['colour_correction']
    """
    parameters = {"colour_correction": camera_parameters.color_matrix(camera)}
    return Stage("color_correct", color.color_correct, parameters, reach=0)


def chroma_denoising(sigma: float = 1.5) -> Stage:
    """Makes the stage `chroma_denoising`, which smooths U and V.

    Args:
        sigma: The start of the parameter `chroma_sigma`, in pixels. The side of the window follows from it.

    Returns:
        The stage, for images.

    Raises:
        ValueError: If `sigma` is not positive.

    Example:
        >>> import isp
        >>> isp.stages.chroma_denoising(1.5).options
        {'size': 9}
    """
    checks.check_positive("sigma", sigma)
    # Three standard deviations hold 99.7 % of a Gaussian.
    options = {"size": 2 * int(3 * sigma) + 1}
    parameter = Parameter(sigma, scale="log", unit="pixels")
    return Stage("chroma_denoising", chroma.chroma_denoising, {"chroma_sigma": parameter}, options, reaches.of_window)


def saturation(amount: float = 1.0) -> Stage:
    """Makes the stage `saturation`, which moves colors away from gray.

    Args:
        amount: The start of the parameter `saturation`; 1 changes nothing.

    Returns:
        The stage, for images.

    Example:
        >>> import isp
        >>> isp.stages.saturation(1.2).parameters["saturation"].value
        1.2
    """
    parameters = {"saturation": Parameter(amount, scale="log", unit="factor")}
    return Stage("saturation", color.saturation, parameters, reach=0)


def local_tone_map(strength: float = 0.3, detail: float = 1.0) -> Stage:
    """Makes the stage `local_tone_map`, which brightens dark areas and keeps their detail.

    Args:
        strength: The start of the parameter `tone_strength`, in [0, 1].
        detail: The start of the parameter `tone_detail`.

    Returns:
        The stage, for images in linear light.

    Example:
        >>> import isp
        >>> list(isp.stages.local_tone_map().parameters)
        ['tone_strength', 'tone_detail']
    """
    parameters = {
        "tone_strength": Parameter(strength, width=0.3, low=0, high=1, unit="fraction of contrast"),
        "tone_detail": Parameter(detail, scale="log", unit="factor"),
    }
    return Stage("local_tone_map", local_tone.local_tone_map, parameters, reach=reaches.of_local_tone_map)


def srgb() -> Stage:
    """Makes the stage `srgb`, which applies the tone curve of sRGB.

    Returns:
        The stage, for images in linear light.

    Example:
        >>> import isp
        >>> isp.stages.srgb().parameters
        {}
    """
    return Stage("srgb", tone.srgb, reach=0)


def contrast(amount: float = 1.0, pivot: float = 0.5) -> Stage:
    """Makes the stage `contrast`, which stretches values away from a pivot.

    Args:
        amount: The start of the parameter `contrast`; 1 changes nothing.
        pivot: The start of the parameter `contrast_pivot`, the value that stays.

    Returns:
        The stage, for images.

    Example:
        >>> import isp
        >>> list(isp.stages.contrast(1.1).parameters)
        ['contrast', 'contrast_pivot']
    """
    parameters = {
        "contrast": Parameter(amount, scale="log", unit="factor"),
        "contrast_pivot": Parameter(pivot, width=0.5, low=0, high=1, unit="fraction of white"),
    }
    return Stage("contrast", tone.contrast, parameters, reach=0, fused_after={(tone.srgb, 0): _srgb_contrast})


def curve(segments: int = 4) -> Stage:
    """Makes the stage `curve`, a tone curve that can be learned and rises everywhere.

    Args:
        segments: The number of straight segments, whose equal rises change nothing at first. Four of them are named
            shadows, darks, lights and highlights.

    Returns:
        The stage, for images.

    Raises:
        ValueError: If there is no segment.

    Example:
        >>> import isp
        >>> isp.stages.curve().parameters["curve"].labels
        ('shadows', 'darks', 'lights', 'highlights')
    """
    if segments < 1:
        raise ValueError(f"segments must be at least 1, got {segments}")
    labels = _RANGES if segments == len(_RANGES) else None
    parameters = {"curve": Parameter(np.zeros(segments), width=1, labels=labels, unit="log rise")}
    return Stage("curve", tone.curve, parameters, reach=0, fused_after={(_srgb_contrast, 2): _srgb_contrast_curve})


def clipped(name: str = "clipped", low: float = 0.0, high: float = 1.0) -> Stage:
    """Makes a stage that clips to a range.

    Args:
        name: The name of the stage.
        low: The least value.
        high: The greatest value.

    Returns:
        The stage, for mosaics and images.

    Example:
        >>> import isp
        >>> isp.stages.clipped().options
        {'low': 0.0, 'high': 1.0}
    """
    options = {"low": low, "high": high}
    return Stage(name, _clip, options=options, reach=0, fused_after={(_srgb_contrast_curve, 3): _all_curves})


def _check_gains(camera: Camera, needed: bool) -> None:
    if needed and min(np.asarray(camera.white_balance)) < 0:
        raise ValueError(
            "white_balance must have positive gains, which are the levels at which colors saturate, got "
            f"{camera.white_balance}"
        )


def _balanced(rgb: Array, gains: Array, mode: Mode | None) -> Array:
    balanced = color.white_balance(rgb, gains)
    return balanced if mode is None else highlights(balanced, gains, mode)


def _clip(image: Array, low: float, high: float) -> Array:
    return jnp.clip(image, low, high)


def _srgb_contrast(rgb: Array, amount: Array, pivot: Array) -> Array:
    return tone.contrast(tone.srgb(rgb), amount, pivot)


def _srgb_contrast_curve(rgb: Array, amount: Array, pivot: Array, rises: Array) -> Array:
    return tone.curve(_srgb_contrast(rgb, amount, pivot), rises)


def _all_curves(rgb: Array, amount: Array, pivot: Array, rises: Array, low: float, high: float) -> Array:
    """Computes `srgb`, `contrast`, `curve` and `clipped` in one pass, with the channels apart."""
    shares = curves.shares(rises, rgb.dtype)
    return jnp.stack(curves.all_at_once(planes.split(rgb), amount, pivot, shares, low, high), -1)
