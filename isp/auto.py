"""Adds auto exposure and auto white balance to any pipeline."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Shaped

from isp import cfa, color, metering, repair, stages
from isp._fusion import steps
from isp.camera import Camera
from isp.metering import METERING, Part
from isp.pipeline import Pipeline
from isp.stage import Stage

# The powers of the mean that are tried: gray world, shades of gray, and nearly the brightest zone.
_POWERS = (1.0, 6.0, 20.0)


def metered(
    pipeline: Pipeline,
    camera: Camera,
    *,
    exposure: bool = True,
    white_balance: bool = True,
    like: Shaped[Array | np.ndarray, "images height width"] | Part | None = None,
) -> Pipeline:
    """Returns a pipeline that meters each raw image first, see `isp.metering`.

    The first stages become `auto_white_balance` and `auto_exposure`, which undo changes of the light and of the
    sensor's gains. Only `isp.repair.defects`, whose threshold is a fraction of white, comes before them. The rest of
    the pipeline, wrong gains included, acts as before. If it makes saturated areas white, metering leaves them white.

    Args:
        camera: The camera, whose black level stays.
        exposure: Whether to meter the level.
        white_balance: Whether to meter the color. Ignored without color filters.
        like: Raw images whose mean level and color (on a log scale) become the target, so similar images change little.
            Each power is then 1, 6 or 20, whichever makes the levels of these images most alike. If None, gray cards
            become 18% of white, the camera's gains define the neutral color, and the power is 6.

    Example:
        >>> camera = isp.CAMERAS["drone"]
        >>> pipeline = isp.metered(isp.parametrized(camera), camera)
        >>> pipeline.stage_names[:3]
        ('auto_white_balance', 'auto_exposure', 'demosaic')
        >>> raw = np.random.default_rng(0).random((16, 16), np.float32) / 3
        >>> black = isp.cfa.black_levels(np.array(camera.black_level), camera.pattern, 16, 16)
        >>> bool(jnp.allclose(pipeline(black + raw), pipeline(black + raw / 2), atol=1e-3))
        True
    """
    target, neutral, powers = (None, None, (6.0, 6.0)) if like is None else _levels_of(like, camera)
    made = (
        [stages.auto_white_balance(camera, neutral, powers[1])] if white_balance and camera.pattern != cfa.MONO else []
    )
    made += [stages.auto_exposure(camera, target, powers[0])] if exposure else []
    return _before_all_but_repairs(pipeline, made)


def metered_like(pipeline: Pipeline, other: Pipeline) -> Pipeline:
    """Returns a pipeline that meters each raw image as another pipeline does; unchanged if the other does not meter.

    Args:
        other: The pipeline whose first stages may have been added by `metered`.
    """
    made = [stage.starting_at(other.parameters()) for stage in other.stages if stage.function in METERING.values()]
    return _before_all_but_repairs(pipeline, made)


def _before_all_but_repairs(pipeline: Pipeline, made: Sequence[Stage]) -> Pipeline:
    """Puts metering stages first, behind the repair of defects; they keep white if a stage makes saturated areas so."""
    if not made:
        return pipeline
    values = pipeline.parameters()
    kept = [stage.starting_at(values) for stage in pipeline.stages]
    repairs = [stage for stage in kept if stage.function is repair.defects]
    keeps_white = any(map(_makes_saturated_white, kept))
    for stage in made:
        options = {name: option for name, option in stage.options.items() if name != "keeps_white"}
        options |= {"keeps_white": True} if keeps_white else {}
        repairs.append(dataclasses.replace(stage, options=options))
    return Pipeline([*repairs, *(stage for stage in kept if stage.function is not repair.defects)])


def _makes_saturated_white(stage: Stage) -> bool:
    by_option = {color.balance_mosaic: "clip", steps.balance: "mode"}
    return bool(stage.options.get(by_option.get(stage.function, "")))


def _levels_of(raws: Array | np.ndarray | Part, camera: Camera) -> tuple[float, list[float], tuple[float, float]]:
    """Measures the level and the color of images, and chooses the powers of the means of both."""
    raws = raws.frame if isinstance(raws, Part) else raws
    exposures, colors = {}, {}
    for power in _POWERS:
        found = metering.levels(raws, power, black_level=tuple(camera.black_level), pattern=camera.pattern)
        levels = np.maximum(np.asarray(found, np.float64), 1e-6)
        exposures[power] = np.log((levels**power).mean(1)) / power
        green = levels[:, min(1, levels.shape[1] - 1)]
        colors[power] = np.log(levels / green[:, None])
    powers = (
        min(_POWERS, key=lambda power: exposures[power].std()),
        min(_POWERS, key=lambda power: colors[power].std(0).sum()),
    )
    return float(np.exp(exposures[powers[0]].mean())), np.exp(colors[powers[1]].mean(0)).tolist(), powers
