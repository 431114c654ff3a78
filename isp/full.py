"""A modern pipeline in a camera's usual order, in which every parameter can be learned."""

import dataclasses

import numpy as np

from isp import cfa, stages
from isp.camera import Camera
from isp.pipeline import Pipeline
from isp.stage import Stage


def full(camera: Camera, *, half_size: bool = False) -> Pipeline:
    """Builds a modern pipeline from a camera's calibration values.

    The stages are

    - `black_level`: subtracts `black_level`, as in `isp.Camera`, and keeps white at 1;
    - `defects`: replaces sites that differ from all of their neighbors by more than `defect_threshold ()`;
    - `white_balance`: applies the gains `white_balance (3,)` and clips at the smallest, so that saturated areas are
      white;
    - `demosaic`: interpolates Bayer mosaics by the method of Malvar, He and Cutler (2004), and others by
      `demosaic.normalized`;
    - `color_correct`: applies the matrix `colour_correction (3, 3)`;
    - `saturation`: multiplies U and V by `saturation ()`;
    - `local_tone_map`: removes the fraction `tone_strength ()` of large contrasts, and multiplies small ones by
      `tone_detail ()`;
    - `srgb`: applies the tone curve of sRGB;
    - `contrast`: stretches values away from `contrast_pivot ()` by `contrast ()`;
    - `curve`: a tone curve of 4 segments, `curve (4,)`, which starts as a straight line;
    - `clipped`: clips to [0, 1];
    - `chroma_denoising`: smooths U and V with a Gaussian of `chroma_sigma ()` pixels;
    - `sharpening`: adds `amount ()` of the detail finer than `radius ()` pixels to the luma;
    - `output_clipped`: clips to [0, 1].

    Without color filters, there are no color stages.

    A negative camera gain is made positive, and the matrix negates the channel instead, which gives the same colors.
    Positive gains are the levels at which the colors saturate.

    Args:
        half_size: Whether `demosaic` turns each block of sites into one pixel, as `demosaic.binned` does.
    """
    positive = with_positive_gains(camera)
    has_colors = positive.pattern != cfa.MONO
    balance, matrix = stages.mosaic_white_balance(positive), stages.color_correct(positive)
    if positive != camera:
        balance, matrix = _on_their_own(balance), _on_their_own(matrix)
    made = [
        stages.black_level(positive),
        stages.defects(positive.pattern),
        *([balance] if has_colors else []),
        _demosaic(positive.pattern, half_size),
        *([matrix, stages.saturation(1.1)] if has_colors else []),
        stages.local_tone_map(0.15),
        stages.srgb(),
        stages.contrast(1.05),
        stages.curve(),
        stages.clipped(),
        # The stages from here on work on display values, because in linear light a bright pixel's color would swamp its
        # dark neighbors. Three standard deviations hold 99.7 % of a Gaussian.
        *([stages.chroma_denoising(1.5, size=9)] if has_colors else []),
        stages.unsharp_masking(radius=1.0, amount=0.5, name="sharpening"),
        stages.clipped("output_clipped"),
    ]
    return Pipeline(made)


def _demosaic(pattern: str, half_size: bool) -> Stage:
    if half_size:
        return stages.binned(pattern, name="demosaic")
    if cfa.is_bayer(pattern):
        return stages.malvar2004(pattern, "mirror", name="demosaic")
    return stages.normalized(pattern, name="demosaic")


def with_positive_gains(camera: Camera) -> Camera:
    """Makes all gains of a camera positive, by moving the signs of negative ones into the color matrix."""
    gains = np.array(camera.white_balance)
    matrix = np.array(camera.color_matrix) * np.sign(gains)
    return dataclasses.replace(camera, white_balance=np.abs(gains), color_matrix=matrix)


def _on_their_own(stage: Stage) -> Stage:
    """Returns the stage with parameters that declare no `camera` field to start from."""
    parameters = {name: dataclasses.replace(each, camera=None) for name, each in stage.parameters.items()}
    return dataclasses.replace(stage, parameters=parameters)
