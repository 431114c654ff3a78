"""Decides which stages of a pipeline are computed together, and which in patches.

The tables are keyed by stage functions, so stages declare nothing about speed. User functions can declare with
`isp.local` how far they look.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from jaxtyping import Array

from isp import cfa, color, demosaic, denoise, repair, sharpen, tone
from isp._fusion import steps
from isp._kernels import menon, neighbors, tiling
from isp.stage import DISTANCE, Stage

# Patches of an image start at multiples of this, which keeps the tiles of all real color filter arrays whole.
PERIOD = 12

# Neighboring stages that are computed together.
Work = tuple[Stage, ...]


def compute(stages: Sequence[Stage], parameters: Mapping[str, Array], mosaics: Array) -> Array:
    """Computes all stages of mosaics `(batch, H, W)`."""

    def process(image: Array) -> Array:
        for is_local, group in itertools.groupby(_works(stages), lambda work: _distance(work, parameters) is not None):
            works = tuple(group)
            run = functools.partial(_run, works)
            used = {name: parameters[name] for work in works for stage in work for name in stage.parameters}
            if is_local:
                distance = sum(_distance(work, parameters) or 0 for work in works)
                image = tiling.by_patches(run, used, image, distance, PERIOD)
            else:
                image = run(used, image)
        return image

    return tiling.each_image(process, mosaics)


def distance(stage: Stage, parameters: Mapping[str, Array]) -> int | None:
    """Computes how far a pixel can influence the result; None if unlimited, or if no patch holds whole tiles."""
    known = _DISTANCES.get(stage.function)
    declared: int | Callable[..., int | None] | None = getattr(stage.function, DISTANCE, known)
    pattern = stage.options.get("pattern")
    if isinstance(pattern, str) and any(PERIOD % side for side in cfa.tile(pattern).shape):
        return None
    if not callable(declared):
        return declared
    return declared(*(parameters[name] for name in stage.parameters), **stage.options)


def _distance(work: Work, parameters: Mapping[str, Array]) -> int | None:
    distances = [distance(stage, parameters) for stage in work]
    return None if None in distances else sum(each or 0 for each in distances)


def _works(stages: Sequence[Stage]) -> list[Work]:
    """Groups stages greedily from the first, as many at a time as one function can compute together."""
    works, rest = [], tuple(stages)
    while rest:
        count = next((n for n in (4, 2) if _signature(rest[:n]) in _TOGETHER), 1)
        works.append(rest[:count])
        rest = rest[count:]
    return works


def _signature(work: Work) -> tuple[Hashable, ...]:
    return tuple((stage.function, len(stage.parameters), *sorted(stage.options)) for stage in work)


def _run(works: Sequence[Work], parameters: Mapping[str, Array], image: Array) -> Array:
    for work in works:
        function = work[0].function if len(work) == 1 else _TOGETHER[_signature(work)]
        values = [parameters[name] for stage in work for name in stage.parameters]
        options = {name: value for stage in work for name, value in stage.options.items()}
        with naming(*work):
            image = function(image, *values, **options)
    return image


@contextlib.contextmanager
def naming(*stages: Stage) -> Iterator[None]:
    """Adds the names of stages to an error that one of them raises."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the stage {' or '.join(stage.name for stage in stages)} of the pipeline")
        raise


# Functions that compute four or two stages faster. Each stage is listed with its number of parameters and its options,
# since an edited stage may have others. A function takes the image, and the parameters and options of all its stages.
_TOGETHER: dict[tuple[Hashable, ...], Callable[..., Array]] = {
    ((steps.spread_above_black, 1, "pattern"), (steps.interpolate_and_correct, 3)): steps.mosaic_to_rgb,
    ((sharpen.sharpening_filter, 1), (denoise.filter_luma, 1)): steps.filter_luma_twice,
    (
        (sharpen.sharpening_filter, 1),
        (denoise.filter_luma, 1),
        (steps.clip, 0, "high", "low"),
        (color.gamma_correct, 1),
    ): steps.filter_clip_and_correct,
    ((steps.clip, 0, "high", "low"), (color.gamma_correct, 1)): steps.clip_and_correct,
}


def _of_kernel(kernel: Array | None = None, *_: Array, **__: object) -> int | None:
    return None if kernel is None else max(kernel.shape[-2:]) // 2


def _of_window(*_: Array, size: int | None = None, **__: object) -> int | None:
    return None if size is None else size // 2


def _of_similar_patches(*_: Array, patch_size: int = 7, patch_distance: int = 11, **__: object) -> int:
    return patch_distance + patch_size // 2


def _of_defects(*_: Array, pattern: str = "RGGB", **__: object) -> int:
    return neighbors.reach(cfa.tile(pattern))


def _of_local_tone_map(*_: Array, size: int = 9, cell: int = 4, **__: object) -> int | None:
    """Computes the combined reach of two means over windows of cells, the interpolation and the pixel's cell."""
    return None if PERIOD % cell else (2 * (size // 2) + 2) * cell


# How many rows or columns away a pixel can influence the result, or a function of the stage's parameters and options.
# All other functions get the whole image.
_DISTANCES: dict[Callable[..., Array], int | Callable[..., int | None]] = {
    cfa.subtract_black_level: 0,
    cfa.spread: 0,
    color.balance_mosaic: 0,
    color.color_correct: 0,
    color.gamma_correct: 0,
    color.saturation: 0,
    color.white_balance: 0,
    demosaic.bilinear: 2,
    demosaic.malvar2004: 2,
    demosaic.menon2007: menon.REACH,
    demosaic.normalized: _of_kernel,
    denoise.chroma_denoising: _of_window,
    denoise.filter_luma: _of_kernel,
    denoise.gaussian_denoising: _of_window,
    denoise.median_denoising: _of_window,
    denoise.nlm_denoising: _of_similar_patches,
    repair.defects: _of_defects,
    sharpen.sharpening_filter: _of_kernel,
    sharpen.unsharp_masking: _of_window,
    sharpen.unsharp_masking_vertical: _of_window,
    steps.balance: 0,
    steps.balance_and_correct: 0,
    steps.clip: 0,
    steps.fill_and_correct: _of_kernel,
    steps.interpolate_and_correct: _of_kernel,
    steps.spread_above_black: 0,
    steps.unchanged: 0,
    tone.contrast: 0,
    tone.curve: 0,
    tone.local_tone_map: _of_local_tone_map,
    tone.srgb: 0,
}
