"""Adds auto exposure and auto white balance to any pipeline."""

import numpy as np
from jaxtyping import Array, Shaped

from isp import cfa, metering, stages
from isp.camera import Camera
from isp.pipeline import Pipeline

# The functions of metering stages, by the arguments of `metered`.
METERING = {"exposure": metering.auto_exposure, "white_balance": metering.auto_white_balance}

# The powers of the mean that are tried: gray world, shades of gray, and nearly the brightest zone.
_POWERS = (1.0, 6.0, 20.0)


def metered(
    pipeline: Pipeline,
    camera: Camera,
    *,
    exposure: bool = True,
    white_balance: bool = True,
    like: Shaped[Array | np.ndarray, "images height width"] | None = None,
) -> Pipeline:
    """Returns a pipeline that meters each raw image first, see `isp.metering`.

    The first stages become `auto_white_balance` and `auto_exposure`, which undo changes of the light and of the
    sensor's gains. The rest of the pipeline, wrong gains included, acts as before.

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
    if exposure:
        stage = stages.auto_exposure(camera, target, powers[0])
        pipeline = pipeline.inserted(stage, before=pipeline.stage_names[0])
    if white_balance and camera.pattern != cfa.MONO:
        stage = stages.auto_white_balance(camera, neutral, powers[1])
        pipeline = pipeline.inserted(stage, before=pipeline.stage_names[0])
    return pipeline


def metered_like(pipeline: Pipeline, other: Pipeline) -> Pipeline:
    """Returns a pipeline that meters each raw image as another pipeline does; unchanged if the other does not meter.

    Args:
        other: The pipeline whose first stages may have been added by `metered`.
    """
    for stage in reversed([stage for stage in other.stages if stage.function in METERING.values()]):
        pipeline = pipeline.inserted(stage.starting_at(other.parameters()), before=pipeline.stage_names[0])
    return pipeline


def _levels_of(raws: Array | np.ndarray, camera: Camera) -> tuple[float, list[float], tuple[float, float]]:
    """Measures the level and the color of images, and chooses the powers of the means of both."""
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
