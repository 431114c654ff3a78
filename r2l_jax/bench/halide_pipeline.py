"""The parametrized pipeline with batch norm in Halide: how fast a CPU is when a person arranges its work.

The algorithm defines the results; the schedule defines order, memory and cores.

J. Ragan-Kelley et al., "Halide: a language and compiler for optimizing parallelism, locality, and recomputation in
image processing pipelines" (2013). R. Mullapudi et al., "Automatically scheduling Halide image processing pipelines"
(2016).
"""

import os
import pathlib
from typing import Any, NamedTuple

import halide as hl  # pyright: ignore[reportMissingImports]  # Optional.
import numpy as np

import isp
from isp.filter import gaussian_kernel
from r2l_jax.bench.inputs import CAMERA, GAMMA
from r2l_jax.bench.timing import Call

# The values in a vector of AVX-512.
_LANES = 16

_x, _y, _batch, _channel = (hl.Var(name) for name in ("x", "y", "batch", "channel"))


def parametrized_forward(raw: np.ndarray, by_hand: bool) -> Call:
    """Prepares to render RGGB mosaics `(B, H, W)`, of a width that is a multiple of 16, to images `(B, 3, H, W)`.

    Args:
        raw: the mosaics.
        by_hand: schedules by hand, rather than by Halide's autoscheduler of 2016.
    """
    batch, height, width = raw.shape
    functions = _algorithm(raw)
    pipeline = hl.Pipeline(functions.normalized)
    if by_hand:
        _schedule(functions)
    else:
        libraries = pathlib.Path(str(hl.__file__)).parent / "lib64"
        hl.load_plugin(str(libraries / "libautoschedule_mullapudi2016.so"))
        functions.normalized.set_estimates([(0, width), (0, height), (0, 3), (0, batch)])
        cores = hl.AutoschedulerParams("Mullapudi2016", {"parallelism": str(os.cpu_count())})
        pipeline.apply_autoscheduler(hl.get_jit_target_from_environment(), cores)
    images = hl.Buffer(hl.Float(32), [width, height, 3, batch])

    def forward() -> np.ndarray:
        pipeline.realize(images)
        return np.asarray(images)

    return forward


class _Functions(NamedTuple):
    """The steps of the algorithm, from the first to the last."""

    matrix: hl.Func
    taps: hl.Func
    mirrored: hl.Func
    light: hl.Func
    yuv: hl.Func
    luma: hl.Func
    sharp: hl.Func
    mirrored_sharp: hl.Func
    denoised: hl.Func
    toned: hl.Func
    sums: hl.Func
    mean: hl.Func
    squares: hl.Func
    scale: hl.Func
    normalized: hl.Func


def _algorithm(raw: np.ndarray) -> _Functions:
    _, height, width = raw.shape
    black_level, gains, color_matrix, to_yuv, to_rgb, debayer, sharpening, blur, gamma = (
        hl.Buffer(np.array(values, np.float32))
        for values in (
            *(CAMERA.black_level, CAMERA.white_balance, CAMERA.color_matrix),
            *(isp.color.RGB_TO_YUV, isp.color.YUV_TO_RGB, isp.demosaic.BILINEAR_KERNEL),
            *(isp.sharpen.SHARPENING_KERNEL, gaussian_kernel(0.5, 5), [GAMMA]),
        )
    )
    inside = [(0, width), (0, height)]

    # White balance, color matrix and the matrix to YUV as one.
    matrix = _function(
        "matrix", (_x, _channel), sum(to_yuv[k, _channel] * color_matrix[_x, k] for k in range(3)) * gains[_x]
    )
    # Demosaicing and this matrix as one: for a site in a row and a column, the weight of each of its neighbors. Every
    # column of a vector has its own entry, so that weights are read as vectors.
    tap, row, col = hl.Var("tap"), hl.Var("row"), hl.Var("col")
    color = (col + tap % 3 + 1) % 2 + (row + tap // 3 + 1) % 2
    weights = sum(matrix[k, _channel] * debayer[tap % 3, tap // 3, color, k] for k in range(3))
    taps = _function("taps", (col, tap, _channel, row), weights)

    mirrored = hl.BoundaryConditions.mirror_interior(hl.Buffer(np.ascontiguousarray(raw)), inside)
    light = _function("light", (_x, _y, _batch), mirrored[_x, _y, _batch] - black_level[_x % 2 + 2 * (_y % 2)])
    interpolated = sum(
        taps[_x % _LANES, 3 * row + col, _channel, _y % 2] * light[_x + col - 1, _y + row - 1, _batch]
        for row in range(3)
        for col in range(3)
    )
    yuv = _function("yuv", (_x, _y, _channel, _batch), interpolated)

    within = (_x >= 0) & (_x < width) & (_y >= 0) & (_y < height)
    luma_inside = yuv[hl.clamp(_x, 0, width - 1), hl.clamp(_y, 0, height - 1), 0, _batch]
    luma = _function("luma", (_x, _y, _batch), hl.select(within, luma_inside, 0.0))
    sharp = _function("sharp", (_x, _y, _batch), _filtered(luma, sharpening, 3))
    reflected = hl.BoundaryConditions.mirror_interior(sharp, inside)
    mirrored_sharp = _function("mirrored_sharp", (_x, _y, _batch), reflected[_x, _y, _batch])
    denoised = _function("denoised", (_x, _y, _batch), _filtered(mirrored_sharp, blur, 5))

    channels = (denoised[_x, _y, _batch], yuv[_x, _y, 1, _batch], yuv[_x, _y, 2, _batch])
    rgb = sum(to_rgb[k, _channel] * channel for k, channel in enumerate(channels))
    toned = _function(
        "toned", (_x, _y, _channel, _batch), hl.exp(hl.log(hl.clamp(rgb, hl.f32(1e-5), hl.f32(1))) / gamma[0])
    )

    # Batch norm: deviations from the mean are squared and summed in a second pass, which loses no digits.
    site = hl.RDom(inside)
    value = toned[site.x, site.y, _channel, _batch]
    sums = _summed("sums", value)
    mean = _function("mean", (_channel,), _mean(sums, raw))
    squares = _summed("squares", (value - mean[_channel]) * (value - mean[_channel]))
    scale = _function("scale", (_channel,), 1 / hl.sqrt(_mean(squares, raw) + hl.f32(1e-5)))
    normalized = _function(
        "normalized",
        (_x, _y, _channel, _batch),
        (toned[_x, _y, _channel, _batch] - mean[_channel]) * scale[_channel],
    )
    return _Functions(
        *(matrix, taps, mirrored, light, yuv, luma, sharp, mirrored_sharp, denoised),
        *(toned, sums, mean, squares, scale, normalized),
    )


def _function(name: str, variables: tuple[hl.Var, ...], value: Any) -> hl.Func:
    function = hl.Func(name)
    function[variables] = value
    return function


def _summed(name: str, value: Any) -> hl.Func:
    """Sums a value over the pixels of each channel and image."""
    sums = hl.Func(name)
    sums[_channel, _batch] = 0.0
    sums[_channel, _batch] += value
    return sums


def _mean(sums: hl.Func, raw: np.ndarray) -> Any:
    return sum(sums[_channel, index] for index in range(len(raw))) / hl.f32(raw.size)


def _filtered(plane: hl.Func, kernel: hl.Buffer, size: int) -> Any:
    return sum(
        kernel[col, row] * plane[_x + col - size // 2, _y + row - size // 2, _batch]
        for row in range(size)
        for col in range(size)
    )


def _schedule(functions: _Functions) -> None:
    """Computes image by image, on all cores: the planes of one stay in the cache. Then normalizes all of them."""
    f = functions
    for small in (f.matrix, f.taps, f.mean, f.scale):
        small.compute_root()
    f.toned.compute_root().bound(_channel, 0, 3).reorder(_channel, _x, _y, _batch).unroll(_channel)
    f.toned.vectorize(_x, _LANES).parallel(_batch)
    for plane in (f.mirrored, f.light, f.luma, f.sharp, f.mirrored_sharp):
        plane.compute_at(f.toned, _batch).vectorize(plane.args()[0], _LANES)
    f.denoised.compute_at(f.toned, _y).vectorize(_x, _LANES)
    # Aligned, so that the colors of the sites in a vector are known when this is compiled.
    f.yuv.compute_at(f.toned, _batch).bound(_channel, 0, 3).align_bounds(_x, _LANES).align_bounds(_y, 2)
    f.yuv.reorder(_channel, _x, _y, _batch).unroll(_channel).vectorize(_x, _LANES).unroll(_y, 2)

    for sums in (f.sums, f.squares):
        # The lanes of each row are summed separately, and then together.
        col, row = sums.rvars()
        outer, lane, lanes, rows = hl.RVar("outer"), hl.RVar("lane"), hl.Var("lanes"), hl.Var("rows")
        parts = sums.update().split(col, outer, lane, _LANES).rfactor([(lane, lanes), (row, rows)])
        parts.compute_at(sums, _batch).vectorize(lanes)
        parts.update().vectorize(lanes)
        sums.compute_root().update().parallel(_batch)
    f.normalized.vectorize(_x, _LANES).parallel(_batch)
